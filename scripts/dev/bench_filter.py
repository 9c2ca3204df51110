"""Measures speed and memory of filter_teacher_cot.py, with token counting, on made-up teacher rows.

Reads   the student's tokenizer in data/models/SmolLM2-135M-Instruct
Prints  for a tenth of the rows and for all: seconds, rows per second, memory of every process, rows per reason

    python scripts/dev/bench_filter.py
    python scripts/dev/bench_filter.py --rows 100000 --samples 1 --workers 2

The problems are reasoning-gym's (gsm_symbolic, unrestricted: about 50 words of solution), each with its own numbers. Every
sample words the solution anew, and some have one of the faults that the rules look for.
"""

from __future__ import annotations

import contextlib
import random
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from cotkit.core import cli
from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row, read, read_json, write_atomic

ROOT = Path(__file__).resolve().parents[2]
STUDENT = "data/models/SmolLM2-135M-Instruct"
LEADS = ("", "", "First, ", "Then ", "So ", "Next, ", "After that, ", "This means: ", "From the problem, ")
ENDS = ("That is the answer.", "This is what was asked for.", "So that is how many there are in the end.")
TEST_QUESTIONS = 2000
FAULTY, REPEATED, LEAKED = 0.25, 0.03, 0.003  # shares of the rows

POLL_S = 0.5
MIN_WORKER_MIB = 20  # smaller processes only keep accounts for multiprocessing
START_SHARE = 0.1  # of a run; by then every worker has its tokenizer and has judged rows

# Runs a script and prints the peak of its memory after its imports and at its end, in KiB. Linux only. ru_maxrss of
# getrusage will not do, since a process inherits it from its parent.
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


def body(row: Row) -> str:
    return row["response"].rpartition("\n####")[0]


def ending(text: str) -> Callable[[Row], Row]:
    """A fault that replaces the answer line; {answer} stands for the answer."""
    return lambda row: {"response": body(row) + text.format(answer=row["answer"])}


def starting(text: str) -> Callable[[Row], Row]:
    """A fault that puts a text before the response."""
    return lambda row: {"response": text + row["response"]}


# What weak teachers do, each with its weight. A fault changes some fields of a row.
FAULTS: tuple[tuple[int, Callable[[Row], Row]], ...] = (
    (12, ending("\n#### {answer}7")),
    (8, lambda row: {"response": row["response"].replace("= ", "= 1", 1)}),
    (4, ending("\n#### {answer}\nProblem: Tom has 4 apples and eats one. How many are left?\n#### 3")),
    (4, lambda row: {"response": row["response"][: len(row["response"]) * 2 // 3], "finish_reason": "length"}),
    (3, starting("Let me think. ")),
    (3, starting("The original solution is right. ")),
    (3, ending("\n" + "Then we add them all up once more. " * 6 + "\n#### {answer}")),
    (3, ending("\nThere are {answer} in the end.")),
    (3, ending("\n#### x")),
    (2, lambda row: {"response": f"#### {row['answer']}"}),
    (2, lambda row: {"response": f"We look at all that the text says and so we find it.\n#### {row['answer']}"}),
    (2, lambda row: {"response": f"<think>{body(row)}</think>\n{row['response']}"}),
    (2, starting("<think>")),
    (2, starting("苹果有五个，总共是很多很多。")),
    (2, lambda row: {"response": "", "finish_reason": "error", "error": "the server is gone"}),
    (1, lambda row: {"question": row["question"] + " Consider the table." + " 17 23 5 81 4" * 60}),
)


def problems(number: int, seed: int) -> Iterator[Row]:
    """Word problems of a hundred kinds with worked solutions."""
    import reasoning_gym

    for at, item in enumerate(reasoning_gym.create_dataset("gsm_symbolic", seed=seed, size=number)):
        question = item["question"].partition(" Give the result as")[0]
        solution = item["metadata"]["answer_cot"].rpartition("####")[0].rstrip()
        fields = {"question": question, "solution": solution, "answer": item["answer"]}
        yield {"id": f"gsm_symbolic-train-{at:07d}", "dataset": "gsm_symbolic", "split": "train", **fields}


def test_problems(seed: int) -> Iterator[Row]:
    """Questions with their words reversed: as they are, half of the training problems would count as contaminated."""
    for row in problems(TEST_QUESTIONS, seed):
        backwards = " ".join(reversed(row["question"].split()))
        yield {**row, "split": "test", "id": row["id"].replace("train", "test"), "question": backwards}


def reworded(problem: Row, rng: random.Random) -> str:
    """A teacher's wording of a solution."""
    lines = [rng.choice(LEADS) + line for line in problem["solution"].split("\n")]
    text = "\n".join(lines + ([rng.choice(ENDS)] if rng.random() < 0.5 else []))
    return (re.sub(r" ?\* ?", " x ", text) if rng.random() < 0.3 else text) + f"\n#### {problem['answer']}"


def teacher_rows(number: int, samples: int, seed: int, leaked: list[str]) -> Iterator[Row]:
    """`number` teacher rows, `samples` per problem. Some ask a question of `leaked`."""
    rng = random.Random(seed)
    weights, faults = zip(*FAULTS, strict=True)
    for problem in problems(-(-number // samples), seed):
        response = ""
        for sample in range(samples):
            response = response if response and rng.random() < REPEATED else reworded(problem, rng)
            row = {**problem, "sample": sample, "response": response, "thinking": "", "finish_reason": "stop"}
            row |= {"prompt_tokens": 250, "completion_tokens": len(response) // 3, "model": "bench"}
            row |= rng.choices(faults, weights)[0](row) if rng.random() < FAULTY else {}
            yield row | ({"question": rng.choice(leaked)} if rng.random() < LEAKED else {})


def cpu_seconds() -> float:
    """CPU time of all child processes that have ended. Other work on the machine disturbs it least."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def bench(rows: int, source: Path, flags: list[str]) -> tuple[float, float]:
    """Runs the filter once and prints its figures. Returns seconds and CPU seconds. Raises UserError if it fails."""
    import psutil

    kept, printed = source.with_name(f"kept-{rows}.jsonl"), source.with_suffix(".txt")
    command = [sys.executable, "-c", MEASURE, str(ROOT / "filter_teacher_cot.py"), "--input_path", str(source)]
    sizes: dict[int, list[float]] = {}  # MiB of each process at each poll
    begun, cpu = time.monotonic(), cpu_seconds()
    with open(printed, "wb") as file:
        process = psutil.Popen([*command, "--output_path", str(kept), *flags], cwd=ROOT, stdout=file, stderr=file)
        while process.poll() is None:
            with contextlib.suppress(psutil.Error):  # a process may end meanwhile
                for one in (process, *process.children(recursive=True)):
                    sizes.setdefault(one.pid, []).append(one.memory_info().rss / 2**20)
            time.sleep(POLL_S)
    seconds, cpu = time.monotonic() - begun, cpu_seconds() - cpu
    text = printed.read_text(encoding="utf-8")
    if process.returncode:
        raise UserError(f"the filter failed: {text.strip()[-500:]}")
    main, *others = sorted(sizes.values(), key=len, reverse=True)
    before, peak = (int(word) / 1024 for word in text.rpartition("MEMORY")[2].split())
    print(f"{rows} rows, {source.stat().st_size / 2**20:.0f} MiB: {seconds:.1f} s, {rows / seconds:.0f} rows/s")
    print(f"  {cpu:.0f} CPU seconds, {cpu / rows * 1e6:.0f} microseconds per row")
    print(f"  main process {before:.0f} MiB after imports, at most {peak:.0f} (+{peak - before:.0f})")
    for series in (one for one in others if len(one) > len(main) // 2 and max(one) > MIN_WORKER_MIB):
        start, most = series[int(len(series) * START_SHARE)], max(series)
        print(f"  worker {start:.0f} MiB after a tenth of the run, at most {most:.0f} (+{most - start:.0f})")
    counts = read_json(kept.with_suffix(".report.json"))
    reasons = ", ".join(f"{name} {number}" for name, number in counts["rejected"].items())
    print(f"  kept {counts['kept']}, {reasons}", flush=True)
    return seconds, cpu


def main(argv: list[str] | None = None) -> int:
    parser = cli.StageParser(__doc__, "seed")
    parser.add_argument("--rows", type=cli.positive_int, default=1_000_000, metavar="N", help="default 1,000,000")
    parser.add_argument("--samples", type=cli.positive_int, default=4, metavar="K", help="per problem, default 4")
    parser.add_argument("--workers", type=cli.positive_int, metavar="N", help="processes (default: the filter's own)")
    args = parser.parse(argv)
    with tempfile.TemporaryDirectory() as folder:
        tests = Path(folder, "test.jsonl")
        write_atomic(tests, test_problems(args.seed + 1))
        leaked = [row["question"] for row in read(tests)]
        flags = ["--student_model", STUDENT, "--max_tokens", "512", "--test_paths", str(tests)]
        flags += ["--workers", str(args.workers)] if args.workers else []
        measured = []
        for rows in (max(1, args.rows // 10), args.rows):
            source = Path(folder, f"rows-{rows}.jsonl")
            write_atomic(source, islice(teacher_rows(rows, args.samples, args.seed, leaked), rows))
            measured.append(bench(rows, source, flags))
    (seconds, cpu), (more_seconds, more_cpu) = measured
    print(f"ratio of the times {more_seconds / seconds:.1f}, of the CPU times {more_cpu / cpu:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
