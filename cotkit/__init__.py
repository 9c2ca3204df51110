"""The rooms of the toolkit, one for each stage; CONTRIBUTING.md draws the house."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  pip refuses an older one, a bare `python3` does not
    version = ".".join(map(str, sys.version_info[:3]))
    sys.exit(
        f"error: Python 3.11 or newer is needed, this is {version}; activate the environment: source .venv/bin/activate"
    )
