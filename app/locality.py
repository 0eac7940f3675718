"""Decides who may ask without a key: clients on this machine, and no web page of somebody else's in
a browser.

A browser on this machine also connects from loopback, so a web page that it shows could ask, too.
It says whose page it is (https://fetch.spec.whatwg.org/#origin-header). Where the page's own name
was made to resolve to this machine (DNS rebinding), the browser takes this server for the page's,
and sends that name as Host. This module is the only one that decides; the API without keys, the
operator's views and the operator port differ by their `AccessPolicy` alone.
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
_CLIENT_ADDRESS_HEADERS = frozenset(
    b"forwarded x-real-ip cf-connecting-ip cf-connecting-ipv6 true-client-ip "
    b"x-client-ip x-cluster-client-ip fastly-client-ip"
    b" x-original-forwarded-for x-envoy-external-address x-remote-addr "
    b"x-appengine-user-ip fly-client-ip cf-ray cdn-loop"
    b" tailscale-user-login tailscale-user-name".split()
)
_MAX_ADDRESS_CHARS = 64  # characters
_MAX_HOST_CHARS = 300  # characters of a Host that is one, with its port


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """Who may ask. `allowed_hosts`: names by which this server may be asked; `allowed_origins`: web
    pages that may ask (`*`: any).
    """

    is_local_only: bool
    trusted_proxies: tuple[Network, ...] = ()  # proxies whose X-Forwarded-For is believed
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()

    def find_refusal_reason(self, peer: str, headers: Headers) -> str:
        """Return why a request is refused, as the end of a sentence; empty where it is not."""
        found = [*headers]
        host, origin = _get_first_header(found, b"host"), _get_first_header(found, b"origin")
        if self.is_local_only and not is_local_client(peer, found, self.trusted_proxies):
            return "it serves only clients on its own machine"
        if not is_allowed_host(host, self.allowed_hosts):
            return (
                "it is to be asked by its address, as localhost or by a name that is listed, and "
                "not by another name:"
                " any web page can make a name lead here"
            )
        if not is_allowed_origin(origin, host, self.allowed_origins):
            return "it serves no web pages but its own and those that are listed"
        return ""


def is_local_client(peer: str, headers: Headers, trusted_proxies: tuple[Network, ...]) -> bool:
    """Return whether the client is on this machine's loopback.

    A request that a proxy passes on is local only if that proxy is trusted, runs on this machine,
    and names by X-Forwarded-For, and by nothing else, a client on this machine: the last hop that
    is not itself trusted.
    """
    if not _is_loopback(peer):
        return False
    forwarding_headers = [(name, value) for name, value in headers if _is_forwarding_header(name)]
    if not forwarding_headers:
        return True
    if not is_trusted_proxy(peer, trusted_proxies):
        return False
    forwarded_for = b",".join(
        [value for name, value in forwarding_headers if name == _FORWARDED_FOR]
    ).decode("latin-1")
    if not forwarded_for:
        return False
    for hop in reversed(forwarded_for.split(",")):
        if not _is_loopback(hop.strip()):
            return False
        if not is_trusted_proxy(hop.strip(), trusted_proxies):
            return True
    return all(name not in _CLIENT_ADDRESS_HEADERS for name, _ in forwarding_headers)


def _is_forwarding_header(name: bytes) -> bool:
    return name.startswith(b"x-forwarded") or name == b"via" or name in _CLIENT_ADDRESS_HEADERS


def is_trusted_proxy(host: str, trusted_proxies: tuple[Network, ...]) -> bool:
    """Return whether an address is one of TRUSTED_PROXIES."""
    address = parse_ip_address(host)
    return address is not None and any(address in network for network in trusted_proxies)


def is_allowed_host(host: str, allowed_hosts: Sequence[str] = ()) -> bool:
    """Return whether a Host header's value is an address, localhost, none, or listed.

    DNS can repoint no such name, and browsers always send a Host.
    """
    # what is kept is short
    return len(host) <= _MAX_HOST_CHARS and _is_allowed_host(host, tuple(allowed_hosts))


@lru_cache(256)
def _is_allowed_host(host: str, allowed_hosts: tuple[str, ...]) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name in ("", "localhost") or name in allowed_hosts or bool(ip_address(name).packed)
    except ValueError:
        return False


def is_allowed_origin(origin: str, host: str, allowed_origins: Sequence[str] = ()) -> bool:
    """Return whether an Origin header's value is none, the page of this very `host`, or one of
    those allowed (`*`: any).
    """
    if not origin or origin in allowed_origins or "*" in allowed_origins:
        return True
    name = origin.partition("://")[2]
    return bool(name) and name.lower() == host.lower()


def _is_loopback(host: str) -> bool:
    if host == "127.0.0.1":  # nearly always
        return True
    address = parse_ip_address(host)
    return address is not None and address.is_loopback


def parse_ip_address(host: str) -> IPv4Address | IPv6Address | None:
    """Parse an IP address, an IPv4 one that is mapped into IPv6 as IPv4; None for anything else."""
    # what is kept is short
    return _parse_ip_address(host) if len(host) <= _MAX_ADDRESS_CHARS else None


@lru_cache(1024)
def _parse_ip_address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _get_first_header(headers: Iterable[tuple[bytes, bytes]], header_name: bytes) -> str:
    """Return a header's value, the first of several; empty without one."""
    return next((value.decode("latin-1") for name, value in headers if name == header_name), "")
