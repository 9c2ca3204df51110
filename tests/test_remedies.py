"""What messages and pages tell a user to run exists: every script that they name, and every flag that they give it."""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import runpy
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT

from cotkit.core import cli

PACKAGE = [*ROOT.glob("cotkit/**/*.py")]
SCRIPTS = [*ROOT.glob("*.py"), *ROOT.glob("scripts/**/*.py"), *ROOT.glob("scripts/**/*.sh")]
PAGES = [path for pattern in ("*.md", "docs/*.md", "configs/*/*.md") for path in ROOT.glob(pattern)]
PAGES.remove(ROOT / "CHANGELOG.md")  # it names what is gone

# A program that a text names, with the words that belong to it. Those of other projects are passed over.
PROGRAM = re.compile(
    r"(?<![\w./-])(?:[\w.]+/)*(\w+\.(?:py|sh))\b|\b(vllm serve|pip install|transformers serve|hf download|pytest|sbatch)\b"
)
FLAG = re.compile(r"(?<![\w-])--[a-z]\w*(?:-\w+)*")
CASE_LABEL = re.compile(r"^\s+(--[\w-]+(?: \| --[\w-]+)*)\)|== (--[\w-]+) ", re.MULTILINE)
TORCHRUN = {"--standalone", "--nproc_per_node", "--nnodes", "--node_rank", "--rdzv-backend", "--rdzv-endpoint"}
TORCHRUN |= {"--rdzv-id", "--nproc-per-node"}


class Captured(Exception):
    """Raised in place of parsing, with the parser."""


@cache
def flags_of(script: Path) -> frozenset[str]:
    """The flags that a script takes."""
    text = script.read_text(encoding="utf-8")
    if script.suffix == ".sh":
        labels = [one or other for one, other in CASE_LABEL.findall(text)]
        return frozenset(FLAG.findall(" ".join(labels))) | {"--help"}
    code = runpy.run_path(str(script), run_name="collected")
    if "build_parser" in code:
        return frozenset(code["build_parser"]()._option_string_actions)
    main = code.get("main")
    with pytest.MonkeyPatch.context() as patch:

        def capture(parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
            raise Captured(parser)

        for kind, name in ((cli.StageParser, "parse"), (argparse.ArgumentParser, "parse_args")):
            patch.setattr(kind, name, capture)
        for name in ("parse_known_args", "parse_intermixed_args"):
            patch.setattr(argparse.ArgumentParser, name, capture)
        patch.setattr("sys.argv", [str(script), "--help"])
        try:
            if main and inspect.signature(main).parameters:
                main(["--help"])
        except Captured as found:
            return frozenset(found.args[0]._option_string_actions)
    return frozenset({"--help"})


def texts_in(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of every string of Python code that a user may read; the values in f-strings are left out."""
    tree = ast.parse(source)
    documented = [node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)]
    passed = {node.body[0].value for node in documented if node.body and isinstance(node.body[0], ast.Expr)}
    passed |= {value for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for value in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield (
                node.lineno,
                "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values),
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in passed:
            yield node.lineno, node.value
    if tree.body and (doc := ast.get_docstring(tree)):
        yield 1, doc


def shell_texts_in(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of what a shell script prints, and of the comment at its top."""
    joined = re.sub(r"\\\n#?\s*", " ", source)
    for number, line in enumerate(re.sub(r"\$\([^()]*\)", "X", joined).split("\n"), 1):
        if re.match(r"#(?!SBATCH)|\s*(?:fail|usage|echo|printf|say)\b", line) or re.search(
            r"\|\| (?:fail|usage)\b", line
        ):
            yield number, line


def page_texts_in(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of every piece of code in a page; a command may go on after a backslash."""
    joined = re.sub(r"\\\n\s*", " ", source)
    block = False
    for number, line in enumerate(joined.split("\n"), 1):
        if line.startswith("```"):
            block = not block
        elif block:
            yield number, line
        else:
            yield from ((number, code) for code in re.findall(r"`([^`]+)`", line))


def named(name: str) -> Path | None:
    """The script of that name; None if it is no script of this project's."""
    return next((path for path in SCRIPTS if path.name == name), None)


@cache
def callers_of(module: Path) -> frozenset[Path]:
    """The scripts that use a module, through others too."""
    found, seen, pending = set[Path](), {module}, [module]
    while pending:
        for path in _importers(pending.pop()) - seen:
            seen.add(path)
            (found.add if path in SCRIPTS else pending.append)(path)
    shells = [path for path in SCRIPTS if path.suffix == ".sh"]
    return frozenset(found | {sh for sh in shells if any(path.name in sh.read_text("utf-8") for path in found)})


@cache
def _importers(module: Path) -> frozenset[Path]:
    if module.name.endswith("_backend.py"):  # found by their names
        return frozenset({module.parents[1] / "engines.py"})
    room, _, own = ".".join(module.relative_to(ROOT).with_suffix("").parts).rpartition(".")
    imports = re.compile(
        rf"{re.escape(room)}\.{own}\b|from {re.escape(room)} import (?:[^\n]*\b{own}\b|\([^)]*\b{own}\b)"
    )
    code = [path for path in (*PACKAGE, *SCRIPTS) if path.suffix == ".py"]
    return frozenset(path for path in code if imports.search(path.read_text("utf-8")))


def wrong_in(text: str, speaker: Path | None) -> Iterator[str]:
    """What a text names that does not exist. Flags before any program's name are the speaker's own.

    `speaker` is the file that says it: a script, a module that scripts use, or None for a page, which has no flags.
    """
    pieces = [(None, text)]
    if programs := list(PROGRAM.finditer(text)):
        ends = [found.start() for found in programs[1:]] + [len(text)]
        pieces = [(None, text[: programs[0].start()])]
        pieces += [(found, text[found.end() : end]) for found, end in zip(programs, ends, strict=True)]
    for found, words in pieces:
        if found and found[2]:
            continue
        if found:
            script = named(found[1])
            if script is None:
                if re.search(r"(?:python|bash) \S*$", text[: found.start()] + " ") or found[0].startswith("scripts/"):
                    yield f"no script {found[0]}"
                continue
            known = flags_of(script)
        elif speaker is None:
            continue
        elif speaker in SCRIPTS:
            known = flags_of(speaker)
        else:
            known = frozenset().union(*map(flags_of, callers_of(speaker)))
        foreign = TORCHRUN if "torchrun" in text else set()
        yield from (
            f"{found[0] if found else 'own'} {flag}" for flag in FLAG.findall(words) if flag not in known | foreign
        )


def every_text() -> Iterator[tuple[Path, int, str]]:
    for path in (*PACKAGE, *SCRIPTS, *PAGES):
        if "dev" in path.relative_to(ROOT).parts:
            continue
        read = {".py": texts_in, ".sh": shell_texts_in, ".md": page_texts_in}[path.suffix]
        for line, text in read(path.read_text(encoding="utf-8")):
            if " " in text:  # else it is a word of a command line that the code itself makes
                yield path, line, text


def test_every_named_script_and_flag_exists():
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {fault}: {text[:150]!r}"
        for path, line, text in every_text()
        for fault in wrong_in(text, None if path.suffix == ".md" else path)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("speaker", "text"),
    [
        ("score.py", "p.jsonl: failed; --overwritten starts over"),
        ("score.py", "p.jsonl: failed; run score.py again with --allow_faild"),
        ("score.py", "p.jsonl: failed; run infer_parallel.py again with --allow_failed"),
        ("score.py", "p.jsonl: failed; python scripts/scores.py does it"),
        ("cotkit/core/manifest.py", "give another output path, or --over to start over"),
        ("cotkit/evaluation/join.py", "the teacher must solve: --mode solve"),
        ("scripts/pipeline.sh", "error: --from_stage repeats it"),
        ("scripts/pipeline.sh", "bash scripts/setup.sh --cuda makes it"),
    ],
)
def test_a_wrong_remedy_is_found(speaker: str, text: str):
    assert list(wrong_in(text, ROOT / speaker))


NAMED_KEY = re.compile(r"(?:\b(?:set|add|with|or|and)|,) ([a-z]\w+): (?=[\w'])|`([a-z]\w+): ")


@pytest.mark.slow
def test_every_key_that_a_message_of_the_training_names_exists():
    """As in "set bf16: true". Importing LLaMA-Factory, which knows most of them, takes some seconds."""
    from llamafactory.hparams.parser import _TRAIN_ARGS

    from cotkit.training.config import DISTILL_KEYS, OWN_KEYS

    known = {field.name for kind in _TRAIN_ARGS for field in fields(kind)}.union(OWN_KEYS, DISTILL_KEYS)
    known |= {flag[2:] for name in ("teacher_cot.py", "filter_teacher_cot.py") for flag in flags_of(ROOT / name)}
    said = [
        (f"{path.relative_to(ROOT)}:{line}", one or other)
        for path, line, text in every_text()
        if path.parent.name == "training" or path.name in ("distill.py", "options.py")
        for one, other in NAMED_KEY.findall(text)
    ]
    assert len(said) > 10
    assert [(place, key) for place, key in said if key not in known] == []


def test_messages_are_read():
    """So that a change of their form does not empty the test above."""
    said = [(path.name, text) for path, _, text in every_text() if FLAG.search(text) or PROGRAM.search(text)]
    assert len(said) > 300
    assert any(name == "lineage.py" and "infer_parallel.py again with X --overwrite" in text for name, text in said)
