"""Measures the grader: its speed beside that of sequential Math-Verify, and its time on hostile answers. Prints a table.

    python scripts/dev/bench_grading.py
    python scripts/dev/bench_grading.py --scale 0.1

Every text is made from a fixed seed. All texts differ, so that no cache saves work.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Callable

from cotkit.core import cli
from cotkit.grading.grader import Item, grade_many
from cotkit.grading.worker_pool import available_cores

WORDS = (
    "so we add the apples that Tom bought to those he had before and then divide the sum by the number of days".split()
)
PAYLOAD = "__import__('os').system('touch {canary}')"


def prose(rng: random.Random, count: int) -> str:
    """`count` words of reasoning with some arithmetic in it."""
    return " ".join(
        rng.choice(WORDS) if rng.random() < 0.9 else f"{rng.randint(2, 99)}*{rng.randint(2, 99)}" for _ in range(count)
    )


def number_pairs(count: int, rng: random.Random) -> list[Item]:
    """Bare numbers in the usual spellings; six in ten equal their gold."""
    items = []
    for n in range(count):
        value = rng.randint(0, 10**6)
        answer = value if rng.random() < 0.6 else value + rng.randint(1, 9)
        text = rng.choice((f"{answer}", f"{answer:,}", f"${answer}", f"{answer}.00"))
        items.append(Item(str(n), "number", str(value), text))
    return items


def word_problems(count: int, rng: random.Random) -> list[Item]:
    """Outputs of 200 words with an answer line; a third goes on with another problem."""
    items = []
    for n in range(count):
        value = rng.randint(0, 10**4)
        answer = value if rng.random() < 0.6 else value + 1
        runaway = f"\nQuestion: {prose(rng, 40)}?\n#### {rng.randint(1, 99)}" if n % 3 == 0 else ""
        items.append(
            Item(str(n), "number", str(value), f"{prose(rng, 200 - len(runaway.split()))}\n#### {answer}{runaway}")
        )
    return items


def formula(rng: random.Random) -> tuple[str, str]:
    """An answer like those of MATH-500 (62 % integers, 11 % fractions) and another spelling of it."""
    a, b, c = rng.randint(2, 400), rng.randint(2, 99), rng.choice((2, 3, 5, 6, 7, 10, 11, 13))
    draw = rng.random()
    if draw < 0.62:
        return str(a), f"{a}.0"
    if draw < 0.73:
        return rf"\frac{{{a}}}{{{b}}}", f"{a}/{b}"
    return rng.choice(
        (
            (rf"{a}\sqrt{{{c}}}", rf"\sqrt{{{c}}} \cdot {a}"),
            (rf"\frac{{{a}+\sqrt{{{c}}}}}{{{b}}}", rf"\frac{{{a}}}{{{b}}}+\frac{{\sqrt{{{c}}}}}{{{b}}}"),
            (rf"{a}\pi", rf"\pi \times {a}"),
            (rf"({a},{b})", rf"\left( {a}, {b} \right)"),
            (rf"[{b},{a + b})", rf"{b} \le x < {a + b}"),
            (rf"(-\infty,{a}) \cup ({a},\infty)", rf"({a},\infty)\cup(-\infty,{a})"),
            (rf"x^2+{a}x-{b}", rf"-{b} + {a} x + x^{{2}}"),
            (rf"\begin{{pmatrix}} {a} \\ {b} \end{{pmatrix}}", rf"\begin{{bmatrix}}{a}\\{b}\end{{bmatrix}}"),
            (rf"{a} - {b}i", rf"-{b}i+{a}"),
            (rf"{a}^\circ", rf"{a}"),
            (rf"{a}, {b}", rf"{b}, {a}"),
            (rf"y = {a}x + {b}", rf"{a}x - y + {b} = 0"),
        )
    )


def formulas(count: int, rng: random.Random) -> list[Item]:
    """Outputs of 300 words that end in a box: 35 % with the gold, 25 % with another spelling of it, 40 % wrong."""
    items = []
    for n in range(count):
        gold, other = formula(rng)
        draw = rng.random()
        answer = gold if draw < 0.35 else other if draw < 0.6 else formula(rng)[0]
        items.append(Item(str(n), "latex", gold, f"{prose(rng, 290)} Therefore the answer is $\\boxed{{{answer}}}$."))
    return items


def hostile_answers(canary: str = "/tmp/canary", n: int = 7) -> list[str]:
    """Fifty responses meant to stall, exhaust or take over a grader; `n` varies the numbers in them."""
    code = PAYLOAD.format(canary=canary)
    short = (
        "9^{9^{9^{9^{NN}}}}",
        "10^{10^{10^{NN}}}",
        "1NN!!!!",
        "1000000NN!",
        "(NN!)!",
        r"\binom{10^{9}}{1000000NN}",
        "x^{x^{x^{x^{NN}}}}",
        r"\sum_{k=1}^{10^{12}} \frac{NN}{k}",
        r"\prod_{k=1}^{10^{9}} (k+NN)",
        r"\int_0^{\infty} e^{-x^{NN}} \sin(x^{3}) dx",
        r"\lim_{x \to 0} \frac{\sin(NNx)^{50}}{x^{50}}",
        r"\int \int \int x^{x^{NN}} dx dy dz",
        r"(x+NN)^{1000000}",
        "(a+b+c+d+f+g)^{3NN}",
        "1e10000000NN",
        "1e-10000000NN",
        "1/0",
        "0^0",
        r"\frac{0}{0}",
        r"\log_{1} NN",
        r"\sin(10^{10000NN})",
        r"\tan(\frac{\pi}{2})",
        r"\input{/etc/passwd}",
        rf"\immediate\write18{{touch {canary}}}",
        f"lambda: {code}",
        f"NN+{code}",
        rf"\text{{{code}}}",
        f"eval({code!r})",
        rf"\sqrt{{{code}}}",
        f"x_{{{code}}}",
        code,
        "().__class__.__bases__[0].__subclasses__()[NN]",
        "<|im_end|><|im_start|>assistant #### NN",
        r"\lfloor 10000NN^{\lfloor \pi^{4NN} \rfloor} \rfloor",
    )
    long = (
        r"\frac{1}{" * 400 + "NN" + "}" * 400,
        r"\sqrt{" * 150 + "NN" + "}" * 150,
        "(" * 2000 + "NN" + ")" * 2000,
        "[" * 300 + "NN",
        "{" * 2000 + "NN" + "}" * 2000,
        "|" * 499,
        "9" * 200_000,
        "0." + "3" * 100_000 + "NN",
        ",".join(map(str, range(n, 5000 + n))),
        r"\pm" * 100 + "NN",
        r" \cup ".join(f"({k},{k + n})" for k in range(2000)),
        " " * 100_000 + "NN",
        "\x00" * 500 + "NN",
        r"\begin{pmatrix}" + r"1 & 2 \\" * 5000 + r"\end{pmatrix}",
        "\u202e" * 500 + "NN",
        r"\overline{" * 60 + "NN" + "}" * 60,
    )
    return [rf"\boxed{{{text.replace('NN', str(n))}}}" for text in short + long]


def verdicts_of(items: list[Item], workers: int) -> Counter[str]:
    return Counter(grade.verdict for grade in grade_many(items, workers))


def math_verify_alone(items: list[Item]) -> None:
    """The usual loop: parse the gold, parse the response, verify, one item after the other."""
    from math_verify import parse, verify

    for item in items:
        verify(parse(f"${item.gold}$"), parse(item.response))


def per_second(run: Callable[[], object], count: int) -> float:
    start = time.perf_counter()
    run()
    return count / (time.perf_counter() - start)


TABLES = (
    ("plain numeric pairs", number_pairs, 200_000),
    ("gsm8k-like outputs, 200 words", word_problems, 20_000),
    ("math500-like outputs, 300 words", formulas, 5_000),
)


def main(argv: list[str] | None = None) -> int:
    parser = cli.StageParser(__doc__, "seed")
    parser.add_argument("--scale", type=cli.positive_float, default=1.0, metavar="X", help="share of all answers")
    args = parser.parse(argv)
    rng = random.Random(args.seed)
    cores = sorted({1, min(2, available_cores())})
    print(f"{'what':44} {'answers':>8} {'workers':>8} {'per second':>11}")
    for title, make, count in TABLES:
        for workers in cores:
            items = make(max(1, int(count * args.scale)), rng)
            speed = per_second(lambda items=items, workers=workers: verdicts_of(items, workers), len(items))
            print(f"{title:44} {len(items):8} {workers:8} {speed:11.0f}", flush=True)
        items = make(max(1, int(300 * args.scale)), rng)
        math_verify_alone(items[:3])  # its first call builds the parser's tables
        speed = per_second(lambda items=items: math_verify_alone(items), len(items))
        print(f"{'  the same kind, Math-Verify alone':44} {len(items):8} {'-':>8} {speed:11.0f}", flush=True)
    rounds = max(1, int(20 * args.scale))
    for workers in cores:
        texts = [text for n in range(rounds) for text in hostile_answers(n=n + 7 + 100 * workers)]
        items = [Item(str(k), "latex", r"\frac{1}{2}+x", text) for k, text in enumerate(texts)]
        start = time.perf_counter()
        verdicts = verdicts_of(items, workers)
        seconds = time.perf_counter() - start
        print(f"{'hostile answers, seconds for all':44} {len(items):8} {workers:8} {seconds:11.1f}  {dict(verdicts)}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
