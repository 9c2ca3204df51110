"""Answers questions with a method of a run, as stage 4 would, and shows the answer that score.py would grade.

Reads   <run>/predictions/<dataset>/<method>.jsonl.manifest.json    base model, adapter, token limit and so on
        the question: a word of the command line, or each line of stdin     Tom has 3 apples and buys 4 more. How many now?
Writes  nothing; on stdout, for each method:
        --- distilled
        Tom has 3+4=7 apples.
        #### 7
        --- answer 7 (answer_line), ended with EOS, 13 tokens

    python scripts/ask.py outputs/smollm2_cpu distilled "Tom has 3 apples and buys 4 more. How many does he have?"
    python scripts/ask.py outputs/smollm2_cpu distilled --compare baseline,strong_baseline
    python scripts/ask.py outputs/smollm2_cpu distilled gsm_symbolic-test-00003
    python scripts/ask.py outputs/smollm2_cpu distilled --serve 8000

`baseline` is the base model. The id of a test problem asks that problem and grades the answer too. Without a question,
every line of stdin is one, until Ctrl-D. --serve starts a server of the model that scripts/export.py has written: `vllm serve`
where it works, else `transformers serve`; --backend vllm or --backend transformers chooses.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from cotkit.core import cli
from cotkit.core.datasets import KIND_FIELD, kind_of
from cotkit.core.errors import UserError
from cotkit.core.finish_reasons import is_failed
from cotkit.core.jsonl import Row
from cotkit.core.manifest import Input
from cotkit.core.problems import read_problems, unfit
from cotkit.generation import engines, prompts
from cotkit.generation.options import BACKENDS
from cotkit.generation.run_methods import RunMethod, check, read_run_methods
from cotkit.generation.types import Completion, Request
from cotkit.grading.grader import Item, find_answer, grade
from cotkit.publishing import server

log = logging.getLogger(__name__)

ENDS = {
    "stop": "ended with EOS",
    "answer": "stopped after the answer line",
    "length": "truncated",
    "loop": "stopped in a loop",
}


class TestSet:
    """The problems that the methods were tested on. Other questions are taken to have answers of the same kind.

    Args:
        recorded: path, number of rows and hash of the problems, as in the manifest of the predictions.
    """

    def __init__(self, recorded: Row) -> None:
        self._path = Path(recorded["path"])
        problems = read_problems(self._path)
        tested = Input(self._path, problems[: recorded["rows"]])
        self._is_same = tested.describe()["sha256"] == recorded["sha256"]
        self._by_id = {problem["id"]: problem for problem in problems}
        self._prefix = f"{problems[0]['dataset']}-{problems[0]['split']}-"
        self._kind = kind_of(problems[0], str(self._path))

    def problem(self, text: str) -> Row:
        """The problem with this id, or the text as a question without a gold answer. Raises UserError if it is neither."""
        if text in self._by_id and not self._is_same:
            raise UserError(f"{self._path}: was changed after the predictions; give the question itself, not its id")
        if text in self._by_id:
            return self._by_id[text]
        if text.startswith(self._prefix) and " " not in text:
            raise UserError(f"{self._path}: no problem has the id {text!r}; the first is {next(iter(self._by_id))!r}")
        if not text.strip():
            raise UserError("the question is empty; without one, the lines of stdin are asked")
        if found := unfit(text):
            raise UserError(f"the question holds {found}")
        return {"id": "question", "question": text, KIND_FIELD: self._kind}


def typed_questions() -> Iterator[str]:
    """The lines of stdin that are not empty, until Ctrl-D or Ctrl-C."""
    prompt = "question> " if sys.stdin.isatty() else ""
    while True:
        try:
            line = input(prompt).strip()
            line.encode()
        except (EOFError, KeyboardInterrupt):
            return
        except UnicodeError:
            raise UserError("stdin: not UTF-8; convert it to UTF-8") from None
        if line:
            yield line


def show(method: RunMethod, problem: Row, completion: Completion) -> None:
    """Prints a text with its extracted answer and, if the problem has a gold answer, its verdict."""
    print(f"--- {method.name}")
    if is_failed(completion.finish_reason):
        print(f"--- failed: {completion.error}")
        return
    print(completion.response)
    kind = kind_of(problem, problem["id"])
    found = find_answer(completion.response, kind, completion.finish_reason)
    answer = "no answer" if found.answer is None else f"answer {found.answer} ({found.how})"
    if "answer" in problem:
        item = Item(problem["id"], kind, problem["answer"], completion.response, completion.finish_reason)
        answer += f", {grade(item).verdict}: gold {problem['answer']}"
    end = ENDS.get(completion.finish_reason, completion.finish_reason)
    print(f"--- {answer}, {end}, {completion.completion_tokens} tokens", flush=True)


def ask(methods: list[RunMethod], problem: Row, loader: engines.Loader) -> int:
    """Asks the methods one after another; returns the exit code."""
    code = 0
    for method in methods:
        backend = loader.load(method.engine, method.sampling)
        for _, completion in backend.generate([request_for(problem)]):
            show(method, problem, completion)
            code = cli.SOME_ITEMS_FAILED if is_failed(completion.finish_reason) else code
    return code


def request_for(problem: Row) -> Request:
    return Request(problem["id"], 0, prompts.student_messages(problem["question"]))


def converse(methods: list[RunMethod], test_set: TestSet, loader: engines.Loader) -> int:
    """Answers the questions of stdin. One that cannot be asked is refused, and the next one is read."""
    code = 0
    for text in typed_questions():
        try:
            problem = test_set.problem(text)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            code = cli.SOME_ITEMS_FAILED
            continue
        code = max(code, ask(methods, problem, loader))
    return code


def serve(folder: Path, port: int, engine: str | None, method: RunMethod, question: str) -> NoReturn:
    """Shows how to ask the server of an exported model, and becomes that server; see `server.command`."""
    if method.engine.adapter is None:
        raise UserError(
            f"{method.name}: is no trained method; serve its model itself: transformers serve {method.engine.model}"
        )
    words = server.command(folder, port, engine)
    print(server.example(folder, port, question, method.sampling))
    log.info("%s; Ctrl-C ends it", shlex.join(words))
    sys.stdout.flush()
    os.execv(words[0], words)


def named_methods(method: str, others: str | None) -> list[str]:
    """METHOD and those of --compare, each once."""
    names = (name.strip() for name in (others or "").split(","))
    return list(dict.fromkeys([method, *(name for name in names if name)]))


def main(argv: list[str] | None = None) -> int:
    parser = cli.StageParser(__doc__, "dry_run")
    parser.add_argument("run", type=Path, metavar="RUN", help="a folder under outputs/")
    parser.add_argument("method", metavar="METHOD", help="a method with predictions, such as distilled or baseline")
    parser.add_argument("question", nargs="?", metavar="QUESTION", help="a question, or the id of a test problem")
    parser.add_argument("--compare", metavar="A,B", help="also answer with these methods")
    parser.add_argument(
        "--dataset", metavar="NAME", help="test set whose settings apply (default: highest token limit)"
    )
    parser.add_argument("--backend", choices=BACKENDS, help="another engine (default transformers)")
    parser.add_argument("--base_url", metavar="URL", help="the server of --backend openai")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default auto)")
    parser.add_argument("--serve", type=cli.positive_int, metavar="PORT", help="serve its exported model instead")
    args = parser.parse(argv)
    if args.serve and (args.compare or args.dry_run or args.base_url or args.device != "auto"):
        parser.error("--serve takes one method, and neither --compare, --dry_run, --base_url nor --device")
    if args.serve and args.backend not in (None, *server.ENGINES):
        parser.error(f"--serve: of the backends, {' and '.join(server.ENGINES)} can serve")
    found = read_run_methods(args.run, named_methods(args.method, args.compare), args.dataset)
    engine = {"device": args.device, "base_url": (args.base_url,) if args.base_url else ()}
    engine |= {"backend": args.backend} if args.backend else {}
    methods = [replace(method, engine=replace(method.engine, **engine)) for method in found]
    test_set = TestSet(methods[0].problems)
    problem = test_set.problem(args.question) if args.question is not None else None
    first, shown = methods[0], problem or test_set.problem("QUESTION")
    if args.serve:
        serve(args.run / "export" / first.name, args.serve, args.backend, first, shown["question"])
    for method in methods:
        check(method)
    if args.dry_run:
        print(engines.preview(first.engine, request_for(shown), first.sampling))
        return 0
    log.info(
        "%s, at most %d tokens, as for %s", first.engine.model, first.sampling.max_new_tokens, first.problems["path"]
    )
    logging.getLogger("cotkit").setLevel(logging.WARNING)  # figures of the decoding would stand between the answers
    loader = engines.Loader()
    return ask(methods, problem, loader) if problem else converse(methods, test_set, loader)


if __name__ == "__main__":
    sys.exit(cli.run(main))
