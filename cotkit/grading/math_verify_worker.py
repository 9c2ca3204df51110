"""The worker process of worker_pool.py: compares answers by Math-Verify, with vetoes and under limits.

A parent process imports Math-Verify once and forks the child that answers, so that a killed child is replaced in
milliseconds. The child writes `{"ready": true, "pid": N}`. Then it reads lines of JSON, `[gold, answer, kind]`, and
writes `{"started": true}` and the outcome for each.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
from typing import Any, BinaryIO

from cotkit.grading.equivalence import Decision, compare

MEMORY_BYTES = 320 * 2**20  # address space of a process; an ordinary comparison needs about 150 MB of it
ORIGINAL = "original"  # given as the kind, asks for the original experiment's protocol
RECYCLE_AFTER = 2000  # comparisons after which a new child goes on, since sympy's caches only grow
DIGITS = 200  # to which two numbers that Math-Verify calls equal must agree
ORPHAN_CPU_S = 5.0
RECYCLED = 17  # exit code of a child after RECYCLE_AFTER comparisons

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


def _serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answers RECYCLE_AFTER requests. Exits with 0 at the end of the input."""
    _reply(replies, {"ready": True, "pid": os.getpid()})
    for _ in range(RECYCLE_AFTER):
        line = requests.readline()
        if not line:
            sys.exit(0)
        gold, answer, kind = json.loads(line)
        _reply(replies, {"started": True})
        # The pool kills this process after a second. If the pool is gone, the timer's signal ends it.
        signal.setitimer(signal.ITIMER_VIRTUAL, ORPHAN_CPU_S)
        outcome = answer_one(gold, answer, kind)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        _reply(replies, {"verdict": outcome.verdict, "rule": outcome.rule})


def _reply(replies: BinaryIO, message: dict[str, object]) -> None:
    replies.write(json.dumps(message).encode() + b"\n")


def main() -> int:
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # so that nothing a library prints enters the protocol
    sys.setrecursionlimit(3000)
    try:
        _math_verify_equal(r"\frac{\sqrt{2}}{3}+x^{2}", r"\int_0^1 x dx+\sum_{n=1}^{3} n")  # builds the parser's tables
    except ImportError as error:
        _reply(replies, {"error": f"{error}; install math-verify"})
        return 1
    _limit_process()
    while True:
        child = os.fork()
        if child == 0:
            _serve(os.fdopen(0, "rb", buffering=0), replies)
            os._exit(RECYCLED)
        status = os.waitpid(child, 0)[1]
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) != RECYCLED:
            return 0


if __name__ == "__main__":
    sys.exit(main())
