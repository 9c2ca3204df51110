"""The error that scripts show as a single line."""

from __future__ import annotations

from pathlib import Path


class UserError(Exception):
    """An input, flag or file that cannot be used. The message is one line with the place and the remedy."""


class OtherPython(UserError):
    """The command needs the environment of another Python; `cli.run` starts the command there, in its place."""

    def __init__(self, message: str, python: Path) -> None:
        super().__init__(message)
        self.python = python
