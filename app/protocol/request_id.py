"""The public request id is an address: it says where the request lies in the log and where its
reply begins.

So any gateway finds any request and any reply with no index. A request that was not accepted lies
nowhere: its id is no address. Laid out big-endian, then base64url without padding:

    internal id 16 bytes | topic fingerprint 4 | request partition 2 | request offset 6 | reply
    partition 2 | reply offset 6
"""

import base64
import hashlib
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

PUBLIC_ID_PREFIX = "req_"
REFUSED_ID_PREFIX = "err_"
# 36 bytes: no padding and no spare bits, so one text per address
_PUBLIC_ID_PATTERN = re.compile(PUBLIC_ID_PREFIX + r"[A-Za-z0-9_-]{48}")


def new_id() -> str:
    """Return a new internal id: 128 random bits as 32 hexadecimal digits."""
    return next(_id_generator)


def new_refused_id() -> str:
    """An id for a request that was not accepted: what its client was told and our own log have it,
    and nothing else.
    """
    return REFUSED_ID_PREFIX + new_id()


def _generate_ids() -> Iterator[str]:
    """The system is asked for many at once, as each question costs some 20 us."""
    while True:
        digits = secrets.token_hex(16 * _ID_BATCH_SIZE)
        yield from (digits[begin : begin + 32] for begin in range(0, len(digits), 32))


_ID_BATCH_SIZE = 256
# begins with the first id, so a process that was forked before has its own
_id_generator = _generate_ids()


@lru_cache(maxsize=1024)
def fingerprint_topic(topic: str) -> bytes:
    return hashlib.sha256(topic.encode()).digest()[:4]


@dataclass(frozen=True, slots=True)
class Address:
    """Where a request and its reply lie. `reply_offset` is no later than the reply's first
    record.
    """

    id: str
    topic: bytes  # fingerprint
    partition: int
    offset: int
    reply_partition: int
    reply_offset: int

    def encode(self) -> str:
        raw = (
            bytes.fromhex(self.id)
            + self.topic
            + self.partition.to_bytes(2, "big")
            + self.offset.to_bytes(6, "big")
            + self.reply_partition.to_bytes(2, "big")
            + self.reply_offset.to_bytes(6, "big")
        )
        return PUBLIC_ID_PREFIX + base64.urlsafe_b64encode(raw).decode()

    @classmethod
    def decode(cls, text: str) -> "Address | None":
        """Return the address in a public id, or None if it does not have the form of one."""
        if not _PUBLIC_ID_PATTERN.fullmatch(text):
            return None
        raw = base64.urlsafe_b64decode(text[len(PUBLIC_ID_PREFIX) :])
        return cls(
            id=raw[:16].hex(),
            topic=raw[16:20],
            partition=int.from_bytes(raw[20:22], "big"),
            offset=int.from_bytes(raw[22:28], "big"),
            reply_partition=int.from_bytes(raw[28:30], "big"),
            reply_offset=int.from_bytes(raw[30:36], "big"),
        )
