"""The worker of cotkit/grading/worker_pool.py: Math-Verify on delimited LaTeX, with vetoes, under limits.

A process reads one JSON array `[gold, answer, dataset]` a line and writes `{"started": true}`, then the outcome. It is
a fork of one that has imported and warmed up everything. First of all it writes `{"ready": true, "pid": N}`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
from typing import BinaryIO

from cotkit.grading.equivalence import Decision, compare

MEMORY_BYTES = 320 * 2**20  # address space of a process; an ordinary comparison needs about 150 MB of it

ORIGINAL = "original"  # stands in the place of a data set for the original experiment's protocol
RECYCLE_AFTER = 2000  # comparisons after which a fresh process goes on, since sympy's caches only grow
ORPHAN_CPU_S = 5.0
GO_ON = 17  # exit code of a process that has served its time

_SUBSCRIPT = re.compile(r"_\s*\{?\s*(\w+)")
_COMMANDS = re.compile(r"\\text\s*\{[^{}]*\}|\\[a-zA-Z]+")


def answer_one(gold: str, answer: str, dataset: str) -> Decision:
    """The outcome of one comparison that text and exact arithmetic could not settle."""
    if dataset == ORIGINAL:
        return _seed_outcome(gold, answer)
    vetoes: list[str] = []

    def oracle(left: str, right: str) -> bool:
        if not math_verify_equal(left, right):
            return False
        name = veto(left, right)
        if name is not None:
            vetoes.append(name)
        return name is None

    try:
        outcome = compare(gold, answer, dataset, oracle) or Decision("wrong", "math_verify")
    except MemoryError:
        return Decision("grader_timeout", "memory_budget")
    except Exception:  # noqa: BLE001  whatever computer algebra raises on a model's text
        return Decision("wrong", "math_verify_error")
    return outcome._replace(rule=f"veto:{vetoes[0]}") if vetoes and outcome.verdict == "wrong" else outcome


def _seed_outcome(gold: str, answer: str) -> Decision:
    """Math-Verify on bare strings with its own settings: the original experiment's rule."""
    from math_verify import parse, verify

    try:
        equal = verify(parse(gold, parsing_timeout=None), parse(answer, parsing_timeout=None), timeout_seconds=None)
    except Exception:  # noqa: BLE001  as above; the original counts whatever fails as wrong
        return Decision("wrong", "math_verify_error")
    return Decision("correct" if equal else "wrong", "math_verify")


def math_verify_equal(gold: str, answer: str) -> bool:
    """Math-Verify's own opinion of two LaTeX expressions without delimiters."""
    from math_verify import verify

    left, right = parsed(gold), parsed(answer)
    return bool(left and right and verify(left, right, timeout_seconds=None))


def parsed(latex: str) -> list[object]:
    """What Math-Verify reads in `latex`; only its LaTeX reader is used, since the other one evaluates Python."""
    from math_verify import LatexExtractionConfig, parse

    result: list[object] = parse(
        f"${latex}$", extraction_config=[LatexExtractionConfig()], fallback_mode="no_fallback", parsing_timeout=None
    )
    return result


def veto(gold: str, answer: str) -> str | None:
    """Why Math-Verify's "equal" is not believed: the kinds of answer it is known to confuse (docs/GRADING.md)."""
    if sorted(_SUBSCRIPT.findall(gold)) != sorted(_SUBSCRIPT.findall(answer)):
        return "subscript"
    if (_brackets(gold) or _brackets(answer)) and _brackets(gold) != _brackets(answer):
        return "brackets"
    # It accepts one different equation in five; those that can be told apart were decided before.
    if re.search(r"[<>=]|\\(?:le|ge|ne)(?![a-zA-Z])", gold + answer) and "".join(gold.split()) != "".join(
        answer.split()
    ):
        return "relation"
    if _is_tiny(gold) or _is_tiny(answer):
        return "tiny"
    if _letters(answer) - _letters(gold):
        return "fragment"
    return None


def _brackets(text: str) -> str:
    """The outer brackets: "(]", "{}", or "" for none."""
    text = text.strip().replace(r"\{", "{").replace(r"\}", "}")
    return text[0] + text[-1] if text and text[0] in "([{" and text[-1] in ")]}" else ""


def _letters(text: str) -> set[str]:
    """Letters that stand for something: one of the answer that the gold lacks was not read, or cancelled by chance."""
    return set(re.findall(r"[a-zA-Z]", _COMMANDS.sub(" ", text))) - {"d", "e", "i"}


def _is_tiny(text: str) -> bool:
    """Is this a number that Math-Verify's tolerance of 1e-6 would let equal any other such number?"""
    expressions = parsed(text)
    value = expressions[0] if expressions else None
    if not getattr(value, "is_number", False):
        return False
    return 0 < abs(complex(value)) < 1e-5  # type: ignore[call-overload,arg-type]


def _limit_process() -> None:
    """No more memory, core dumps or written files than a comparison needs."""
    import resource

    for limit, value in ((resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0)):
        with contextlib.suppress(ValueError, OSError):  # macOS knows the limits but does not set all of them
            resource.setrlimit(limit, (value, value))


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answers requests until their end, or until it is time for a fresh process."""
    reply(replies, {"ready": True, "pid": os.getpid()})
    for _ in range(RECYCLE_AFTER):
        line = requests.readline()
        if not line:
            sys.exit(0)
        gold, answer, dataset = json.loads(line)
        reply(replies, {"started": True})
        # The parent kills after a second. Should it be gone, the kernel ends this process by its default action.
        signal.setitimer(signal.ITIMER_VIRTUAL, ORPHAN_CPU_S)
        outcome = answer_one(gold, answer, dataset)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        reply(replies, {"verdict": outcome.verdict, "rule": outcome.rule})


def reply(replies: BinaryIO, message: dict[str, object]) -> None:
    replies.write(json.dumps(message).encode() + b"\n")


def main() -> int:
    """Warms up once, then lets forks of itself serve: a killed one is replaced in milliseconds instead of seconds."""
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever a library prints must not enter the protocol
    sys.modules["gmpy2"] = None  # type: ignore[assignment]  # an import of it fails, whatever the environment says
    sys.setrecursionlimit(3000)
    try:
        math_verify_equal(r"\frac{\sqrt{2}}{3}+x^{2}", r"\int_0^1 x dx+\sum_{n=1}^{3} n")  # builds the parser's tables
    except ImportError as error:
        reply(replies, {"error": f"{error}; install math-verify"})
        return 1
    _limit_process()
    while True:
        child = os.fork()
        if child == 0:
            serve(os.fdopen(0, "rb", buffering=0), replies)
            os._exit(GO_ON)
        status = os.waitpid(child, 0)[1]
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) != GO_ON:
            return 0


if __name__ == "__main__":
    sys.exit(main())
