"""Names the proxy that the environment sends requests through. A forgotten one is a common reason why a server is not reached."""

from __future__ import annotations

import os
from importlib.util import find_spec
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass_environment

from cotkit.core.errors import UserError

SCHEMES = ("http", "https", "socks5", "socks5h")


def proxy_of(url: str) -> str | None:
    """The proxy between this machine and a URL, as ``http://host:port (HTTP_PROXY)``; None if there is none."""
    parts = urlsplit(url)
    if proxy_bypass_environment(parts.netloc) or os.environ.get("no_proxy", os.environ.get("NO_PROXY")) == "*":
        return None
    scheme = next((scheme for scheme in (parts.scheme, "all") if getproxies().get(scheme)), None)
    return None if scheme is None else f"{_shown(getproxies()[scheme])} ({_variable(scheme)})"


def check_proxies() -> None:
    """Raises UserError for a proxy in the environment that the HTTP client cannot use, whatever the URL."""
    for scheme, address in getproxies().items():
        if scheme not in ("http", "https", "all"):
            continue
        try:
            parts = urlsplit(_with_scheme(address))
            kind = parts.scheme if parts.hostname and parts.port != 0 else ""
        except ValueError:
            kind = ""
        fact = f"the proxy {_shown(address)} ({_variable(scheme)})"
        if kind not in SCHEMES:
            raise UserError(f"{fact} is no address such as http://host:3128; unset {_variable(scheme)}, or correct it")
        if kind.startswith("socks") and find_spec("socksio") is None:
            raise UserError(f"{fact} needs the package socksio: pip install socksio, or unset {_variable(scheme)}")


def _with_scheme(address: str) -> str:
    return address if "://" in address else f"http://{address}"


def _shown(address: str) -> str:
    """An address without user name and password."""
    scheme, _, rest = _with_scheme(address).partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].split('/')[0]}"


def _variable(scheme: str) -> str:
    names = (f"{scheme}_proxy", f"{scheme}_proxy".upper())
    return next((name for name in names if os.environ.get(name)), "the system's settings")
