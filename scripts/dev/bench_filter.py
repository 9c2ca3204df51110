"""Speed and memory of the filter as a whole, with token counting: runs filter_teacher_cot.py on made-up teacher rows.

Reads   the student's tokenizer (default data/models/SmolLM2-135M-Instruct)
Prints  for a tenth of the rows and for all: seconds, rows a second, memory of every process, rows a reason; then the ratios

    python scripts/dev/bench_filter.py
    python scripts/dev/bench_filter.py --rows 100000 --samples 1 --workers 2

The problems are reasoning-gym's (gsm_symbolic, unrestricted: about 50 words of solution), every one with numbers of its
own; each sample words the solution anew, and some have one of the faults that the rules look for.
"""

from __future__ import annotations

import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
from cotkit.core import cli
from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row, read, read_json, write_atomic

LEADS = ("", "", "First, ", "Then ", "So ", "Next, ", "After that, ", "This means: ", "From the problem, ")
ENDS = ("That is the answer.", "This is what was asked for.", "So that is how many there are in the end.")
TEST_QUESTIONS = 2000
FAULTY, REPEATED, LEAKED = 0.25, 0.03, 0.003  # shares of the rows

# What weak teachers do, with its weight among the faults. Each changes some fields of a row.
FAULTS: tuple[tuple[int, Callable[[Row], Row]], ...] = (
    (12, lambda row: {"response": f"{body(row)}\n#### {row['answer']}7"}),
    (8, lambda row: {"response": row["response"].replace("= ", "= 1", 1)}),
    (
        4,
        lambda row: {
            "response": row["response"] + "\nProblem: Tom has 4 apples and eats one. How many are left?\n#### 3"
        },
    ),
    (4, lambda row: {"response": row["response"][: len(row["response"]) * 2 // 3], "finish_reason": "length"}),
    (3, lambda row: {"response": "Let me think. " + row["response"]}),
    (3, lambda row: {"response": "The original solution is right. " + row["response"]}),
    (3, lambda row: {"response": f"{body(row)}\n{'Then we add them all up once more. ' * 6}\n#### {row['answer']}"}),
    (3, lambda row: {"response": f"{body(row)}\nThere are {row['answer']} in the end."}),
    (3, lambda row: {"response": body(row) + "\n#### x"}),
    (2, lambda row: {"response": f"#### {row['answer']}"}),
    (2, lambda row: {"response": f"We look at all that the text says and so we find it.\n#### {row['answer']}"}),
    (2, lambda row: {"response": f"<think>{body(row)}</think>\n{row['response']}"}),
    (2, lambda row: {"response": "<think>" + row["response"]}),
    (2, lambda row: {"response": "苹果有五个，总共是很多很多。" + row["response"]}),
    (2, lambda row: {"response": "", "finish_reason": "error", "error": "the server is gone"}),
    (1, lambda row: {"question": row["question"] + " Consider the table." + " 17 23 5 81 4" * 60}),
)

# Runs a script and reports the peak of its memory after its imports and at its end, in KiB. (Linux; getrusage's ru_maxrss
# will not do, since a process inherits it from the one that started it.)
MEASURE = """
import pathlib, re, runpy, sys
peak = lambda: re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text(encoding="utf-8"))[1]
sys.argv = sys.argv[1:]
module = runpy.run_path(sys.argv[0])
before = peak()
code = module["cli"].run(module["main"])
print("MEMORY", before, peak())
sys.exit(code)
"""
POLL_S = 0.5
MIN_WORKER_MIB = 20  # smaller ones only keep accounts for multiprocessing
START_SHARE = 0.1  # of a run: by then every worker has its tokenizer and has judged rows


class Measured(NamedTuple):
    """One run: wall and CPU time, growth of the main process over its imports, the largest of a worker over its start."""

    seconds: float
    cpu_seconds: float
    growth_mib: float
    worker_growth_mib: float


def body(row: Row) -> str:
    return row["response"].rpartition("\n####")[0]


def problems(number: int, seed: int) -> Iterator[Row]:
    """Word problems of a hundred kinds with worked solutions."""
    import reasoning_gym

    for at, item in enumerate(reasoning_gym.create_dataset("gsm_symbolic", seed=seed, size=number)):
        question = item["question"].partition(" Give the result as")[0]
        solution = item["metadata"]["answer_cot"].rpartition("####")[0].rstrip()
        fields = {"question": question, "solution": solution, "answer": item["answer"]}
        yield {"id": f"gsm_symbolic-train-{at:07d}", "dataset": "gsm_symbolic", "split": "train", **fields}


def test_problems(seed: int) -> Iterator[Row]:
    """Questions read backwards: one of the same hundred kinds would count as asked by half of the training problems."""
    for row in problems(TEST_QUESTIONS, seed):
        backwards = " ".join(reversed(row["question"].split()))
        yield {**row, "split": "test", "id": row["id"].replace("train", "test"), "question": backwards}


def written(problem: Row, rng: random.Random) -> str:
    """A teacher's wording of a solution."""
    lines = [rng.choice(LEADS) + line for line in problem["solution"].split("\n")]
    text = "\n".join(lines + ([rng.choice(ENDS)] if rng.random() < 0.5 else []))
    return (re.sub(r" ?\* ?", " x ", text) if rng.random() < 0.3 else text) + f"\n#### {problem['answer']}"


def teacher_rows(number: int, samples: int, seed: int, leaked: list[str]) -> Iterator[Row]:
    """`number` teacher rows, `samples` to a problem; some ask a question of `leaked`."""
    rng = random.Random(seed)
    weights, faults = zip(*FAULTS, strict=True)
    for problem in problems(-(-number // samples), seed):
        before = ""
        for sample in range(min(samples, number)):
            before = before if before and rng.random() < REPEATED else written(problem, rng)
            row = {**problem, "sample": sample, "response": before, "thinking": "", "finish_reason": "stop"}
            row |= {"prompt_tokens": 250, "completion_tokens": len(before) // 3, "model": "bench"}
            row |= rng.choices(faults, weights)[0](row) if rng.random() < FAULTY else {}
            yield row | ({"question": rng.choice(leaked)} if rng.random() < LEAKED else {})
        number -= samples


def run(words: list[str]) -> tuple[str, float, float, dict[int, list[float]]]:
    """Runs MEASURE with these arguments: what it prints, seconds, CPU seconds, MiB of every process at each poll."""
    import psutil

    sizes: dict[int, list[float]] = {}
    begun, busy = time.monotonic(), _cpu_seconds()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", MEASURE, *words], cwd=ROOT, stdout=said, stderr=subprocess.STDOUT
        )
        root = psutil.Process(process.pid)
        while process.poll() is None:
            for one in (root, *root.children(recursive=True)):
                try:
                    sizes.setdefault(one.pid, []).append(one.memory_info().rss / 2**20)
                except psutil.Error:  # it ended meanwhile
                    continue
            time.sleep(POLL_S)
        seconds, busy = time.monotonic() - begun, _cpu_seconds() - busy
        said.seek(0)
        text = said.read()
    if process.returncode:
        raise UserError(f"the filter failed: {text.strip()[-500:]}")
    return text, seconds, busy, sizes


def _cpu_seconds() -> float:
    """CPU time of all processes that have ended, user and system: what a busy machine disturbs least."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def bench(rows: int, args_of_filter: list[str], source: Path) -> Measured:
    """One run of the filter; prints its figures. Raises UserError if it fails."""
    output = source.with_name(f"kept-{rows}.jsonl")
    words = [
        str(ROOT / "filter_teacher_cot.py"),
        "--input_path",
        str(source),
        "--output_path",
        str(output),
        *args_of_filter,
    ]
    text, seconds, busy, sizes = run(words)
    before, peak = (int(word) / 1024 for word in text.rpartition("MEMORY")[2].split())
    print(
        f"{rows} rows, {source.stat().st_size / 2**20:.0f} MiB: {seconds:.1f} s, {rows / seconds:.0f} rows/s; "
        f"{busy:.0f} CPU seconds, {busy / rows * 1e6:.0f} microseconds a row"
    )
    print(f"  main process {before:.0f} MiB after imports, at most {peak:.0f} (+{peak - before:.0f})")
    growth = 0.0
    longest, *others = sorted(sizes.values(), key=len, reverse=True)  # the main process first
    for series in (series for series in others if len(series) > len(longest) // 2 and max(series) > MIN_WORKER_MIB):
        start = series[int(len(series) * START_SHARE)]
        growth = max(growth, max(series) - start)
        print(
            f"  worker {start:.0f} MiB after a tenth of the run, at most {max(series):.0f} (+{max(series) - start:.0f})"
        )
    counts = read_json(output.with_suffix(".report.json"))
    print(
        f"  kept {counts['kept']}, " + ", ".join(f"{name} {number}" for name, number in counts["rejected"].items()),
        flush=True,
    )
    return Measured(seconds, busy, peak - before, growth)


def main(argv: list[str] | None = None) -> int:
    parser = cli.StageParser(__doc__, "seed")
    parser.add_argument("--rows", type=cli.positive_int, default=1_000_000, metavar="N", help="default 1,000,000")
    parser.add_argument("--samples", type=cli.positive_int, default=4, metavar="K", help="of a problem, default 4")
    parser.add_argument("--student_model", default="data/models/SmolLM2-135M-Instruct", metavar="NAME")
    parser.add_argument("--workers", type=cli.positive_int, metavar="N", help="processes (default: the filter's own)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="keep all files there, and use the rows again")
    args = parser.parse(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        tests = folder / "test.jsonl"
        write_atomic(tests, test_problems(args.seed + 1))
        words = [
            "--student_model",
            args.student_model,
            "--max_tokens",
            "512",
            "--test_paths",
            str(tests),
            "--overwrite",
        ]
        words += ["--workers", str(args.workers)] if args.workers else []
        measured = []
        for rows in (max(1, args.rows // 10), args.rows):
            source = folder / f"rows-{rows}-{args.samples}.jsonl"
            if not source.exists():
                write_atomic(
                    source, teacher_rows(rows, args.samples, args.seed, [row["question"] for row in read(tests)])
                )
            measured.append(bench(rows, words, source))
    small, large = measured
    print(
        f"ratio of the times {large.seconds / small.seconds:.1f}, of the CPU times "
        f"{large.cpu_seconds / small.cpu_seconds:.1f}; growth +{large.growth_mib:.0f} MiB, "
        f"of a worker +{large.worker_growth_mib:.0f} MiB"
    )
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
