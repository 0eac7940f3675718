"""Who calls: bearer tokens, compared in constant time; each key is a tenant of its own."""

import hashlib
import hmac
from collections.abc import Iterable

from app.errors import InvalidApiKey

ANONYMOUS = "anonymous"


class Keys:
    """The configured keys, kept as hashes."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._hashes = [_digest(key.encode()) for key in keys]

    def tenant(self, authorization: str) -> str:
        """The tenant behind an `Authorization` header. Raises InvalidApiKey, without the key."""
        if not self._hashes:
            return ANONYMOUS
        scheme, _, rest = authorization.partition(" ")
        key = rest.strip(" \t").encode("latin-1", "replace")  # the bytes that were sent
        if scheme.lower() != "bearer" or not key:
            raise InvalidApiKey("You didn't provide an API key. Send it in the header Authorization: Bearer YOUR_KEY.")
        digest = _digest(key)
        found = [known for known in self._hashes if hmac.compare_digest(known, digest)]  # all of them: constant time
        if not found:
            raise InvalidApiKey("Incorrect API key provided.")
        return f"key-{digest.hex()[:12]}"


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
