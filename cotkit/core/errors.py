"""The one error that a user is shown as a single line."""

from __future__ import annotations


class UserError(Exception):
    """Input or output that cannot be used; the message is one line that names the place and the remedy."""
