"""Replies of several requests in one record: what a busy worker writes to one gateway.
docs/wire-format.md shows one.

A record costs the worker, the broker and the gateway much more than the bytes in it, and a gateway
with a thousand streams gets twenty thousand tokens a second. Readers ask `replies_of`, which knows
both forms.
"""

from collections.abc import Container, Iterable, Sequence
from typing import Any

import orjson

from app.errors import UndecodableRecord
from app.protocol.records import Headers, ReplyRecord, pairs, record_id
from app.protocol.reply_state import DATA, FINAL, OUTCOMES

JOINED = 2  # the version of such a record


def join(replies: Sequence[ReplyRecord]) -> tuple[Headers, bytes]:
    """Headers and value of a record with the data and final records of one owner, at most one of
    each id.

    The header `parts` has a line for each: id, seq, event, bytes in the value, and, as JSON, what
    else it says if it says more.
    """
    lines = "\n".join(
        [f"{one.id} {one.seq} {one.event} {len(one.value)}{_more(one)}" for one in replies]
    )
    headers = [
        ("v", b"%d" % JOINED),
        ("owner", replies[0].owner.encode()),
        ("parts", lines.encode()),
    ]
    return headers, b"".join([one.value for one in replies])


def ids_of(headers: Headers | None) -> Iterable[bytes]:
    """The internal ids that a record of the reply topic is about."""
    id_ = record_id(headers)
    if id_:
        return (id_,)
    return [line.partition(b" ")[0] for line in dict(headers or ()).get("parts", b"").split(b"\n")]


def replies_of(
    headers: Headers | None, value: bytes | None, wanted: Container[bytes]
) -> Sequence[ReplyRecord]:
    """What a record of the reply topic says about the wanted ids. Raises UndecodableRecord."""
    id_ = record_id(headers)
    if not id_:
        return _split(dict(headers or ()), value or b"", wanted)
    return (ReplyRecord.decode(headers, value),) if id_ in wanted else ()


def _split(found: dict[str, bytes], value: bytes, wanted: Container[bytes]) -> list[ReplyRecord]:
    if "parts" not in found:
        return []
    if found.get("v") != b"%d" % JOINED:
        raise UndecodableRecord(f"version {found.get('v')!r} is not {JOINED}")
    replies, begin = [], 0
    try:
        owner = found["owner"].decode()
        for line in found["parts"].split(b"\n"):
            id_, seq, event, size, *more = line.split(b" ", 4)
            end = begin + int(size)
            if id_ in wanted:
                reply = ReplyRecord(
                    id_.decode(), owner, DATA, int(seq), value[begin:end], int(event)
                )
                replies.append(_with(reply, orjson.loads(more[0])) if more else reply)
            begin = end
    except (ValueError, TypeError, KeyError) as error:
        raise UndecodableRecord(f"joined replies of the wrong form: {error}") from None
    if begin != len(value):
        raise UndecodableRecord(f"joined replies of {begin} bytes in {len(value)}")
    return replies


def _more(reply: ReplyRecord) -> str:
    said: dict[str, Any] = {}
    if reply.status:
        said = {"status": reply.status, "head": reply.head}
    if reply.outcome:
        said |= {"outcome": reply.outcome, "code": reply.code, "notes": reply.notes}
    return " " + orjson.dumps(said).decode() if said else ""


def _with(reply: ReplyRecord, said: dict[str, Any]) -> ReplyRecord:
    if "status" in said:
        reply.status, reply.head = int(said["status"]), pairs(said["head"])
    if "outcome" in said:
        reply.kind, reply.outcome, reply.code, reply.notes = (
            FINAL,
            said["outcome"],
            str(said["code"]),
            pairs(said["notes"]),
        )
        if reply.outcome not in OUTCOMES:
            raise ValueError(f"outcome {reply.outcome!r}")
    return reply
