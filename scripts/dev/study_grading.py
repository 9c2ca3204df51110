"""Tests the grader on rewritten gold answers: some rewrites keep the value, the others change it.

Reads JSONL with an `answer` field. Prints for each kind of rewrite how many verdicts are false, and lists them: a rewrite
that keeps the value is missed if it is not correct, one that changes the value is wrongly accepted if it is correct.

    python scripts/dev/study_grading.py data/raw/math/train-00.jsonl data/raw/math/train-01.jsonl
    python scripts/dev/study_grading.py --limit 500 --list 5 data/raw/math500/test.jsonl
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

from cotkit.core import cli, jsonl
from cotkit.grading.grader import Item, check_gold, grade_many

Rewrite = Callable[[str], str | None]

_INT_FRACTION = re.compile(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}")
_LIST = re.compile(r"[^(\[\\]*[,][^(\[]*")


def pattern(find: str, put: str | Callable[[re.Match[str]], str], whole: bool = False) -> Rewrite:
    """A rewrite by regular expression; with `whole` only where the whole gold matches."""
    compiled = re.compile(find)

    def rewrite(gold: str) -> str | None:
        if whole and not compiled.fullmatch(gold):
            return None
        return compiled.sub(put, gold, count=1)

    return rewrite


def grouped(mark: str) -> Rewrite:
    return pattern(r"\d{4,}", lambda m: f"{int(m[0]):,}".replace(",", mark) if m[0][0] != "0" else m[0], whole=True)


def mixed(form: str) -> Rewrite:
    def put(match: re.Match[str]) -> str:
        top, bottom = int(match[1]), int(match[2])
        return form.format(top // bottom, top % bottom, bottom) if top > bottom and top % bottom else match[0]

    return pattern(_INT_FRACTION.pattern, put, whole=True)


def decimal(match: re.Match[str]) -> str:
    top, bottom = int(match[1]), int(match[2])
    exact = bottom and 10**6 % bottom == 0
    return f"{top / bottom:.6f}".rstrip("0").rstrip(".") if exact else match[0]


def rounded(match: re.Match[str]) -> str:
    top, bottom = int(match[1]), int(match[2])
    return f"{top / bottom:.9f}" if 10**9 % bottom else match[0]


def as_fraction(match: re.Match[str]) -> str:
    value = Fraction(match[0])
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def reordered(gold: str) -> str | None:
    if r"\cup" in gold:
        return r" \cup ".join(part.strip() for part in gold.split(r"\cup")[::-1])
    inner = re.fullmatch(r"\\\{(.*)\\\}", gold)
    body = inner[1] if inner else gold
    if not _LIST.fullmatch(body) or re.search(r"\d,(?:\\!)?\s?\d{3}|\{,\}", body) or "text" in body or "," not in body:
        return None
    parts = [part.strip() for part in re.split(r",(?!\\!)", body)][::-1]
    return rf"\{{{', '.join(parts)}\}}" if inner else ", ".join(parts)


def dropped(gold: str) -> str | None:
    match = re.fullmatch(r"(\\left\(|\(|\\\{|)([^()\[\]]*,[^()\[\]]*?)(\\right\)|\)|\\\}|)", gold)
    if match is None or re.fullmatch(r".*\d,(\\!)?\s?\d{3}(?!\d).*|.*[{]?,[}].*|.*text.*", match[2]):
        return None
    return match[1] + ",".join(match[2].split(",")[:-1]) + match[3]


def swapped(gold: str) -> str | None:
    match = re.fullmatch(r"(\\left\(|\()([^()\[\],]*),([^()\[\],]*)(\\right\)|\))", gold)
    if match is None or match[2].strip() == match[3].replace(r"\right", "").strip():
        return None
    return f"{match[1]}{match[3].strip()}, {match[2].strip()}{match[4]}"


def sign(gold: str) -> str | None:
    bare = re.sub(r"\\(?:[dt]?frac|sqrt|pi)", "", gold)
    if re.fullmatch(r"-.*[a-zA-Z+,].*|.*([,=_:<>$]|\\(?:pm|begin|text|mbox|cup|in|le)|[a-z]{3}).*|0|[A-Z]|\(.*", bare):
        return None
    return gold[1:] if gold.startswith("-") else f"-({gold})" if re.search("[+-]", gold) else f"-{gold}"


def digit(gold: str) -> str | None:
    """Changes the last digit."""
    digits = [m.start() for m in re.finditer(r"\d", gold)]
    if not digits or r"\phantom" in gold or r"\approx" in gold or "= 56" in gold:
        return None
    at = digits[-1]
    return gold[:at] + str((int(gold[at]) + 1) % 10 or 2) + gold[at + 1 :]


def times(factor: Fraction) -> Rewrite:
    def put(match: re.Match[str]) -> str:
        value = Fraction(match[0]) * factor
        return str(value.numerator) if value.denominator == 1 else f"{float(value):.12g}"

    return pattern(r"-?[1-9]\d{0,6}(?:\.\d+)?|0\.\d+", put, whole=True)


def without_blanks(gold: str) -> str | None:
    blank = r"(?<![a-zA-Z\\])\s+(?!\d)|\s+(?=[^a-zA-Z\d])"
    return None if "text" in gold or "mbox" in gold else re.sub(blank, "", gold)


def unicode_symbols(gold: str) -> str:
    for command, character in ((r"\pi", "π"), (r"\infty", "∞"), (r"\cup", "∪"), (r"^\circ", "°")):
        gold = gold.replace(command, character)
    return gold


def column_as_tuple(gold: str) -> str | None:
    match = re.fullmatch(r"\s*\\begin\{pmatrix\}([^&]*)\\end\{pmatrix\}\s*", gold)
    return f"({', '.join(cell.strip() for cell in match[1].split(chr(92) * 2))})" if match else None


KEEP: dict[str, Rewrite] = {
    "dfrac": pattern(r"\\frac", r"\\dfrac"),
    "tfrac": pattern(r"\\[d]?frac", r"\\tfrac"),
    "plain fraction": pattern("(-?)" + _INT_FRACTION.pattern, r"\1\2/\3", whole=True),
    "sign in the numerator": pattern("-" + _INT_FRACTION.pattern, r"\\frac{-\1}{\2}", whole=True),
    "unreduced": pattern(_INT_FRACTION.pattern, lambda m: rf"\frac{{{int(m[1]) * 3}}}{{{int(m[2]) * 3}}}"),
    "mixed number": mixed(r"{}\frac{{{}}}{{{}}}"),
    "plain mixed number": mixed("{} {}/{}"),
    "exact decimal": pattern(_INT_FRACTION.pattern, decimal, whole=True),
    "decimal as fraction": pattern(r"\d*\.\d+", as_fraction, whole=True),
    "trailing zero": pattern(r"-?\d*\.\d+", r"\g<0>0", whole=True),
    "point zero": pattern(r"-?\d+", r"\g<0>.0", whole=True),
    "left right": pattern(r"^\(([^()]*)\)$", r"\\left(\1\\right)"),
    "no left right": lambda gold: re.sub(r"\\left|\\right", "", gold),
    "blanks around signs": lambda gold: re.sub(r"(?<=[\w})])\s*([+=])\s*(?=[\w\\({])", r"  \1 ", gold),
    "no blanks": without_blanks,
    "thin spaces": pattern(r"(?<=[a-z\d}]) ?([+-]) ?(?=[\\\d])", r"\\,\1\\;"),
    "comma thousands": grouped(","),
    "brace thousands": grouped("{,}"),
    "negative-space thousands": grouped(r",\!"),
    "thin-space thousands": grouped(r"\,"),
    "U+2212": lambda gold: gold.replace("-", "\u2212"),
    "Unicode symbols": unicode_symbols,
    "reordered": reordered,
    "brackets of a matrix": lambda gold: gold.replace("pmatrix", "bmatrix"),
    "column as a tuple": column_as_tuple,
    "unit dropped": pattern(r"(.*\d)\s*\\(?:text|mbox)\{[^}]*\}(?:\^\d)?", r"\1", whole=True),
    "unit added": pattern(r"\d+", r"\g<0> \\text{ units}", whole=True),
    "degrees dropped": pattern(r"([^a-z]*)\^\{?\\circ\}?", r"\1", whole=True),
    "box": lambda gold: rf"\boxed{{{gold}}}",
    "delimiters": lambda gold: rf"\({gold}\)",
    "final stop": lambda gold: f"{gold}.",
    "explicit product": pattern(r"(?<=\d)\s*(?=\\(?:sqrt|pi))", r" \\cdot "),
    "pi first": pattern(r"(\d+)\s*\\pi", r"\\pi \\cdot \1", whole=True),
    "left side dropped": pattern(r"[a-z]\s*=\s*([^=,]+)", r"\1", whole=True),
    "left side added": pattern(r"-?\d+", r"x = \g<0>", whole=True),
    "sum turned round": pattern(r"(\d+)\s*\+\s*(\d*\s*\\sqrt\{\d+\})", r"\2 + \1", whole=True),
    "root as a power": pattern(r"(\d+)\s*\\sqrt\{(\d+)\}", r"\1 \\cdot \2^{1/2}", whole=True),
    "root taken in": pattern(
        r"(\d+)\s*\\sqrt\{(\d+)\}", lambda m: rf"\sqrt{{{int(m[1]) ** 2 * int(m[2])}}}", whole=True
    ),
    "power in braces": pattern(r"\^(\d)", r"^{\1}"),
    "text command": pattern(r"\\text\{(\(?[A-Za-z]+\)?)\}", r"\\textbf{\1}", whole=True),
}

CHANGE: dict[str, Rewrite] = {
    "left bracket": pattern(r"^(\\left)?\((?=.*,)(?=[^()\[\]]*(?:\\right)?[)\]]$)", r"\1["),
    "right bracket": pattern(r"(?<=[^\\]),([^()\[\]]*?)(\\right)?\)$", r",\1\2]"),
    "right bracket opened": pattern(r"(?<=[^\\]),([^()\[\]]*?)(\\right)?\]$", r",\1\2)"),
    "base": pattern(r"_\{?(\d+)\}?$", lambda m: f"_{int(m[1]) + 1}"),
    "sign": sign,
    "sign of an element": pattern(r"([(,]\s*)([1-9]\d*)(?=\s*[,)])(?!\d{3})", r"\1-\2"),
    "x100": times(Fraction(100)),
    "x0.01": times(Fraction(1, 100)),
    "dropped element": dropped,
    "swapped elements": swapped,
    "near": pattern(r"-?\d+", r"\g<0>.0000001", whole=True),
    "near fraction": pattern(_INT_FRACTION.pattern, lambda m: rf"\frac{{{m[1]}00000001}}{{{m[2]}00000000}}"),
    "rounded": pattern(_INT_FRACTION.pattern, rounded, whole=True),
    "one more": pattern(r"\d+", lambda m: str(int(m[0]) + 1), whole=True),
    "inverted": pattern(_INT_FRACTION.pattern, r"\\frac{\2}{\1}", whole=True),
    "a digit": digit,
    "exponent": pattern(r"\^2(?!\d)", "^4"),
    "pi lost": pattern(r"(\d)\s*\\pi", r"\1", whole=True),
    "root lost": pattern(r"(?<=\d)\s*\\sqrt\{(\d+)\}$", ""),
    "conjugate": pattern(r"(\d)\s*\+\s*(\d*)i", r"\1 - \2i"),
    "another variable": pattern(r"(?<![a-zA-Z\\])x(?![a-zA-Z])", "w"),
    "another word": pattern(r"\\text\{([a-zA-Z])([a-z]+)([a-z])\}", r"\\text{\1\3\2x}", whole=True),
    "another letter": pattern(r"\\text\{\(?([A-D])\)?\}", lambda m: rf"\text{{({chr(ord(m[1]) + 1)})}}", whole=True),
    "another unit": pattern(
        r"(\d+)\s*\\(?:text|mbox)\{ ?(?:cm|feet|miles|inches|days|cents)\}", r"\1 \\text{ kilograms}", whole=True
    ),
    "factor": pattern(r"^(\d+)(?=\s*\\(?:pi|sqrt))", lambda m: str(int(m[0]) + 1)),
}


def cases(golds: list[str]) -> Iterator[tuple[str, bool, str, str]]:
    """(kind, value kept, gold, rewritten) for every gold and every rewrite that changes its text."""
    for gold in golds:
        for keeps, table in ((True, KEEP), (False, CHANGE)):
            for kind, rewrite in table.items():
                text = rewrite(gold)
                if text is not None and text != gold and text.strip():
                    yield kind, keeps, gold, text


def main(argv: list[str] | None = None) -> int:
    parser = cli.StageParser(__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="JSONL with an `answer` field")
    parser.add_argument("--limit", type=cli.positive_int, metavar="N", help="only the first N different golds")
    parser.add_argument("--workers", type=cli.positive_int, metavar="N", help="processes (default: one per core)")
    parser.add_argument("--list", type=int, default=20, metavar="N", help="false verdicts to list for each kind")
    args = parser.parse(argv)
    golds = list(dict.fromkeys(str(row["answer"]) for path in args.files for row in jsonl.read(path)))
    made = list(cases([gold for gold in golds if check_gold(gold, "latex")][: args.limit]))
    items = (Item("", "latex", gold, f"So the answer is $\\boxed{{{text}}}$.") for _, _, gold, text in made)
    total: Counter[tuple[bool, str]] = Counter()
    false: Counter[tuple[bool, str]] = Counter()
    for (kind, keeps, gold, text), grade in zip(made, grade_many(items, args.workers), strict=True):
        total[keeps, kind] += 1
        if (grade.verdict == "correct") != keeps:
            false[keeps, kind] += 1
            if false[keeps, kind] <= args.list:
                fault = "missed" if keeps else "wrongly accepted"
                print(f"  {fault} [{kind}] {gold!r} | {text!r} | {grade.verdict}, {grade.rule}")
    for keeps, title in ((True, "value kept, missed"), (False, "value changed, accepted")):
        kinds = sorted(kind for kept, kind in total if kept is keeps)
        for kind in kinds:
            print(f"{title:24} {kind:28} {false[keeps, kind]:5} of {total[keeps, kind]}")
        wrong, count = (sum(counts[keeps, kind] for kind in kinds) for counts in (false, total))
        print(f"{title:24} {'all':28} {wrong:5} of {count} = {100 * wrong / max(count, 1):.3f} %")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
