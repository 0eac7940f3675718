"""Replies of several requests in one record: what a busy worker writes to one gateway.
docs/wire-format.md shows one.

A record costs the worker, the broker and the gateway much more than the bytes in it, and a gateway
with a thousand streams gets twenty thousand tokens a second. Readers ask `decode_replies`, which
knows both forms.
"""

from collections.abc import Container, Iterable, Sequence
from typing import Any

import orjson

from app.errors import UndecodableRecord
from app.protocol.records import Headers, ReplyRecord, parse_pairs, record_id
from app.protocol.reply_state import DATA, FINAL, OUTCOMES

BATCH_VERSION = 2  # the version of such a record


def encode_batch(replies: Sequence[ReplyRecord]) -> tuple[Headers, bytes]:
    """Headers and value of a record with the data and final records of one owner, at most one of
    each id.

    The header `parts` has a line for each: id, seq, event, bytes in the value, and, as JSON, what
    else it says if it says more.
    """
    lines = "\n".join(
        [
            f"{one.id} {one.seq} {one.event} {len(one.value)}{_encode_extra_fields(one)}"
            for one in replies
        ]
    )
    headers = [
        ("v", b"%d" % BATCH_VERSION),
        ("owner", replies[0].owner.encode()),
        ("parts", lines.encode()),
    ]
    return headers, b"".join([one.value for one in replies])


def record_ids(headers: Headers | None) -> Iterable[bytes]:
    """Return the internal ids that a record of the reply topic contains."""
    id_ = record_id(headers)
    if id_:
        return (id_,)
    return [line.partition(b" ")[0] for line in dict(headers or ()).get("parts", b"").split(b"\n")]


def decode_replies(
    headers: Headers | None, value: bytes | None, wanted_ids: Container[bytes]
) -> Sequence[ReplyRecord]:
    """Return the reply records of the wanted ids in a log record. Raises UndecodableRecord."""
    id_ = record_id(headers)
    if not id_:
        return _decode_batch(dict(headers or ()), value or b"", wanted_ids)
    return (ReplyRecord.decode(headers, value),) if id_ in wanted_ids else ()


def _decode_batch(
    headers: dict[str, bytes], value: bytes, wanted_ids: Container[bytes]
) -> list[ReplyRecord]:
    if "parts" not in headers:
        return []
    if headers.get("v") != b"%d" % BATCH_VERSION:
        raise UndecodableRecord(f"version {headers.get('v')!r} is not {BATCH_VERSION}")
    replies, begin = [], 0
    try:
        owner = headers["owner"].decode()
        for line in headers["parts"].split(b"\n"):
            id_, seq, event, size, *more = line.split(b" ", 4)
            end = begin + int(size)
            if id_ in wanted_ids:
                reply = ReplyRecord(
                    id_.decode(), owner, DATA, int(seq), value[begin:end], int(event)
                )
                replies.append(_apply_extra_fields(reply, orjson.loads(more[0])) if more else reply)
            begin = end
    except (ValueError, TypeError, KeyError) as error:
        raise UndecodableRecord(f"joined replies of the wrong form: {error}") from None
    if begin != len(value):
        raise UndecodableRecord(f"joined replies of {begin} bytes in {len(value)}")
    return replies


def _encode_extra_fields(reply: ReplyRecord) -> str:
    extra_fields: dict[str, Any] = {}
    if reply.status:
        extra_fields = {"status": reply.status, "head": reply.head}
    if reply.outcome:
        extra_fields |= {"outcome": reply.outcome, "code": reply.code, "notes": reply.notes}
    return " " + orjson.dumps(extra_fields).decode() if extra_fields else ""


def _apply_extra_fields(reply: ReplyRecord, extra_fields: dict[str, Any]) -> ReplyRecord:
    if "status" in extra_fields:
        reply.status, reply.head = int(extra_fields["status"]), parse_pairs(extra_fields["head"])
    if "outcome" in extra_fields:
        reply.kind, reply.outcome, reply.code, reply.notes = (
            FINAL,
            extra_fields["outcome"],
            str(extra_fields["code"]),
            parse_pairs(extra_fields["notes"]),
        )
        if reply.outcome not in OUTCOMES:
            raise ValueError(f"outcome {reply.outcome!r}")
    return reply
