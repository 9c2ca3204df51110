"""Speed of the grader against sequential Math-Verify, and its behaviour on hostile answers. Prints one table.

    python scripts/dev/bench_grading.py
    python scripts/dev/bench_grading.py --scale 0.1

Every text is made from a fixed seed and differs from the others, so that no cache answers for the work.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from cotkit.core import cli

if TYPE_CHECKING:
    from cotkit.grading.grader import Item

WORDS = [
    "so",
    "we",
    "add",
    "the",
    "apples",
    "that",
    "Tom",
    "bought",
    "to",
    "those",
    "he",
    "had",
    "before",
    "and",
    "then",
    "divide",
    "the",
    "sum",
    "by",
    "the",
    "number",
    "of",
    "days",
]
PAYLOAD = "__import__('os').system('touch {canary}')"


def prose(rng: random.Random, count: int) -> str:
    """`count` words of reasoning with some arithmetic in it."""
    words = [
        rng.choice(WORDS) if rng.random() < 0.9 else f"{rng.randint(2, 99)}*{rng.randint(2, 99)}" for _ in range(count)
    ]
    return " ".join(words)


def number_pairs(count: int, rng: random.Random) -> list[Item]:
    """Plain numeric pairs: bare numbers in the usual spellings, six in ten of them equal to their gold."""
    from cotkit.grading.grader import Item

    items = []
    for n in range(count):
        value = rng.randint(0, 10**6)
        answer = value if rng.random() < 0.6 else value + rng.randint(1, 9)
        text = rng.choice((f"{answer}", f"{answer:,}", f"${answer}", f"{answer}.00"))
        items.append(Item(str(n), "gsm8k", str(value), text))
    return items


def word_problems(count: int, rng: random.Random) -> list[Item]:
    """Outputs of 200 words with an answer line; a third run on into another problem."""
    from cotkit.grading.grader import Item

    items = []
    for n in range(count):
        value = rng.randint(0, 10**4)
        answer = value if rng.random() < 0.6 else value + 1
        run_on = f"\nQuestion: {prose(rng, 40)}?\n#### {rng.randint(1, 99)}" if n % 3 == 0 else ""
        items.append(
            Item(str(n), "gsm8k", str(value), f"{prose(rng, 200 - len(run_on.split()))}\n#### {answer}{run_on}")
        )
    return items


def formula(rng: random.Random) -> tuple[str, str]:
    """A MATH-500-like answer (62 % integers, 11 % fractions) and another spelling of it."""
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
    """Outputs of 300 words ending in a box: 35 % as the gold, 25 % in another spelling, 40 % wrong."""
    from cotkit.grading.grader import Item

    items = []
    for n in range(count):
        gold, other = formula(rng)
        draw = rng.random()
        answer = gold if draw < 0.35 else other if draw < 0.6 else formula(rng)[0]
        items.append(Item(str(n), "math500", gold, f"{prose(rng, 290)} Therefore the answer is $\\boxed{{{answer}}}$."))
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


def per_second(run: Callable[[], object], count: int) -> float:
    start = time.perf_counter()
    run()
    return count / (time.perf_counter() - start)


def ours(items: list[Item], workers: int) -> Counter[str]:
    from cotkit.grading.grader import grade_many

    return Counter(grade.verdict for grade in grade_many(items, workers))


def math_verify_alone(items: list[Item]) -> Counter[str]:
    """The usual loop: parse the gold, parse the whole response, verify; one after the other."""
    from math_verify import parse, verify

    return Counter("correct" if verify(parse(f"${i.gold}$"), parse(i.response)) else "wrong" for i in items)


def main(argv: list[str] | None = None) -> int:
    parser = cli.StageParser(__doc__)
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="share of the full number of answers")
    parser.add_argument("--seed", type=int, default=42, metavar="N", help="seed of the texts (default 42)")
    args = parser.parse(argv)
    from cotkit.grading.worker_pool import available_cores

    rng = random.Random(args.seed)
    cores = sorted({1, min(2, available_cores())})

    print(f"{'what':44} {'answers':>8} {'workers':>8} {'per second':>11}")
    tables = (
        ("plain numeric pairs", number_pairs, 200_000),
        ("gsm8k-like outputs, 200 words", word_problems, 20_000),
        ("math500-like outputs, 300 words", formulas, 5_000),
    )
    for title, make, count in tables:
        for workers in cores:
            items = make(max(1, int(count * args.scale)), rng)
            speed = per_second(lambda items=items, workers=workers: ours(items, workers), len(items))
            print(f"{title:44} {len(items):8} {workers:8} {speed:11.0f}", flush=True)
        items = make(max(1, int(300 * args.scale)), rng)
        math_verify_alone(items[:3])
        speed = per_second(lambda items=items: math_verify_alone(items), len(items))
        print(f"{'  the same kind, Math-Verify alone':44} {len(items):8} {'-':>8} {speed:11.0f}", flush=True)
    from cotkit.grading.grader import Item

    rounds = max(1, int(20 * args.scale))
    for workers in cores:
        texts = [text for n in range(rounds) for text in hostile_answers(n=n + 7 + 100 * workers)]
        items = [Item(str(k), "math500", r"\frac{1}{2}+x", text) for k, text in enumerate(texts)]
        start = time.perf_counter()
        verdicts = ours(items, workers)
        seconds = time.perf_counter() - start
        print(f"{'hostile answers, seconds for all':44} {len(items):8} {workers:8} {seconds:11.1f}  {dict(verdicts)}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
