"""Web pages of somebody else's, in a browser on this machine: they speak from here too, so that an address tells nothing of them.

A browser says whose page it is (https://fetch.spec.whatwg.org/#origin-header). Where a page's own name was made to lead here
(DNS rebinding) it takes us for that page's server, and asks for that name.
"""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

_LONGEST = 300  # characters of a Host that is one, with its port


def names_this_machine(host: str) -> bool:
    """Whether a Host header's value is an address, or localhost, which nobody can make lead elsewhere; none is no browser's."""
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
