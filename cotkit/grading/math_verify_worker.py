"""The worker process of worker_pool.py: compares answers by Math-Verify, with vetoes and under limits.

It imports Math-Verify once and writes `{"ready": true}`. For each line of JSON that it reads, `[gold, answer, kind]`, it
forks a child and writes the child's outcome. So each comparison starts from the same memory, whatever was compared
before, and its budget is CPU time: other processes change neither. The kernel kills a child that exceeds its budget.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import signal
import sys
from typing import Any, BinaryIO

from cotkit.grading.equivalence import Decision, compare
from cotkit.grading.worker_pool import BUDGET_S

MEMORY_BYTES = 320 * 2**20  # address space of a process; an ordinary comparison needs about 150 MB of it
ORIGINAL = "original"  # given as the kind, asks for the original experiment's protocol
DIGITS = 200  # to which two numbers that Math-Verify calls equal must agree
WARM_UP = (
    (r"\frac{\sqrt{2}}{3}+\lfloor x \rfloor", r"\lceil x \rceil+x^{2}"),
    (r"\int_0^1 x e^x dx", r"\int_0^{\pi} \sin^2 x dx"),
)

_SUBSCRIPT = re.compile(r"_\s*\{?\s*(\w+)")
_COMMANDS = re.compile(r"\\text\s*\{[^{}]*\}|\\[a-zA-Z]+")


def answer_one(gold: str, answer: str, kind: str) -> Decision:
    """The outcome of one comparison that text and exact arithmetic could not decide."""
    if kind == ORIGINAL:
        return _original_outcome(gold, answer)
    vetoes: list[str] = []

    def oracle(left: str, right: str) -> bool:
        if not _math_verify_equal(left, right):
            return False
        name = _veto(left, right)
        if name is not None:
            vetoes.append(name)
        return name is None

    try:
        outcome = compare(gold, answer, kind, oracle) or Decision("wrong", "math_verify")
    except MemoryError:
        return Decision("grader_timeout", "memory_budget")
    except Exception:  # noqa: BLE001  computer algebra raises anything on a model's text
        return Decision("wrong", "math_verify_error")
    return outcome._replace(rule=f"veto:{vetoes[0]}") if vetoes and outcome.verdict == "wrong" else outcome


def _original_outcome(gold: str, answer: str) -> Decision:
    """The original experiment's rule: Math-Verify on bare strings with its default settings."""
    from math_verify import parse, verify

    try:
        equal = verify(parse(gold, parsing_timeout=None), parse(answer, parsing_timeout=None), timeout_seconds=None)
    except Exception:  # noqa: BLE001  as above; the original counts a failure as wrong
        return Decision("wrong", "math_verify_error")
    return Decision("correct" if equal else "wrong", "math_verify")


def _math_verify_equal(gold: str, answer: str) -> bool:
    """Whether Math-Verify calls two LaTeX expressions without delimiters equal."""
    from math_verify import verify

    left, right = _parsed(gold), _parsed(answer)
    return bool(left and right and verify(left, right, timeout_seconds=None))


def _parsed(latex: str) -> list[Any]:
    """The expressions that Math-Verify reads. Only its LaTeX reader is used, since the other one evaluates Python."""
    from math_verify import LatexExtractionConfig, parse

    result: list[Any] = parse(
        f"${latex}$", extraction_config=[LatexExtractionConfig()], fallback_mode="no_fallback", parsing_timeout=None
    )
    return result


def _veto(gold: str, answer: str) -> str | None:
    """Why Math-Verify's "equal" does not count: it is known to confuse such answers (docs/GRADING.md)."""
    if sorted(_SUBSCRIPT.findall(gold)) != sorted(_SUBSCRIPT.findall(answer)):
        return "subscript"
    if (_brackets(gold) or _brackets(answer)) and _brackets(gold) != _brackets(answer):
        return "brackets"
    # It calls one in five different equations equal. Those that can be decided exactly were decided before.
    same_text = "".join(gold.split()) == "".join(answer.split())
    if not same_text and re.search(r"[<>=]|\\(?:le|ge|ne)(?![a-zA-Z])", gold + answer):
        return "relation"
    if _differ(_parsed(gold)[0], _parsed(answer)[0]):
        return "tolerance"
    if _letters(answer) - _letters(gold):
        return "fragment"
    return None


def _brackets(text: str) -> str:
    """The outer brackets: "(]", "{}", or "" for none."""
    text = text.strip().replace(r"\{", "{").replace(r"\}", "}")
    return text[0] + text[-1] if text and text[0] in "([{" and text[-1] in ")]}" else ""


def _letters(text: str) -> set[str]:
    """The variables of a text. One that only the answer has was ignored by the reader or cancelled by chance."""
    return set(re.findall(r"[a-zA-Z]", _COMMANDS.sub(" ", text))) - {"d", "e", "i"}


def _differ(left: Any, right: Any) -> bool:
    """Are two objects of sympy different, although Math-Verify calls them equal within its tolerance?

    Formulas are compared to DIGITS digits, those with variables at one point; lists, intervals and matrices part by part.
    """
    from sympy import Expr, FiniteSet, MatrixBase, MatrixExpr, Rational, simplify
    from sympy.core.evalf import PrecisionExhausted

    if isinstance(left, FiniteSet) and isinstance(right, FiniteSet):
        return any(all(_differ(a, b) for b in right) for a in left)
    if isinstance(left, MatrixBase | MatrixExpr) or not (isinstance(left, Expr) and isinstance(right, Expr)):
        left_parts, right_parts = (list(getattr(side.doit(), "args", ())) for side in (left, right))
        if not left_parts or len(left_parts) != len(right_parts):
            return bool(left.doit() != right.doit())
        return any(_differ(a, b) for a, b in zip(left_parts, right_parts, strict=True))
    difference = (left - right).replace(lambda e: e.is_Float, lambda e: Rational(str(e))).doit()
    point = {s: Rational(31_337 + 1009 * n, 10_007) for n, s in enumerate(sorted(difference.free_symbols, key=str))}
    try:
        return bool(difference.subs(point).evalf(5, maxn=DIGITS, strict=True) != 0)
    except PrecisionExhausted:  # no digit differs from zero
        return False
    except Exception:  # noqa: BLE001  a function without a numeric value
        return bool(simplify(difference) != 0)


def _limit_process() -> None:
    """Bounds the memory and forbids core dumps and written files."""
    import resource

    for limit, value in ((resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0)):
        with contextlib.suppress(ValueError, OSError):  # macOS does not set all of them
            resource.setrlimit(limit, (value, value))


def _answer_in_child(line: bytes, replies: BinaryIO) -> None:
    """Forks a child that answers one question; replies in its place if it is killed."""
    child = os.fork()
    if child == 0:
        signal.setitimer(signal.ITIMER_PROF, BUDGET_S)  # its signal ends the process, in C code too
        outcome = answer_one(*json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        _reply(replies, {"verdict": outcome.verdict, "rule": outcome.rule})
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if status:
        out_of_time = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF
        _reply(replies, {"verdict": "grader_timeout", "rule": "time_budget" if out_of_time else "worker_died"})


def _reply(replies: BinaryIO, message: dict[str, object]) -> None:
    replies.write(json.dumps(message).encode() + b"\n")


def main() -> int:
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # so that nothing a library prints enters the protocol
    sys.setrecursionlimit(3000)
    try:
        import math_verify  # noqa: F401
    except ImportError as error:
        _reply(replies, {"error": f"{error}; install math-verify"})
        return 1
    for question in WARM_UP:  # builds the parser's tables and imports what sympy imports late, once for all children
        answer_one(*question, "latex")
    _limit_process()
    gc.collect()
    gc.freeze()  # so that a child's collections do not copy the parent's memory
    _reply(replies, {"ready": True})
    with os.fdopen(0, "rb", buffering=0) as requests:
        for line in requests:
            _answer_in_child(line, replies)
    return 0


if __name__ == "__main__":
    sys.exit(main())
