"""Where a request comes from, as far as that can be believed."""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

from app.gateway.asgi import Scope
from app.parsers import Network

# What proxies say of their clients. One that uses other words than the first has a client that we do not know.
_WORDS = frozenset({b"x-forwarded-for", b"forwarded", b"x-real-ip"})
_LONGEST = 64  # characters of an address


def peer_of(scope: Scope) -> str:
    """The address at the other end of the connection; empty where there is none (a Unix socket)."""
    return str((scope.get("client") or ("", 0))[0])


def is_trusted(host: str, trusted: tuple[Network, ...]) -> bool:
    """Whether that address is one of TRUSTED_PROXIES."""
    address = _address(host)
    return address is not None and any(address in network for network in trusted)


def client_of(scope: Scope, trusted: tuple[Network, ...]) -> str:
    """The client's address; empty where there is none (a Unix socket).

    Behind a trusted proxy it is X-Forwarded-For's last hop that is not itself trusted. Where the proxy names no address, it is
    the proxy's.
    """
    found = peer_of(scope)
    hops = b",".join([value for name, value in scope["headers"] if name == b"x-forwarded-for"]).decode("latin-1").split(",")
    while hops and is_trusted(found, trusted):
        hop = _address(hops.pop().strip())
        if hop is None:
            break
        found = str(hop)
    return found


def is_local(scope: Scope, trusted: tuple[Network, ...]) -> bool:
    """Whether the client is on this machine's loopback.

    Behind a trusted proxy the client is X-Forwarded-For's last hop that is not itself trusted. A hop that is no address, or of
    which the proxy speaks in other words, is nobody's loopback.
    """
    peer = peer_of(scope)
    if not _is_loopback(peer):
        return False
    words = [pair for pair in scope["headers"] if pair[0] in _WORDS]
    if not words or not is_trusted(peer, trusted):
        return True  # nobody speaks for another, or nobody who is believed
    said = b",".join([value for name, value in words if name == b"x-forwarded-for"]).decode("latin-1")
    if not said:
        return False
    for hop in reversed(said.split(",")):
        if not _is_loopback(hop.strip()):
            return False
        if not is_trusted(hop.strip(), trusted):
            return True
    return all(name == b"x-forwarded-for" for name, _ in words)


def _is_loopback(host: str) -> bool:
    if host == "127.0.0.1":  # nearly always
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def _address(host: str) -> IPv4Address | IPv6Address | None:
    return _parsed(host) if len(host) <= _LONGEST else None  # what is kept is short


@lru_cache(1024)
def _parsed(host: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
