"""Cross-origin and DNS-rebinding checks: a hostile page in a browser on this machine also connects from loopback.

A browser says whose page it is (https://fetch.spec.whatwg.org/#origin-header). Where the page's own name was made to resolve to
this machine (DNS rebinding), the browser takes us for that page's server, and sends that name as Host.
"""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

_LONGEST = 300  # characters of a Host that is one, with its port


def names_this_machine(host: str) -> bool:
    """Whether a Host header's value is an IP address, localhost or none: DNS can repoint no such name, and browsers send one."""
    return len(host) <= _LONGEST and _names_this_machine(host)  # what is kept is short


def is_own_page(origin: str, host: str, allowed: Sequence[str] = ()) -> bool:
    """Whether an Origin header's value is none, the page of this very `host`, or one of those allowed (`*`: any)."""
    if not origin or origin in allowed or "*" in allowed:
        return True
    name = origin.partition("://")[2]
    return bool(name) and name.lower() == host.lower()


@lru_cache(256)
def _names_this_machine(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name in ("", "localhost") or bool(ip_address(name).packed)
    except ValueError:
        return False
