"""Rules that hold for all code: data is not run as code, text files have an encoding, class names are unique."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

CODE = [*ROOT.glob("*.py"), *ROOT.glob("cotkit/**/*.py"), *ROOT.glob("scripts/**/*.py")]
FORBIDDEN_CALLS = {"eval", "exec", "sympify", "parse_expr", "torch.load", "yaml.load", "os.system", "__import__"}
FORBIDDEN_MODULES = {"pickle", "dill", "shelve", "marshal"}
TEXT_METHODS = {"read_text", "write_text"}


def violations(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            yield from ((node.lineno, name) for name in names if name.split(".")[0] in FORBIDDEN_MODULES)
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in FORBIDDEN_CALLS or called.split(".")[-1] in {"sympify", "parse_expr"}:
            yield node.lineno, called
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        for name in ("shell", "trust_remote_code"):
            if keywords.get(name, "False") != "False":
                yield node.lineno, f"{name}={keywords[name]}"
        if called == "open":
            mode = ast.unparse(node.args[1]) if len(node.args) > 1 else keywords.get("mode", "'r'")
            if "b" not in mode and "encoding" not in keywords:
                yield node.lineno, "open without encoding"
        if called.split(".")[-1] in TEXT_METHODS and "encoding" not in keywords:
            yield node.lineno, f"{called} without encoding"


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_forbidden(path: Path):
    found = list(violations(ast.parse(path.read_text(encoding="utf-8"))))
    assert not found


@pytest.mark.parametrize(
    "line",
    [
        "eval('1')",
        "import pickle",
        "torch.load(f)",
        "run(x, shell=True)",
        "load(x, trust_remote_code=True)",
        "open(p)",
        "open(p, 'w')",
        "p.read_text()",
        "sympy.sympify(s)",
        "from pickle import loads",
    ],
)
def test_each_violation_is_found(line: str):
    assert list(violations(ast.parse(line)))


def test_no_config_trusts_remote_code():
    for path in ROOT.glob("configs/**/*.yaml"):
        assert not re.search(r"(?im)^\s*trust_remote_code:\s*true", path.read_text(encoding="utf-8"))


def test_modules_do_nothing_when_imported():
    """The top level of a module has only constants and definitions."""
    for path in CODE:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            assert not isinstance(node, ast.Expr) or isinstance(node.value, ast.Constant), f"{path}:{node.lineno}"


def test_class_names_are_unique():
    named: dict[str, str] = {}
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                assert node.name not in named, f"class {node.name}: {named[node.name]} and {where}"
                named[node.name] = where
