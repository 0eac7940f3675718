"""The address of a request's client, as far as it can be believed; for logs and for who may name a
proxied request.
"""

from app.config.parsers import Network
from app.gateway.http.asgi import Scope
from app.locality import is_trusted_proxy, parse_ip_address


def get_peer_address(scope: Scope) -> str:
    """Return the address at the other end of the connection; empty where there is none (a Unix
    socket).
    """
    return str((scope.get("client") or ("", 0))[0])


def get_client_address(scope: Scope, trusted_proxies: tuple[Network, ...]) -> str:
    """Return the client's address; empty where there is none (a Unix socket).

    Behind a trusted proxy it is X-Forwarded-For's last hop that is not itself trusted. Where the
    proxy names no address, it is the proxy's.
    """
    address = get_peer_address(scope)
    hops = (
        b",".join([value for name, value in scope["headers"] if name == b"x-forwarded-for"])
        .decode("latin-1")
        .split(",")
    )
    while hops and is_trusted_proxy(address, trusted_proxies):
        hop = parse_ip_address(hops.pop().strip())
        if hop is None:
            break
        address = str(hop)
    return address
