"""What every stage's command line shares: YAML defaults, common flags, one-line errors, exit codes.

Exit codes: 0 done, 1 error, 2 usage, 3 finished but some items failed for good, 130 and 143 on SIGINT and SIGTERM.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import math
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cotkit.files import DataError

SOME_ITEMS_FAILED = 3
NOT_DONE = 4  # only with --is_done
Values = dict[str, tuple[Any, int]]  # key -> value and line
NOT_IN_FILES = ("help", "config", "debug", "round")


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose defaults can come from ``--config FILE.yaml``; flags on the command line win."""

    def __init__(self, doc: str) -> None:
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
        common = self.add_argument_group("common to every stage")
        common.add_argument("--config", metavar="YAML", type=Path, help="file whose keys set the defaults of the flags")
        common.add_argument("--limit", metavar="N", type=positive_int, help="only the first N input rows, for testing")
        common.add_argument("--seed", metavar="N", type=int, default=42, help="seed of everything random (default 42)")
        common.add_argument("--dry-run", action="store_true", help="check everything, show one example, write nothing")
        common.add_argument("--overwrite", action="store_true", help="start over where an output exists")
        common.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def parse(self, argv: list[str] | None) -> argparse.Namespace:
        """Parses twice: once to find ``--config`` (and ``--round``), then with the file's values as defaults."""
        early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        early.add_argument("--config", type=Path)
        early.add_argument("--round", type=int, default=1)
        early.add_argument("--dataset")
        found = early.parse_known_args(argv)[0]
        self._dataset = found.dataset
        if found.config is not None:
            self._apply(found.config, found.round)
        return self.parse_args(argv)

    def _apply(self, config: Path, number: int) -> None:
        """Takes defaults from the file, and in a stage that has rounds from this round's entry of `rounds` as well."""
        values = read_yaml(config)
        if not any(action.dest == "round" for action in self._actions):
            self.set_defaults(**self._converted(values, config))
            return
        rounds = rounds_of(config)
        self.set_defaults(**self._converted({key: values[key] for key in values if key != "rounds"}, config))
        # All rounds are converted, so that a mistake in a later one shows before the first one has run.
        overrides = [self._converted(entry, config) for entry in rounds]
        if not 1 <= number <= len(rounds):
            raise DataError(f"--round {number}: {config} has {len(rounds)} of them; add an entry to its `rounds`")
        self.set_defaults(**overrides[number - 1])

    def _converted(self, values: Values, config: Path) -> dict[str, Any]:
        """The values by the names of their flags, as the flags' own types read them."""
        actions = {action.dest: action for action in self._actions if action.dest not in NOT_IN_FILES}
        converted = {}
        for key, (value, line) in values.items():
            action = actions.get(key.replace("-", "_"))
            if action is None:
                raise DataError(f"{config}:{line}: unknown key {key!r}{nearest(key, actions)}")
            for found in self._of_dataset(action, value, f"{config}:{line}: {key}"):
                converted[action.dest] = found
                action.required = False
        return converted

    def _of_dataset(self, action: argparse.Action, value: Any, where: str) -> list[Any]:
        """The value as one item; of a mapping, ``limit: {gsm8k: 100, math500: 50}``, the entry of --dataset, or no item.

        Only stages that take one data set have mappings.
        """
        asked = next((one for one in self._actions if one.dest == "dataset" and one.nargs is None), None)
        if not isinstance(value, dict) or asked is None:
            return [_convert(action, value, where)]
        for name in value:
            if name not in asked.choices:
                raise DataError(f"{where}: no data set {name!r}{nearest(str(name), asked.choices)}")
        entries = {name: _convert(action, entry, where) for name, entry in value.items()}
        return [entries[self._dataset]] if self._dataset in entries else []


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


class Gather(argparse.Action):
    """Values of a flag that may be given several times; together they take the place of the default."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None) -> None:
        known = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*([] if known is self.default else known), *values])


def nearest(word: str, known: Any) -> str:
    """``; did you mean 'x'?`` or the list of what there is."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(sorted(known))}"


def read_yaml(path: Path) -> Values:
    """Top-level keys of a YAML file as ``key -> (value, line number)``. Raises DataError, never runs a tag."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8; convert the file to UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "cannot be parsed"
        raise DataError(f"{path}{line}: not valid YAML ({problem})") from None
    if node is None:
        return {}
    if not isinstance(values, dict):
        raise DataError(f"{path}:1: `key: value` lines are expected, found a {type(values).__name__}")
    lines: dict[str, int] = {}
    for key_node, _ in node.value:
        if key_node.value in lines:
            raise DataError(f"{path}:{key_node.start_mark.line + 1}: key {key_node.value!r} stands twice")
        lines[key_node.value] = key_node.start_mark.line + 1
    return {str(key): (value, lines.get(str(key), 1)) for key, value in values.items()}


def rounds_of(config: Path) -> list[Values]:
    """What each entry of the file's list `rounds` changes; one entry that changes nothing where there is no list.

    Raises:
        DataError: naming file and line, where it is not a list of ``{key: value}`` entries.
    """
    entries, line = read_yaml(config).get("rounds", (None, 1))
    if entries is None:
        return [{}]
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{config}:{line}: rounds: a list of entries is expected, such as - {{temperature: 0.7}}")
    rounds: list[Values] = []
    for entry, at in zip(entries, item_lines(config, "rounds"), strict=True):
        if not isinstance(entry, dict):
            raise DataError(f"{config}:{at}: rounds: {{key: value}} is expected, found {entry!r}")
        rounds.append({str(key): (value, at) for key, value in entry.items()})
    return rounds


def item_lines(config: Path, key: str) -> list[int]:
    """The line of each entry of a list in a YAML file; none where the key holds no list."""
    import yaml

    node = yaml.compose(config.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    entries = next((value for name, value in (node.value if node else []) if name.value == key), None)
    return [item.start_mark.line + 1 for item in entries.value] if isinstance(entries, yaml.SequenceNode) else []


def _convert(action: argparse.Action, value: Any, where: str) -> Any:
    """A YAML value as the flag's own type would read it. Raises DataError."""
    if value is None:
        return None
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        if not isinstance(value, bool):
            raise DataError(f"{where} must be true or false, found {value!r}")
        return value
    if action.nargs in ("+", "*"):
        values = value if isinstance(value, list) else [value]
        return [_convert_one(action, item, where) for item in values]
    return _convert_one(action, value, where)


def _convert_one(action: argparse.Action, value: Any, where: str) -> Any:
    if isinstance(value, list | dict | bool):
        raise DataError(f"{where}: a single value is expected, found {value!r}")
    try:
        converted = action.type(str(value)) if callable(action.type) else str(value)
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise DataError(f"{where}: {value!r} does not fit ({error})") from None
    if action.choices is not None and converted not in action.choices:
        raise DataError(f"{where}: {converted!r} is not one of {', '.join(map(str, action.choices))}")
    return converted


def run(main: Callable[[], int]) -> int:
    """Runs a stage's main and turns what can go wrong into one line and an exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    rank = os.environ.get("RANK", "0")
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s", force=True)
    for noisy in ("httpx", "torch.distributed"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        _require_utf8()
        code = main()
        sys.stdout.flush()  # a full disk behind it shows here, not after the exit code is settled
        return code
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        return 130
    except (DataError, OSError) as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        text = f"{error.filename or 'output'}: {error.strerror}" if isinstance(error, OSError) else str(error)
        prefix = f"error (rank {rank})" if "WORLD_SIZE" in os.environ else "error"
        print(f"{prefix}: {text}".replace("\n", "\n  "), file=sys.stderr)
        return 1


def _require_utf8() -> None:
    """Starts Python once more in its UTF-8 mode where the locale says otherwise: names and texts are UTF-8 everywhere."""
    if sys.getfilesystemencoding() != "utf-8":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    for word in sys.argv:
        if word != word.encode("utf-8", "replace").decode("utf-8"):
            raise DataError(f"{word!r} is not UTF-8; rename the file")


def _terminate(*_: object) -> None:
    print("terminated; the same command resumes", file=sys.stderr)
    sys.exit(143)
