"""Speed of sampling: the decoding loop with several samplings, as shares of its greedy speed.

Reads   <data_root>/<dataset>/test.jsonl and a model
Prints  a Markdown table: median tokens per second of the repetitions, and multiples of greedy decoding; the same per
        second of CPU time, which other work on the machine disturbs less

    python scripts/dev/bench_sampling.py --base_model data/models/SmolLM2-135M-Instruct --dataset gsm_symbolic
    python scripts/dev/bench_sampling.py --base_model data/models/SmolLM2-135M-Instruct --dataset gsm_symbolic --vocabulary 151936

--vocabulary N takes only the tokenizer of the model, and a random model of two layers with N entries. It costs next to
nothing, so the table shows the cost of choosing among N entries. Every row writes exactly --max_new_tokens tokens, so all
samplings do the same work. They take turns in one process.
"""

from __future__ import annotations

import logging
import sys
import time
from statistics import median
from tempfile import TemporaryDirectory

from cotkit.core import cli
from cotkit.core.markdown import Table
from cotkit.core.problems import add_test_set_arguments, problem_path, read_problems
from cotkit.generation import chat_model, prompts
from cotkit.generation.types import Request, Sampling

# (temperature, top_p, top_k). The second is Qwen3's without thinking, the last keeps more tokens than are pre-selected.
SETTINGS = [(0.0, 1.0, 0), (0.7, 0.8, 20), (1.0, 1.0, 50), (1.0, 1.0, 0), (0.7, 0.95, 0), (2.0, 0.95, 0)]
HEADER = ["temperature", "top_p", "top_k", "tokens/s", "x", "tokens/CPU s", "x", "seconds of each run"]

Cost = tuple[float, float]  # seconds of wall clock and of CPU time
ROWS = 64
HEAD_SCALE = 40  # makes the scores' standard deviation about 6: some tokens hold most of the probability


def build_parser() -> cli.StageParser:
    parser = cli.StageParser(__doc__, "limit")
    bench = parser.add_argument_group(f"bench; --limit is the number of rows (default {ROWS})")
    add_test_set_arguments(bench)
    bench.add_argument("--base_model", required=True, metavar="NAME", help="hub name or folder")
    bench.add_argument("--vocabulary", type=cli.positive_int, metavar="N", help="a random model with N entries instead")
    bench.add_argument("--max_new_tokens", type=cli.positive_int, default=32, metavar="N", help="default 32")
    bench.add_argument("--repetitions", type=cli.positive_int, default=5, metavar="N", help="default 5")
    return parser


def save_tiny_model(tokenizer_of: str, vocabulary: int, folder: str) -> None:
    """Writes a random Llama of two layers with that tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    chat_model.load_tokenizer(tokenizer_of).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **sizes))
    model.lm_head.weight.data *= HEAD_SCALE
    model.save_pretrained(folder)


def measure(model: str, requests: list[Request], new_tokens: int, repetitions: int) -> list[list[Cost]]:
    """The cost of each repetition, for each of `SETTINGS`, on the CPU in float32."""
    from cotkit.generation.backends.transformers_backend import load
    from cotkit.generation.options import EngineOptions

    decoder = load(EngineOptions("transformers", model, device="cpu"), Sampling(1))
    decoder.turn_ends = set()  # no token ends a text
    costs: list[list[Cost]] = [[] for _ in SETTINGS]
    for repetition in range(repetitions + 1):  # the first is a warm-up
        for (temperature, top_p, top_k), found in zip(SETTINGS, costs, strict=True):
            decoder.sampling = Sampling(new_tokens, temperature, top_p, top_k, stop_at_answer=False)
            begun, used = time.monotonic(), time.process_time()
            written = sum(completion.completion_tokens for _, completion in decoder.generate(requests))
            assert written == new_tokens * len(requests)
            if repetition:
                found.append((time.monotonic() - begun, time.process_time() - used))
    return costs


def table(costs: list[list[Cost]], tokens: int) -> str:
    medians = [[median(values) for values in zip(*found, strict=True)] for found in costs]
    lines = []
    for setting, middle, found in zip(SETTINGS, medians, costs, strict=True):
        line = list(map(str, setting))
        for value, greedy in zip(middle, medians[0], strict=True):
            line += [f"{tokens / value:.0f}", f"{greedy / value:.2f}"]
        lines.append([*line, ", ".join(f"{seconds:.1f}" for seconds, _ in found)])
    return "\n".join(Table(HEADER, lines).lines())


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse(argv)
    logging.getLogger("cotkit").setLevel(logging.WARNING)  # the loop reports every run
    chat_model.check_model(args.base_model)
    problems = read_problems(problem_path(args.data_root, args.dataset, args.split), args.limit or ROWS)
    requests = [Request(problem["id"], 0, prompts.student_messages(problem["question"])) for problem in problems]
    with TemporaryDirectory() as folder:
        if args.vocabulary:
            save_tiny_model(args.base_model, args.vocabulary, folder)
        model = folder if args.vocabulary else args.base_model
        costs = measure(model, requests, args.max_new_tokens, args.repetitions)
    print(table(costs, args.max_new_tokens * len(requests)))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
