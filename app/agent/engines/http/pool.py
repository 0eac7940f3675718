"""The connections to one upstream: made when there is none to be had, kept while they are good for
another request.
"""

import asyncio
import socket
import ssl
from math import ceil
from typing import Any

from aiohappyeyeballs import AddrInfoType, start_connection

from app.agent.engines.http.connection import Connection
from app.agent.engines.http.errors import (
    NO_BYTE,
    NO_CONNECTION,
    Silent,
    UpstreamError,
    no_tls,
    reason,
)
from app.agent.engines.http.proxy import Proxy
from app.agent.engines.http.request import Address

# a TLS handshake costs more than an idle socket; what the upstream closes meanwhile is noticed
KEEP_ALIVE_SECONDS = 60
_LOOKS = 4  # in the shorter of the two times that are watched
_NAME_SECONDS = 10.0  # a looked-up name is good for so long
_NEXT_ADDRESS_SECONDS = 0.25  # RFC 8305, 5: the delay before the next address is tried as well


class Pool:
    """One timer looks now and then at all connections: one per connection, set anew for each byte,
    is dearer than the bytes.
    """

    def __init__(
        self,
        address: Address,
        connect_timeout: float,
        read_timeout: float,
        proxy: Proxy | None = None,
    ) -> None:
        self._address = address
        self._proxy = proxy
        self._names = Names(proxy.address if proxy else address)
        self._connect_timeout = connect_timeout
        self._interval = min(read_timeout, KEEP_ALIVE_SECONDS) / _LOOKS  # seconds
        # looks; so it is that time, or one look longer
        self._quiet_at_most = ceil(read_timeout / self._interval)
        self._idle_at_most = int(KEEP_ALIVE_SECONDS / self._interval) - 1  # or one look shorter
        # the last used is the first to be used: the others may end
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._empty = asyncio.Event()  # looked at when all are being closed
        self._tls: ssl.SSLContext | None = None
        self._closed = False

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        if self._address.tls:
            self._tls = await loop.run_in_executor(None, ssl.create_default_context)
            self._tls.set_alpn_protocols(["http/1.1"])
        self._timer = loop.call_later(self._interval, self._look)

    async def close(self) -> None:
        """Ends all that is under way, and waits until every connection is closed."""
        self._closed = True
        self._timer.cancel()
        for connection in [*self._all]:
            connection.fail(UpstreamError("the worker ended"))
        if self._all:
            await self._empty.wait()

    def take(self) -> Connection | None:
        """Return an idle connection; None if there is none. One with unread bytes is no use for
        another request.
        """
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open and not connection.has_unread():
                return connection
            connection.abort()
        return None

    async def connect(self) -> Connection:
        """A new connection. Raises UpstreamError."""
        try:
            async with asyncio.timeout(self._connect_timeout):
                connection = await self._connected()
        except TimeoutError:
            raise UpstreamError(NO_CONNECTION) from None
        if self._closed:
            connection.abort()
        if connection.is_open:  # else it has been forgotten already
            self._all.add(connection)
        return connection

    async def _connected(self) -> Connection:
        try:
            sock = await start_connection(
                await self._names.addresses(),
                happy_eyeballs_delay=_NEXT_ADDRESS_SECONDS,
                interleave=1,
            )
        except TimeoutError:
            raise
        except OSError as error:
            raise UpstreamError(
                f"its proxy: {reason(error)}" if self._proxy else reason(error)
            ) from error
        try:
            return await self._opened(sock)
        except BaseException:
            sock.close()
            raise

    async def _opened(self, sock: socket.socket) -> Connection:
        loop = asyncio.get_running_loop()
        if self._tls is not None and self._proxy is not None:
            await self._proxy.connect(sock, self._address)
        if self._tls is None:
            return (await loop.create_connection(lambda: Connection(self), sock=sock))[1]
        name = self._address.host.rstrip(".")
        try:
            return (
                await loop.create_connection(
                    lambda: Connection(self), sock=sock, ssl=self._tls, server_hostname=name
                )
            )[1]
        except TimeoutError:
            raise
        except OSError as error:
            raise UpstreamError(no_tls(error)) from error

    def put(self, connection: Connection) -> None:
        self._idle.append(connection)

    def forget(self, connection: Connection) -> None:
        self._all.discard(connection)
        if self._closed and not self._all:
            self._empty.set()
        if connection in self._idle:
            self._idle.remove(connection)

    def _look(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._look)
        for connection in [*self._all]:
            connection.quiet = 0 if connection.is_paused else connection.quiet + 1
            if connection.is_idle:
                if connection.quiet > self._idle_at_most:
                    connection.abort()
            elif connection.quiet > self._quiet_at_most:
                connection.fail(Silent(NO_BYTE))


class Names:
    """Where a host is, looked up once for all who ask at the same time."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._lookup: asyncio.Future[Any] | None = None
        self._until = 0.0  # the loop's time

    async def addresses(self) -> list[AddrInfoType]:
        """Raises OSError."""
        loop = asyncio.get_running_loop()
        if self._lookup is None or (
            self._lookup.done() and (loop.time() >= self._until or self._lookup.exception())
        ):
            looking = loop.getaddrinfo(
                self._address.host, self._address.port, type=socket.SOCK_STREAM
            )
            self._lookup = asyncio.ensure_future(looking)
            self._until = loop.time() + _NAME_SECONDS
        return await asyncio.shield(self._lookup)
