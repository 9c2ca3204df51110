"""YAML files as their readers need them: every key with its value and line, so that a message can name the place to change."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cotkit.core.errors import UserError
from cotkit.core.files import elsewhere

Values = dict[str, tuple[Any, int]]  # key -> value and line


def read_yaml(path: Path) -> Values:
    """Top-level keys of a YAML file as ``key -> (value, line number)``. Raises UserError. Runs no tags."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {elsewhere(path) or 'check the path'}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8; convert the file to UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "cannot be parsed"
        raise UserError(f"{path}{line}: not valid YAML ({problem})") from None
    if node is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path}:1: `key: value` lines are expected, found a {type(values).__name__}")
    lines: dict[str, int] = {}
    for key_node, _ in node.value:
        if key_node.value in lines:
            raise UserError(f"{path}:{key_node.start_mark.line + 1}: key {key_node.value!r} appears twice")
        lines[key_node.value] = key_node.start_mark.line + 1
    return {str(key): (value, lines.get(str(key), 1)) for key, value in values.items()}


def rounds_of(config: Path, key: str = "rounds") -> list[Values]:
    """What each entry of a list of mappings in the file changes; one entry without changes if there is no list.

    Raises:
        UserError: with file and line, if it is not a list of ``{key: value}`` entries.
    """
    entries, line = read_yaml(config).get(key, (None, 1))
    if entries is None:
        return [{}]
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{config}:{line}: {key}: a list of entries is expected, such as - {{temperature: 0.7}}")
    rounds: list[Values] = []
    for entry, at in zip(entries, item_lines(config, key), strict=True):
        if not isinstance(entry, dict):
            raise UserError(f"{config}:{at}: {key}: {{key: value}} is expected, found {entry!r}")
        rounds.append({str(name): (value, at) for name, value in entry.items()})
    return rounds


def listed(config: Path, key: str) -> list[tuple[Any, str]]:
    """The items of a list in a YAML file, each with its place (``file:line``); a single value is a list of one."""
    value, line = read_yaml(config).get(key, ([], 1))
    if not isinstance(value, list):
        return [(value, f"{config}:{line}")]
    return [(item, f"{config}:{at}") for item, at in zip(value, item_lines(config, key), strict=True)]


def item_lines(config: Path, key: str) -> list[int]:
    """The line of each entry of a list in a YAML file; none if the key holds no list."""
    import yaml

    node = yaml.compose(config.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    entries = next((value for name, value in (node.value if node else []) if name.value == key), None)
    return [item.start_mark.line + 1 for item in entries.value] if isinstance(entries, yaml.SequenceNode) else []


def home_expanded(value: Any) -> Any:
    """A value of a YAML file, with ``~/`` as a shell would expand it."""
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~/") else value
