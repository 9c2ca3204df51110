"""The error that scripts show as a single line."""

from __future__ import annotations


class UserError(Exception):
    """An input, flag or file that cannot be used. The message is one line with the place and the remedy."""
