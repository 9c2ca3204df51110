"""The command line of all scripts: defaults from YAML, common flags, errors as one line, exit codes.

Exit codes: 0 done, 1 error, 2 usage, 3 finished but some items failed for good, 4 not done yet (only with --is_done),
130 and 143 on SIGINT and SIGTERM.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import logging
import math
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from cotkit.core import machine
from cotkit.core.errors import OtherPython, UserError
from cotkit.core.files import ROOT
from cotkit.core.yaml_file import Values, home_expanded, listed, read_yaml, rounds_of

SOME_ITEMS_FAILED = 3
NOT_DONE = 4
# The least level that is shown. matplotlib warns that it looks for fonts, in every new home folder.
NOISY = {"httpx": logging.WARNING, "torch.distributed": logging.WARNING, "matplotlib": logging.ERROR}


def whole_number(text: str, least: int = 0) -> int:
    """An argparse type: a whole number of at least 0."""
    value = int(text)
    if value < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}, found {value}")
    return value


def positive_int(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    return whole_number(text, least=1)


def positive_float(text: str) -> float:
    """An argparse type: a finite number above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0, found {text}")
    return value


class Collect(argparse.Action):
    """A flag that may be given several times. Its values together replace the default."""

    def __call__(self, _: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None) -> None:
        known = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*([] if known is self.default else known), *values])


COMMON_FLAGS: dict[str, dict[str, Any]] = {
    "limit": {"metavar": "N", "type": positive_int, "help": "read only the first N input rows, for testing"},
    "seed": {"metavar": "N", "type": int, "default": 42, "help": "random seed (default 42)"},
    "dry_run": {"action": "store_true", "help": "check everything, show one example, write nothing"},
    "overwrite": {"action": "store_true", "help": "start over if an output exists"},
}


@dataclass(frozen=True)
class KeyFlag:
    """A flag whose value selects among the entries of a mapping in the file: ``limit: {gsm8k: 100, math500: 50}``.

    Args:
        flag: its name.
        root: name of a flag that holds a folder.
        known: what the keys of a mapping may be, given that folder.
    """

    flag: str
    root: str
    known: Callable[[Path], Iterable[str]]


@dataclass(frozen=True)
class Entry:
    """A mapping of flags and their converted values in a list of the file, and its place (``file:line``)."""

    values: dict[str, Any]
    where: str


class StageParser(argparse.ArgumentParser):
    """An ArgumentParser whose defaults can come from ``--config FILE.yaml``. Flags on the command line win.

    Args:
        doc: the script's docstring, shown by --help.
        common: the keys of `COMMON_FLAGS` that this script has.
        keyed_by: a value in the file may be a mapping, of which this flag selects the entry.
        rounds: (key, flag). The file's key holds a list of mappings, and the flag selects one of them, counted from 1.
            The selected mapping's values win over the file's other values.
        entries: (flag, keys). The flag's list in the file may hold mappings with these keys, which are names of flags
            too. Each becomes an `Entry`. These flags, except for common ones, have no defaults in the file itself.
        other_config: what a word after --config is that does not end in .yaml or .yml; None if it is a file too.
    """

    def __init__(
        self,
        doc: str | None,
        *common: str,
        keyed_by: KeyFlag | None = None,
        rounds: tuple[str, str] | None = None,
        entries: tuple[str, tuple[str, ...]] | None = None,
        other_config: str | None = None,
    ) -> None:
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
        self._keyed_by, self._rounds, self._key, self._keys = keyed_by, rounds, None, set()
        self._entries, self._other_config, self._common = entries, other_config, common
        group = self.add_argument_group("common flags")
        text = "file whose keys set the defaults of the flags" + (f", or {other_config}" if other_config else "")
        group.add_argument("--config", metavar="YAML", type=Path, help=text)
        for name in common:
            older_spelling = ["--dry-run"] if name == "dry_run" else []
            group.add_argument(f"--{name}", *older_spelling, **COMMON_FLAGS[name])
        group.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def error(self, message: str) -> NoReturn:
        """Ends the program with one line and exit code 2. argparse would print the usage, often a screen of it, first."""
        self.exit(2, f"error: {message}; see --help\n")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, but lets flags stand between positional words, and names the nearest flag for an unknown one."""
        found, unknown = self.parse_known_intermixed_args(args, namespace)
        if unknown:
            flag = unknown[0].partition("=")[0]
            known = [name for name in self._option_string_actions if name.startswith("--")]
            self.error(f"unknown argument {unknown[0]}{similar(flag, known) if flag.startswith('-') else ''}")
        return found

    def print_help(self, file: Any = None) -> None:
        """Prints the help. Raises OSError if it cannot be written; argparse would hide that."""
        print(self.format_help(), end="", file=file)

    def parse(self, argv: list[str] | None) -> argparse.Namespace:
        """Parses twice: first for ``--config`` and the flags that select among its values, then with its defaults."""
        early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        early.error = self.error  # type: ignore[method-assign]
        early.add_argument("--config", type=Path)
        if self._rounds:
            early.add_argument(f"--{self._rounds[1]}", type=int, default=1)
        if self._keyed_by:
            early.add_argument(f"--{self._keyed_by.flag}")
            early.add_argument(f"--{self._keyed_by.root}", type=Path, default=self.get_default(self._keyed_by.root))
        found = early.parse_known_args(argv)[0]
        if self._keyed_by:
            self._key = getattr(found, self._keyed_by.flag)
            self._keys = {*self._keyed_by.known(getattr(found, self._keyed_by.root)), self._key} - {None}
        if found.config is not None and self.is_file_of_defaults(found.config):
            self._take_defaults(found.config, getattr(found, self._rounds[1]) if self._rounds else 1)
        return self.parse_args(argv)

    def is_file_of_defaults(self, config: Path) -> bool:
        """Whether the word after --config names a YAML file."""
        return self._other_config is None or config.suffix in (".yaml", ".yml")

    def _take_defaults(self, config: Path, number: int) -> None:
        """Takes defaults from the file and, if it has rounds, from the entry of this round."""
        key, flag = self._rounds or ("", "")
        values = {name: value for name, value in read_yaml(config).items() if name != key}
        entries = rounds_of(config, key) if key else [{}]
        defaults = self._converted(values, config)
        # All rounds are converted, so that a mistake in a later one shows before the first one has run.
        overrides = [self._converted(entry, config) for entry in entries]
        if not 1 <= number <= len(entries):
            raise UserError(f"--{flag} {number}: {config} has {len(entries)} of them; add an entry to its `{key}`")
        self.set_defaults(**defaults | overrides[number - 1])

    def _converted(self, values: Values, config: Path) -> dict[str, Any]:
        """Defaults by flag name, each converted by its flag's type."""
        not_in_files = {"help", "config", "debug", self._rounds[1] if self._rounds else ""}
        if self._entries:
            not_in_files |= set(self._entries[1]) - set(self._common)
        actions = {action.dest: action for action in self._actions if action.dest not in not_in_files}
        converted = {}
        for key, (value, line) in values.items():
            action = actions.get(key.replace("-", "_"))
            if action is None:
                raise UserError(f"{config}:{line}: unknown key {key!r}{nearest(key, actions)}")
            if self._entries and action.dest == self._entries[0]:
                converted[action.dest] = [self._entry(action, item, at) for item, at in listed(config, key)]
                continue
            for found in self._selected(action, value, f"{config}:{line}: {key}"):
                if found is None and action.required:
                    raise UserError(f"{config}:{line}: {key} has no value, and needs one; a lone ~ or null is none")
                converted[action.dest] = found
                action.required = False
        return converted

    def _entry(self, action: argparse.Action, item: Any, where: str) -> Any:
        """An item of the list `entries`: a converted value, or a mapping as an `Entry`."""
        if not isinstance(item, dict):
            return _convert_one(action, item, f"{where}: {action.dest}")
        keys = self._entries[1] if self._entries else ()
        actions = {one.dest: one for one in self._actions if one.dest in keys}
        values = {}
        for key, value in item.items():
            if key not in actions:
                raise UserError(f"{where}: unknown key {key!r}{nearest(str(key), actions)}")
            if isinstance(value, dict):  # {train: 0.9, dev: 0.1} for train:0.9,dev:0.1
                value = ",".join(f"{name}:{part}" for name, part in value.items())
            values[key] = _convert(actions[key], value, f"{where}: {key}")
        return Entry(values, where)

    def _selected(self, action: argparse.Action, value: Any, where: str) -> list[Any]:
        """The converted value as a list of one. Of a mapping, the entry that `keyed_by` selects; none if it has none."""
        if not isinstance(value, dict) or self._keyed_by is None:
            return [_convert(action, value, where)]
        for name in value:
            if name not in self._keys:
                raise UserError(f"{where}: no {self._keyed_by.flag} {name!r}{nearest(str(name), self._keys)}")
        entries = {name: _convert(action, entry, where) for name, entry in value.items()}
        return [entries[self._key]] if self._key in entries else []


def nearest(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?``, or ``; known are ...`` if nothing is similar."""
    known = list(known)
    return f"; {hint.strip(' ()')}" if (hint := similar(word, known)) else f"; known are {', '.join(sorted(known))}"


def similar(word: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)``, or nothing if no known word is similar."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _convert(action: argparse.Action, value: Any, where: str) -> Any:
    """A YAML value, converted by the flag's type. Raises UserError."""
    if value is None:
        return None
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        if not isinstance(value, bool):
            raise UserError(f"{where} must be true or false, found {value!r}")
        return value
    if action.nargs in ("+", "*"):
        return [_convert_one(action, item, where) for item in (value if isinstance(value, list) else [value])]
    return _convert_one(action, value, where)


def _convert_one(action: argparse.Action, value: Any, where: str) -> Any:
    if isinstance(value, list | dict | bool):
        raise UserError(f"{where}: a single value is expected, found {value!r}")
    try:
        value = home_expanded(value)
        converted = action.type(str(value)) if callable(action.type) else str(value)
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise UserError(f"{where}: {value!r} does not fit ({error})") from None
    if action.choices is not None and converted not in action.choices:
        raise UserError(f"{where}: {converted!r} is not one of {', '.join(map(str, action.choices))}")
    return converted


def run(main: Callable[[], int]) -> int:
    """Runs a script's main and returns the exit code. Prints every foreseeable failure as one line on stderr."""
    signal.signal(signal.SIGTERM, _terminate)
    machine.set_defaults()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s", force=True)
    for noisy, level in NOISY.items():
        logging.getLogger(noisy).setLevel(level)
    try:
        _require_utf8()
        try:
            return main()
        except OtherPython as other:
            _continue_with(other.python)
        finally:  # argparse exits too, after --help
            _flush_stdout()
    except KeyboardInterrupt:
        _print_error("interrupted; the same command resumes")
        return 130
    except (UserError, OSError, ModuleNotFoundError) as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        prefix = f"error (rank {os.environ.get('RANK', '0')})" if "WORLD_SIZE" in os.environ else "error"
        _print_error(f"{prefix}: {_message(error)}".replace("\n", "\n  "))
        _drop_unwritten_stdout()
        return 1


def _continue_with(python: Path) -> NoReturn:
    """Runs the same command with another Python, as this process. Its environment need not have the package cotkit."""
    _flush_stdout()
    known = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), known] if known else [str(ROOT)])
    os.execv(python, [str(python), *sys.orig_argv[1:]])


def _message(error: UserError | OSError | ModuleNotFoundError) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'output'}: {error.strerror}"
    if isinstance(error, ModuleNotFoundError):
        return (
            f"the package {error.name!r} is not installed for {sys.executable}; run `bash scripts/setup.sh` once, then "
            "`source .venv/bin/activate`"
        )
    return str(error)


def _print_error(text: str) -> None:
    with contextlib.suppress(OSError):  # stderr may be on the full disk too
        print(text, file=sys.stderr)


def _flush_stdout() -> None:
    """Raises OSError if stdout is on a full disk. Python itself would notice too late and exit with 120."""
    print(end="", flush=True)


def _drop_unwritten_stdout() -> None:
    """Points stdout to the null device if it cannot be written, so that Python's flush at exit does not fail too."""
    try:
        _flush_stdout()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _require_utf8() -> None:
    """Restarts Python in its UTF-8 mode if the locale has another encoding: names and texts are UTF-8 everywhere."""
    if sys.getfilesystemencoding() != "utf-8":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    for word in sys.argv:
        if word != word.encode("utf-8", "replace").decode("utf-8"):
            raise UserError(f"{word!r} is not UTF-8; rename the file")


def _terminate(*_: object) -> None:
    _print_error("terminated; the same command resumes")
    sys.exit(143)
