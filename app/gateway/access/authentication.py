"""Who calls: bearer tokens, looked up by their hash; without any configured key, whoever is on this
machine.

A key is found by its SHA-256 in a dictionary. How long that takes tells of the hash of what was
sent, which nobody can steer towards a key's; so it needs no comparison in constant time.
"""

import hashlib
import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from app.cluster.model_registry import ModelRegistry
from app.config.api_keys_file import KeyEntry
from app.config.gateway_settings import GatewaySettings
from app.errors import AnonymousRefused, GatewayError, InvalidApiKey, ModelNotAllowed
from app.gateway.http.asgi import Scope, header
from app.gateway.http.client_address import peer_of
from app.locality import AccessPolicy

logger = logging.getLogger("app.gateway.access.authentication")

ANONYMOUS = "anonymous"

_KEY_HEADERS = (b"x-api-key", b"api-key")  # of Anthropic's SDK; of OpenAI's for Azure


@dataclass(frozen=True, slots=True)
class Limits:
    """Of a tenant with each model. None: no limit."""

    rpm: int | None = None  # requests a minute
    tpm: int | None = None  # tokens a minute
    concurrent: int | None = None  # requests at once


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever sent a request, and what it may."""

    tenant: str
    key: str = ""  # its id in the keys file
    models: frozenset[str] = frozenset()  # ids or aliases; empty: all
    limits: Limits | None = None
    priority: str = "normal"
    until: float = math.inf  # Unix time

    @property
    def restricted(self) -> bool:
        """Whether there is anything to look at before a request of its is taken."""
        return bool(self.models) or self.limits is not None

    def may_use(self, names: Iterable[str]) -> bool:
        """Whether it may use the model that has these names."""
        return not self.models or not self.models.isdisjoint(names)

    def refuse_unless_allowed(self, names: Iterable[str], shown: str) -> None:
        """Raises ModelNotAllowed."""
        if not self.may_use(names):
            raise ModelNotAllowed(
                f"This API key may not use the model {shown!r}; GET /v1/models lists those it may.",
                param="model",
            )


class Authenticator:
    """The configured keys: those of API_KEYS, each a tenant of its own, and those of the keys file,
    as it is now.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._policy = AccessPolicy(
            is_local_only=not settings.allow_anonymous,
            trusted_proxies=settings.trusted_proxies,
            allowed_hosts=settings.allowed_hosts,
            allowed_origins=settings.cors_origins,
        )
        self._plain = {_digest(key.encode()): _of_its_own(key) for key in settings.api_keys}
        self._callers: Mapping[bytes, Caller] = self._plain
        self._anonymous = Caller(ANONYMOUS)
        self._required = bool(settings.api_keys or settings.api_keys_file)

    def replace(self, entries: Iterable[KeyEntry]) -> None:
        """From now on these, beside API_KEYS."""
        self._callers = {
            **{bytes.fromhex(entry.hash): caller_of(entry) for entry in entries},
            **self._plain,
        }

    def caller(self, scope: Scope) -> Caller:
        """Raises InvalidApiKey, AnonymousRefused; neither says what was sent."""
        if self._required:
            return self._known(scope)
        if why := self._policy.find_refusal_reason(peer_of(scope), scope["headers"]):
            raise AnonymousRefused(
                f"This server has no API keys, so {why}. Its operator sets API_KEYS_FILE or "
                f"API_KEYS, or ALLOWED_HOSTS for"
                " a name, CORS_ORIGINS for a web page, ALLOW_ANONYMOUS=1 for other machines."
            )
        return self._anonymous

    def visible_models(self, scope: Scope, catalog: ModelRegistry) -> tuple[str, ...]:
        """Return the ids of the models that a request's sender may see: none without a good key,
        where keys are asked for.
        """
        try:
            caller = self.caller(scope)
        except GatewayError:
            return ()
        return tuple(
            known.card.model for known in catalog.all() if caller.may_use(known.card.names)
        )

    def warn(self) -> None:
        """Says at the start what it means that there are no keys."""
        if self._required:
            return
        if self._settings.allow_anonymous:
            logger.warning(
                "no API keys, and ALLOW_ANONYMOUS: every machine that reaches this gateway may "
                "use its models"
            )
        else:
            logger.warning(
                "no API keys: clients on this machine are served, others get 403 "
                "(API_KEYS_FILE, API_KEYS)"
            )

    def _known(self, scope: Scope) -> Caller:
        """Return the first caller whose key is good. A client may also send a dummy key in another
        header.
        """
        expired = offered = False
        for key in _offered(scope):
            offered = True
            caller = self._callers.get(_digest(key))
            if caller is None:
                continue
            if caller.until >= time.time():
                return caller
            expired = True
        if expired:
            raise InvalidApiKey("This API key has expired.")
        if offered:
            raise InvalidApiKey("Incorrect API key provided.")
        raise InvalidApiKey(
            "You didn't provide an API key. Send it in the header Authorization: Bearer YOUR_KEY."
        )


def caller_of(entry: KeyEntry) -> Caller:
    """What the gateway keeps of an entry of the keys file."""
    limits = Limits(entry.rpm, entry.tpm, entry.concurrent)
    return Caller(
        tenant=entry.tenant,
        key=entry.id,
        models=frozenset(entry.models),
        limits=limits if limits != Limits() else None,
        priority=entry.priority,
        until=entry.expires.timestamp() if entry.expires else math.inf,
    )


def bearer(authorization: str) -> bytes:
    """The key in an Authorization header, the bytes that were sent; empty if there is none."""
    scheme, _, rest = authorization.partition(" ")
    return rest.strip(" \t").encode("latin-1", "replace") if scheme.lower() == "bearer" else b""


def _offered(scope: Scope) -> Iterator[bytes]:
    """Return the keys in a request's headers, the bytes that were sent."""
    if key := bearer(header(scope, b"authorization")):
        yield key
    for name in _KEY_HEADERS:
        if key := header(scope, name).encode("latin-1"):
            yield key


def _of_its_own(key: str) -> Caller:
    return Caller(f"key-{_digest(key.encode()).hex()[:12]}")


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
