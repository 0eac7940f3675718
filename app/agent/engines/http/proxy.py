"""The proxy between a worker and an upstream, as HTTP_PROXY, HTTPS_PROXY and NO_PROXY name it.

There is no standard for these variables; curl and Go agree on what is here. Upstreams on this
machine are never asked by a proxy.
"""

import asyncio
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from app.agent.engines.http.errors import UpstreamError, reason
from app.agent.engines.http.request import Address, basic_credentials

_HEAD_BYTES = 16 * 1024  # of a proxy's answer to CONNECT


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where a proxy listens, and its `Proxy-Authorization` line, which may be empty."""

    address: Address
    authorization: bytes

    def __repr__(self) -> str:
        return f"Proxy({self.address.name})"

    async def connect(self, sock: socket.socket, target: Address) -> None:
        """Make a connected socket a tunnel to the target (RFC 9110 section 9.3.6). Raises
        UpstreamError, TimeoutError.
        """
        try:
            await self._connect(sock, target)
        except TimeoutError:
            raise
        except OSError as error:
            raise UpstreamError(f"its proxy: {reason(error)}") from error

    async def _connect(self, sock: socket.socket, target: Address) -> None:
        loop = asyncio.get_running_loop()
        authority = target.name.encode()
        await loop.sock_sendall(
            sock,
            b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n%b\r\n"
            % (authority, authority, self.authorization),
        )
        head = b""
        while b"\r\n\r\n" not in head:
            # Nothing of the upstream's can be read here: in TLS it speaks only after us (RFC 8446
            # section 2).
            piece = await loop.sock_recv(sock, 4096)
            head += piece
            if not piece or len(head) > _HEAD_BYTES:
                raise UpstreamError("its proxy closed the connection, or does not answer in HTTP")
        status = head.split(b" ", 2)[1:2]
        if not status or not status[0].startswith(b"2"):
            words = head.partition(b"\r\n")[0].decode("latin-1")[:100]
            raise UpstreamError(f"its proxy refuses the connection ({words})")


def proxy_for(target: Address, http_proxy: str, https_proxy: str, no_proxy: str) -> Proxy | None:
    """Return the proxy for an upstream, None where it is asked directly."""
    url = https_proxy if target.tls else http_proxy
    if not url or _is_local(target.host) or _is_excluded(target, no_proxy):
        return None
    address = Address.of(url if "://" in url else f"http://{url}")
    credentials = basic_credentials(address.credentials)
    return Proxy(
        address, f"Proxy-Authorization: {credentials}\r\n".encode() if credentials else b""
    )


def _is_local(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def _is_excluded(target: Address, no_proxy: str) -> bool:
    host = target.host.lower().rstrip(".")
    return any(
        entry == "*" or _excludes(entry, host, target.port)
        for entry in no_proxy.lower().replace(",", " ").split()
    )


def _excludes(entry: str, host: str, port: int) -> bool:
    """Return whether one entry names the host.

    It is a network; or a name, which stands for all names below it too, or an address, each with a
    port or without.
    """
    if "/" in entry:
        return _is_in_network(host, entry)
    name, only_port = _split_port(entry)
    name = name.removeprefix("*").strip(".")
    if not name or (only_port and only_port != str(port)):
        return False
    address = _address(name)
    return address == _address(host) if address else host == name or host.endswith(f".{name}")


def _split_port(entry: str) -> tuple[str, str]:
    if entry.startswith("["):  # [::1]:8080
        name, _, rest = entry[1:].partition("]")
        return name, rest.removeprefix(":")
    if entry.count(":") > 1:  # an IPv6 address without brackets has no port
        return entry, ""
    name, _, port = entry.partition(":")
    return name, port


def _is_in_network(host: str, network: str) -> bool:
    try:
        return ip_address(host) in ip_network(network, strict=False)
    except ValueError:
        return False


def _address(name: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(name)
    except ValueError:
        return None
