"""An upstream's address taken apart, and a request's bytes up to its body."""

import re
import string
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Self
from urllib.parse import quote, unquote, urlsplit

from app.errors import BadRequest

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
# What says where a request ends or what the connection is for is ours to say.
_OURS = frozenset(
    {
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "upgrade",
        "expect",
    }
)


@dataclass(frozen=True, slots=True)
class Address:
    """Where an upstream listens."""

    host: str  # without an IPv6 address's brackets
    port: int
    tls: bool
    path: str  # where the API begins, encoded, without a slash at its end
    # that every request has, as Azure's `api-version=...`; encoded. It may hold a key
    query: str = field(repr=False)
    credentials: str = field(repr=False)  # user:password

    @classmethod
    def of(cls, url: str) -> Self:
        """`/v1` is added to a host without a path. Raises ValueError."""
        parts = urlsplit(url)
        if not parts.hostname:
            raise ValueError("an upstream's address needs a host")
        tls = parts.scheme == "https"
        return cls(
            host=parts.hostname
            if parts.hostname.isascii()
            else parts.hostname.encode("idna").decode(),
            port=parts.port or (443 if tls else 80),
            tls=tls,
            path=quote(parts.path, safe="/%:@!$&'()*+,;=~").rstrip("/") or "/v1",
            query=quote(parts.query, safe=string.punctuation),
            credentials=f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            if parts.username
            else "",
        )

    @property
    def name(self) -> str:
        """For people and for the Host header where the port is none of the usual ones."""
        return f"{self._host}:{self.port}"

    @property
    def authority(self) -> str:
        return self._host if self.port == (443 if self.tls else 80) else self.name

    @property
    def _host(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host


def common_head(address: Address, token: str) -> bytes:
    """The header lines that all requests to an upstream have. A token wins over credentials in the
    address.
    """
    head = [("Host", address.authority), ("User-Agent", "llm-gateway")]
    head.append(("Accept-Encoding", "identity"))
    if token:
        head.append(("Authorization", f"Bearer {token}"))
    elif address.credentials:
        head.append(("Authorization", basic_credentials(address.credentials)))
    lines = "".join([f"{name}: {value}\r\n" for name, value in head])
    return _checked(lines, len(head)).encode()


def basic_credentials(credentials: str) -> str:
    """Return `user:password` as an Authorization value (RFC 7617); empty where there are none."""
    return f"Basic {b64encode(credentials.encode()).decode()}" if credentials else ""


def own_head(id_: str, content_type: str, head: Iterable[tuple[str, str]]) -> bytes:
    """The header lines of one request. Raises BadRequest where a name or a value would be more than
    one line of a head.
    """
    try:
        own = (("X-Request-Id", id_), ("Content-Type", content_type))
        lines = [f"{name}: {value}\r\n" for name, value in own] + [
            f"{_name(name)}: {value}\r\n" for name, value in head
        ]
        return _checked("".join(lines), len(lines)).encode("latin-1")
    except ValueError as error:
        raise BadRequest(f"a header cannot be passed on: {error}") from None


def _checked(lines: str, count: int) -> str:
    if lines.count("\n") != count or lines.count("\r") != count or "\0" in lines:
        raise ValueError("its value is more than a line")
    return lines


@lru_cache(maxsize=256)
def _name(name: str) -> str:
    if _NAME.fullmatch(name) is None or name.lower() in _OURS:
        raise ValueError(f"its name is {name!r}")
    return name


@lru_cache(maxsize=64)
def request_line(method: str, base: str, target: str, query: str = "") -> bytes:
    """Return the first line of a request.

    `query` is the configured one. Behind a `?` of the target is the client's, which is encoded
    already; it cannot name a parameter of the configured one once more.
    """
    path, _, asked = target.partition("?")
    if query:
        own = {_parameter(part) for part in query.split("&")}
        asked = "&".join(part for part in asked.split("&") if _parameter(part) not in own)
    joined = "&".join(filter(None, (query, quote(asked, safe=string.punctuation))))
    encoded = base + quote(path, safe="/:@~") + ("?" + joined if joined else "")
    return f"{method} {encoded} HTTP/1.1\r\n".encode()


def _parameter(part: str) -> str:
    return unquote(part.partition("=")[0])
