"""The toolkit, one package per stage; CONTRIBUTING.md has the map."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  pip would refuse an older Python, but a bare `python3` runs it
    version = ".".join(map(str, sys.version_info[:3]))
    sys.exit(
        f"error: Python 3.11 or newer is needed, this is {version}; activate the environment: source .venv/bin/activate"
    )
