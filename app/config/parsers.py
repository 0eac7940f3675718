"""What the text of a variable may be: each parser returns its value, or raises ValueError with what
would have been right.
"""

import re
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TypeAlias
from urllib.parse import urlsplit

from app.config.weak_keys import find_key_weakness

_ENDPOINT_SUFFIXES = (
    "/chat/completions",
    "/completions",
    "/responses",
    "/messages",
    "/embeddings",
    "/models",
)
_SCHEME = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*://)?")

Network: TypeAlias = IPv4Network | IPv6Network


def redact_url(address: str) -> str:
    """Return an address for messages and logs: without user, password, query, which may hold a key,
    and fragment.

    Takes any text: what is no address may be one with a slip in it, and its password is one all the
    same.
    """
    scheme = _SCHEME.match(address)[0]  # type: ignore[index]
    _, at, rest = address[len(scheme) :].rpartition("@")
    return scheme + ("***@" if at else "") + re.split("[?#]", rest)[0]


def non_negative_seconds(text: str) -> float:
    value = float(text)
    if value < 0 or value != value or value == float("inf"):
        raise ValueError("a number of seconds, 0 or more")
    return value


def positive_seconds(text: str) -> float:
    value = non_negative_seconds(text)
    if value == 0:
        raise ValueError("a number of seconds above 0")
    return value


def optional_positive_seconds(text: str) -> float | None:
    """Parse a number of seconds above 0; an empty text is None."""
    return positive_seconds(text) if text else None


def proxy_url(text: str) -> str:
    """Parse a proxy's address; `http://` may be left out."""
    if text and not _is_http_url(text if "://" in text else f"http://{text}"):
        raise ValueError("an http:// address, http://user:password@host:port")
    if text.startswith("https://"):
        raise ValueError(
            "an http:// address: proxies that are themselves reached by TLS are not supported"
        )
    return text


def positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError("a whole number, 1 or more")
    return value


def non_negative_int(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError("a whole number, 0 or more")
    return value


def fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError("a share, 0 to 1")
    return value


def port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise ValueError("a port, 0 to 65535")
    return value


def comma_separated(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def host_names(text: str) -> tuple[str, ...]:
    """Parse names of hosts, without ports."""
    found = tuple(name.lower() for name in comma_separated(text))
    for name in found:
        if not re.fullmatch(r"[\w.-]+", name):
            raise ValueError("names such as gpu-box.example.com, without a port or a path")
    return found


def boolean(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError("0 or 1")
    return text == "1"


def strong_keys(text: str) -> tuple[str, ...]:
    keys = comma_separated(text)
    for number, key in enumerate(keys, 1):
        if fault := find_key_weakness(key):
            raise ValueError(f"key {number} {fault}; `openssl rand -hex 24` makes a good one")
    return keys


def origins(text: str) -> tuple[str, ...]:
    found = comma_separated(text)
    for name in found:
        if name != "*" and not re.fullmatch(r"https?://[^/\s]+", name):
            raise ValueError("origins such as https://app.example.com, without a path")
    return found


def networks(text: str) -> tuple[Network, ...]:
    return tuple(ip_network(name, strict=False) for name in comma_separated(text))


def url(text: str) -> str:
    if text and not _is_http_url(text):
        raise ValueError("an http:// or https:// address; its port, if it has one, is 1 to 65535")
    return text


def upstream_url(text: str) -> str:
    """Parse the address where an upstream's API begins."""
    path = urlsplit(url(text)).path.rstrip("/")
    if path.endswith(_ENDPOINT_SUFFIXES):
        raise ValueError(
            "the address where the API begins, such as https://host/v1, not that of one endpoint"
        )
    return text


def _is_http_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        name, number = parts.hostname or "", parts.port
        name.encode("idna")
    except ValueError:  # half a bracket, a port that is none, a name that no resolver takes
        return False
    return (
        parts.scheme in ("http", "https")
        and bool(name)
        and number != 0
        and text.isprintable()
        and " " not in text
    )


def endpoint_path(text: str) -> str:
    """Parse a path below /v1 that a model's server has. The gateway's own paths cannot be taken."""
    segments = text.split("/")
    if (
        not re.fullmatch(r"(/[A-Za-z0-9._~!$&'()*+,;=:@-]+)+", text)
        or {".", ".."} & set(segments)
        or segments[1].lower() in ("v1", "models", "requests")
    ):
        raise ValueError(
            "a path below /v1 such as /audio/isolation, not below /models or /requests, "
            "without a query"
        )
    return text


def properties(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(";") if part.strip()]
    if any(not equals or not name.strip() for name, equals, _ in pairs):
        raise ValueError("name=value pairs with ; between them")
    return {name.strip(): value.strip() for name, _, value in pairs}


def one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError("one of " + ", ".join(filter(None, words)))
        return text.lower()

    return parse
