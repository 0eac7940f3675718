"""Names of topics and groups: pure functions of the prefix and the model's id."""

import hashlib
import re
from dataclasses import dataclass

# Kafka allows [A-Za-z0-9._-] up to 249 characters and takes "." and "_" as the same in metric
# names, so neither is used.
_DISALLOWED_CHARS = re.compile(r"[^A-Za-z0-9-]")
_HASH_SUFFIX = re.compile(r"-[0-9a-f]{10}\Z")
_MAX_SLUG_CHARS = 120


def slugify_model(model: str) -> str:
    """A model's id as part of a topic name; different ids never give the same.

    An id that had to be changed, or that looks like a changed one, carries a hash of itself.
    """
    plain = _DISALLOWED_CHARS.sub("-", model)
    if plain == model and len(plain) <= _MAX_SLUG_CHARS and not _HASH_SUFFIX.search(plain):
        return plain
    return f"{plain[:_MAX_SLUG_CHARS]}-{hashlib.sha256(model.encode()).hexdigest()[:10]}"


def request_topic(prefix: str, model: str) -> str:
    return f"{prefix}.requests.{slugify_model(model)}"


def request_group(prefix: str, model: str) -> str:
    return f"{prefix}.{slugify_model(model)}"


@dataclass(frozen=True)
class Topics:
    """The topics that all models of a deployment share."""

    replies: str
    control: str
    workers: str
    models: str
    dlq: str

    @classmethod
    def with_prefix(cls, prefix: str, replies: str = "") -> "Topics":
        return cls(
            replies=replies or f"{prefix}.replies",
            control=f"{prefix}.control",
            workers=f"{prefix}.workers",
            models=f"{prefix}.models",
            dlq=f"{prefix}.dlq",
        )
