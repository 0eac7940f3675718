"""What an Idempotency-Key stands for, as the store keeps it."""

from dataclasses import asdict, dataclass, fields, replace

import orjson

from app.inference.submission import Ticket


@dataclass(frozen=True, slots=True)
class IdempotencyEntry:
    """What a key stands for."""

    id: str
    digest: str  # of path and body
    reply_partition: int
    reply_offset: int
    public_id: str = ""  # once the request lies in the log
    readers: tuple[str, ...] = ()  # whose clients wait for the reply, at whichever gateway
    # the reader whose client was the last to leave: it cancels, unless somebody comes
    left: str = ""

    @classmethod
    def from_ticket(cls, ticket: Ticket, digest: str) -> "IdempotencyEntry":
        return cls(ticket.id, digest, ticket.reply_partition, ticket.reply_offset)

    def make_ticket(self, *, maybe_duplicate: bool) -> Ticket:
        return Ticket(self.id, self.reply_partition, self.reply_offset, maybe_duplicate)

    def as_replacement(self, _: "IdempotencyEntry") -> "IdempotencyEntry":
        return self

    def with_reader(self, reader: str, public_id: str) -> "IdempotencyEntry":
        return replace(self, public_id=public_id, readers=(*self.readers, reader))

    def without_reader(self, reader: str) -> "IdempotencyEntry":
        return replace(
            self, readers=tuple(other for other in self.readers if other != reader), left=reader
        )

    def without_readers(self) -> "IdempotencyEntry":
        return replace(self, readers=())

    def encode(self) -> bytes:
        return orjson.dumps(asdict(self))

    @classmethod
    def decode(cls, value: bytes) -> "IdempotencyEntry":
        """Members that we do not know are ignored: gateways of two versions share the store while
        one follows the other.
        """
        members = orjson.loads(value)
        known_members = {
            member.name: members[member.name] for member in fields(cls) if member.name in members
        }
        return cls(**{**known_members, "readers": tuple(known_members["readers"])})
