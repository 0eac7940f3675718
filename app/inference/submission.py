"""What a client asked for, as far as the gateway looks at it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Submission:
    path: str
    body: bytes
    model: str
    stream: bool
    tenant: str
    timeout_seconds: float  # seconds
    hops: str = ""  # deployments it has passed through
    head: tuple[tuple[str, str], ...] = ()
    traceparent: str = ""
    priority: str = "normal"  # of its key
    content_type: str = ""  # of a body that is no JSON


@dataclass(frozen=True, slots=True)
class Ticket:
    """An internal id and a reply's address that were fixed before the request is written."""

    id: str
    reply_partition: int
    reply_offset: int
    maybe_duplicate: bool = False  # it may be in the log already
