"""Decides who may ask without a key: clients on this machine, and no web page of somebody else's in
a browser.

A browser on this machine also connects from loopback, so a web page that it shows could ask, too.
It says whose page it is (https://fetch.spec.whatwg.org/#origin-header). Where the page's own name
was made to resolve to this machine (DNS rebinding), the browser takes this server for the page's,
and sends that name as Host. This module is the only one that decides; the API without keys, the
operator's views and the operator port differ by their `Policy` alone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

from app.config.parsers import Network

Headers = Iterable[tuple[bytes, bytes]]

_FORWARDED_FOR = b"x-forwarded-for"
# Headers by which proxies name the client that they ask for. Only the first is read; with another
# one it is not known.
_NAME_CLIENTS = frozenset(
    b"forwarded x-real-ip cf-connecting-ip cf-connecting-ipv6 true-client-ip "
    b"x-client-ip x-cluster-client-ip fastly-client-ip"
    b" x-original-forwarded-for x-envoy-external-address x-remote-addr "
    b"x-appengine-user-ip fly-client-ip cf-ray cdn-loop"
    b" tailscale-user-login tailscale-user-name".split()
)
_LONGEST_ADDRESS = 64  # characters
_LONGEST_HOST = 300  # characters of a Host that is one, with its port


@dataclass(frozen=True, slots=True)
class Policy:
    """Who may ask. `hosts`: names by which this server may be asked; `origins`: web pages that may
    ask (`*`: any).
    """

    is_for_this_machine: bool
    trusted: tuple[Network, ...] = ()  # proxies whose X-Forwarded-For is believed
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()

    def why_refused(self, peer: str, headers: Headers) -> str:
        """Return why a request is refused, as the end of a sentence; empty where it is not."""
        found = [*headers]
        host, origin = _value(found, b"host"), _value(found, b"origin")
        if self.is_for_this_machine and not is_local(peer, found, self.trusted):
            return "it serves only clients on its own machine"
        if not names_this_machine(host, self.hosts):
            return (
                "it is to be asked by its address, as localhost or by a name that is listed, and "
                "not by another name:"
                " any web page can make a name lead here"
            )
        if not is_own_page(origin, host, self.origins):
            return "it serves no web pages but its own and those that are listed"
        return ""


def is_local(peer: str, headers: Headers, trusted: tuple[Network, ...]) -> bool:
    """Return whether the client is on this machine's loopback.

    A request that a proxy passes on is local only if that proxy is trusted, runs on this machine,
    and names by X-Forwarded-For, and by nothing else, a client on this machine: the last hop that
    is not itself trusted.
    """
    if not _is_loopback(peer):
        return False
    words = [(name, value) for name, value in headers if _is_forwarding(name)]
    if not words:
        return True
    if not is_trusted(peer, trusted):
        return False
    said = b",".join([value for name, value in words if name == _FORWARDED_FOR]).decode("latin-1")
    if not said:
        return False
    for hop in reversed(said.split(",")):
        if not _is_loopback(hop.strip()):
            return False
        if not is_trusted(hop.strip(), trusted):
            return True
    return all(name not in _NAME_CLIENTS for name, _ in words)


def _is_forwarding(name: bytes) -> bool:
    return name.startswith(b"x-forwarded") or name == b"via" or name in _NAME_CLIENTS


def is_trusted(host: str, trusted: tuple[Network, ...]) -> bool:
    """Return whether an address is one of TRUSTED_PROXIES."""
    address = address_of(host)
    return address is not None and any(address in network for network in trusted)


def names_this_machine(host: str, listed: Sequence[str] = ()) -> bool:
    """Return whether a Host header's value is an address, localhost, none, or listed.

    DNS can repoint no such name, and browsers always send a Host.
    """
    # what is kept is short
    return len(host) <= _LONGEST_HOST and _names_this_machine(host, tuple(listed))


@lru_cache(256)
def _names_this_machine(host: str, listed: tuple[str, ...]) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name in ("", "localhost") or name in listed or bool(ip_address(name).packed)
    except ValueError:
        return False


def is_own_page(origin: str, host: str, allowed: Sequence[str] = ()) -> bool:
    """Return whether an Origin header's value is none, the page of this very `host`, or one of
    those allowed (`*`: any).
    """
    if not origin or origin in allowed or "*" in allowed:
        return True
    name = origin.partition("://")[2]
    return bool(name) and name.lower() == host.lower()


def _is_loopback(host: str) -> bool:
    if host == "127.0.0.1":  # nearly always
        return True
    address = address_of(host)
    return address is not None and address.is_loopback


def address_of(host: str) -> IPv4Address | IPv6Address | None:
    """Parse an IP address, an IPv4 one that is mapped into IPv6 as IPv4; None for anything else."""
    return _parsed(host) if len(host) <= _LONGEST_ADDRESS else None  # what is kept is short


@lru_cache(1024)
def _parsed(host: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _value(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> str:
    """Return a header's value, the first of several; empty without one."""
    return next((value.decode("latin-1") for name, value in headers if name == wanted), "")
