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
from app.gateway.http.asgi import Scope, get_header
from app.gateway.http.client_address import get_peer_address
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
    key_id: str = ""  # its id in the keys file
    allowed_models: frozenset[str] = frozenset()  # ids or aliases; empty: all
    limits: Limits | None = None
    priority: str = "normal"
    expires_at: float = math.inf  # Unix time

    @property
    def is_restricted(self) -> bool:
        """Whether there is anything to look at before a request of its is taken."""
        return bool(self.allowed_models) or self.limits is not None

    def can_use_model(self, names: Iterable[str]) -> bool:
        """Whether it may use the model that has these names."""
        return not self.allowed_models or not self.allowed_models.isdisjoint(names)

    def refuse_unless_allowed(self, names: Iterable[str], model_name: str) -> None:
        """Raises ModelNotAllowed."""
        if not self.can_use_model(names):
            raise ModelNotAllowed(
                f"This API key may not use the model {model_name!r}; GET /v1/models lists "
                f"those it may.",
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
        self._settings_callers = {
            _hash_key_bytes(key.encode()): _make_single_key_caller(key) for key in settings.api_keys
        }
        self._caller_by_key_hash: Mapping[bytes, Caller] = self._settings_callers
        self._anonymous_caller = Caller(ANONYMOUS)
        self._is_key_required = bool(settings.api_keys or settings.api_keys_file)

    def replace_file_keys(self, entries: Iterable[KeyEntry]) -> None:
        """From now on these, beside API_KEYS."""
        self._caller_by_key_hash = {
            **{bytes.fromhex(entry.hash): make_caller(entry) for entry in entries},
            **self._settings_callers,
        }

    def authenticate(self, scope: Scope) -> Caller:
        """Raises InvalidApiKey, AnonymousRefused; neither says what was sent."""
        if self._is_key_required:
            return self._authenticate_key(scope)
        if refusal_reason := self._policy.find_refusal_reason(
            get_peer_address(scope), scope["headers"]
        ):
            raise AnonymousRefused(
                f"This server has no API keys, so {refusal_reason}. Its operator sets "
                f"API_KEYS_FILE or "
                f"API_KEYS, or ALLOWED_HOSTS for"
                " a name, CORS_ORIGINS for a web page, ALLOW_ANONYMOUS=1 for other machines."
            )
        return self._anonymous_caller

    def visible_models(self, scope: Scope, model_registry: ModelRegistry) -> tuple[str, ...]:
        """Return the ids of the models that a request's sender may see: none without a good key,
        where keys are asked for.
        """
        try:
            caller = self.authenticate(scope)
        except GatewayError:
            return ()
        return tuple(
            model_state.card.model
            for model_state in model_registry.all()
            if caller.can_use_model(model_state.card.names)
        )

    def warn_if_anonymous(self) -> None:
        """Says at the start what it means that there are no keys."""
        if self._is_key_required:
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

    def _authenticate_key(self, scope: Scope) -> Caller:
        """Return the first caller whose key is good. A client may also send a dummy key in another
        header.
        """
        has_expired_key = has_key = False
        for key in _iter_offered_keys(scope):
            has_key = True
            caller = self._caller_by_key_hash.get(_hash_key_bytes(key))
            if caller is None:
                continue
            if caller.expires_at >= time.time():
                return caller
            has_expired_key = True
        if has_expired_key:
            raise InvalidApiKey("This API key has expired.")
        if has_key:
            raise InvalidApiKey("Incorrect API key provided.")
        raise InvalidApiKey(
            "You didn't provide an API key. Send it in the header Authorization: Bearer YOUR_KEY."
        )


def make_caller(entry: KeyEntry) -> Caller:
    """What the gateway keeps of an entry of the keys file."""
    limits = Limits(entry.rpm, entry.tpm, entry.concurrent)
    return Caller(
        tenant=entry.tenant,
        key_id=entry.id,
        allowed_models=frozenset(entry.models),
        limits=limits if limits != Limits() else None,
        priority=entry.priority,
        expires_at=entry.expires.timestamp() if entry.expires else math.inf,
    )


def parse_bearer_token(authorization: str) -> bytes:
    """The key in an Authorization header, the bytes that were sent; empty if there is none."""
    scheme, _, rest = authorization.partition(" ")
    return rest.strip(" \t").encode("latin-1", "replace") if scheme.lower() == "bearer" else b""


def _iter_offered_keys(scope: Scope) -> Iterator[bytes]:
    """Return the keys in a request's headers, the bytes that were sent."""
    if key := parse_bearer_token(get_header(scope, b"authorization")):
        yield key
    for name in _KEY_HEADERS:
        if key := get_header(scope, name).encode("latin-1"):
            yield key


def _make_single_key_caller(key: str) -> Caller:
    return Caller(f"key-{_hash_key_bytes(key.encode()).hex()[:12]}")


def _hash_key_bytes(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
