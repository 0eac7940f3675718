"""Requests, replies and controls as records on the log; docs/wire-format.md shows one of each.

Values are what a person can read in Kafka UI: the client's JSON, the SSE text. Headers are short
UTF-8 strings. Unknown headers are ignored.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import orjson

from app.errors import UndecodableRecord
from app.protocol.reply_state import CLAIM, DATA, FINAL, OUTCOMES

Headers: TypeAlias = list[tuple[str, bytes]]

VERSION = b"1"
SUPPORTED_VERSIONS = (1, 2)  # 2: replies joined in one record (joined.py)
# a request's hops, from a deployment's worker to another's gateway
HOPS_HEADER = "x-llm-gateway-hops"
# of one reply record's value; a longer reply is several records
MAX_REPLY_RECORD_BYTES = 512 * 1024


def decode_headers(headers: Headers | None) -> dict[str, str]:
    """Headers as text. Raises UndecodableRecord for a version we do not read or bytes that are not
    UTF-8.
    """
    try:
        found = {name: value.decode() for name, value in headers or ()}
    except (UnicodeDecodeError, AttributeError) as error:
        raise UndecodableRecord(f"headers are not UTF-8: {error}") from None
    if found.get("v") != "1":
        raise UndecodableRecord(f"version {found.get('v')!r} is not 1")
    return found


def record_id(headers: Headers | None) -> bytes:
    """The internal id of a record, without decoding the rest; empty if there is none."""
    for name, value in headers or ():
        if name == "id":
            return value
    return b""


@dataclass(slots=True)  # not frozen: on the hot path that would make it three times as dear
class RequestRecord:
    """One client request. Times are milliseconds since the epoch, by the gateway's clock."""

    id: str
    model: str  # as the client named it
    path: str  # below the API's root: /chat/completions
    body: bytes = field(repr=False)
    stream: bool
    reply_partition: int
    reply_offset: int  # no later than the reply's first record
    created: int
    deadline: int
    tenant: str = ""
    hops: str = ""  # deployments it has passed through, with commas between
    head: tuple[tuple[str, str], ...] = ()  # the client's HTTP headers that the upstream is to see
    traceparent: str = ""
    maybe_duplicate: bool = False
    content_type: str = ""  # of a body that is no JSON

    def encode_headers(self) -> Headers:
        pairs = [
            ("v", VERSION),
            ("id", self.id.encode()),
            ("model", self.model.encode()),
            ("path", self.path.encode()),
            ("stream", b"1" if self.stream else b"0"),
            ("reply-partition", b"%d" % self.reply_partition),
            ("reply-offset", b"%d" % self.reply_offset),
            ("created", b"%d" % self.created),
            ("deadline", b"%d" % self.deadline),
        ]
        for name, value in (
            ("tenant", self.tenant),
            ("hops", self.hops),
            ("traceparent", self.traceparent),
        ):
            if value:
                pairs.append((name, value.encode()))
        if self.content_type:
            pairs.append(("content-type", self.content_type.encode()))
        if self.head:
            pairs.append(("head", orjson.dumps(self.head)))
        return [*pairs, ("maybe-duplicate", b"1")] if self.maybe_duplicate else pairs

    @classmethod
    def decode(cls, headers: Headers | None, value: bytes | None) -> "RequestRecord":
        """Raises UndecodableRecord, naming what is wrong."""
        found = decode_headers(headers)
        try:
            bytes.fromhex(found["id"])
            return cls(
                id=found["id"],
                model=found["model"],
                path=found["path"],
                body=value or b"",
                stream=found["stream"] == "1",
                reply_partition=_parse_non_negative_int(found["reply-partition"]),
                reply_offset=_parse_non_negative_int(found["reply-offset"]),
                created=int(found["created"]),
                deadline=int(found["deadline"]),
                tenant=found.get("tenant", ""),
                hops=found.get("hops", ""),
                head=parse_pairs(orjson.loads(found.get("head") or "[]")),
                traceparent=found.get("traceparent", ""),
                maybe_duplicate="maybe-duplicate" in found,
                content_type=found.get("content-type", ""),
            )
        except KeyError as error:
            raise UndecodableRecord(f"header {error} is missing") from None
        except (ValueError, TypeError) as error:
            raise UndecodableRecord(f"a header has the wrong form: {error}") from None


@dataclass(slots=True)
class ReplyRecord:
    """One record of a reply: part of it, its end, or a claim on it. `event` numbers the first
    `data:` event in the value.
    """

    id: str
    owner: str
    kind: str
    seq: int = 0
    value: bytes = field(default=b"", repr=False)
    event: int = 1
    status: int = 0  # HTTP status and headers; on the first record of a writer
    head: tuple[tuple[str, str], ...] = ()
    outcome: str = ""  # final records only
    code: str = ""  # error code of a failed one
    supersedes: str = ""  # claims only
    deaths: int = 0  # claims only: workers in a row that died with the request and wrote nothing
    dead: tuple[str, ...] = ()  # claims only: those of them that had become its writer
    by_gateway: bool = False
    # final records: worker, queue-ms, upstream-ms, usage: for people and accounts
    notes: tuple[tuple[str, str], ...] = ()

    @property
    def usage(self) -> dict[str, Any]:
        """What the upstream has counted; empty where nobody knows."""
        with suppress(ValueError):
            found = orjson.loads(dict(self.notes).get("usage", "{}"))
            return found if isinstance(found, dict) else {}
        return {}

    def encode_headers(self) -> Headers:
        pairs = [
            ("v", VERSION),
            ("id", self.id.encode()),
            ("owner", self.owner.encode()),
            ("kind", self.kind.encode()),
            ("seq", b"%d" % self.seq),
            ("event", b"%d" % self.event),
        ]
        if self.status:
            pairs += [("status", b"%d" % self.status), ("head", orjson.dumps(self.head))]
        if self.outcome:
            pairs.append(("outcome", self.outcome.encode()))
        if self.code:
            pairs.append(("code", self.code.encode()))
        if self.kind == CLAIM:
            pairs += [("supersedes", self.supersedes.encode()), ("deaths", b"%d" % self.deaths)]
        if self.dead:
            pairs.append(("dead", ",".join(self.dead).encode()))
        if self.by_gateway:
            pairs.append(("by", b"gateway"))
        if self.notes:
            pairs.append(("notes", orjson.dumps(self.notes)))
        return pairs

    @classmethod
    def decode(cls, headers: Headers | None, value: bytes | None) -> "ReplyRecord":
        """Raises UndecodableRecord, naming what is wrong."""
        # as nearly all records of a stream
        if headers and len(headers) == len(_DATA_RECORD_HEADERS):
            data_headers = dict(headers)
            if (
                data_headers.keys() == _DATA_RECORD_HEADERS
                and data_headers["v"] == VERSION
                and data_headers["kind"] == b"data"
            ):
                with suppress(ValueError):  # the long way says what is wrong
                    return cls(
                        data_headers["id"].decode(),
                        data_headers["owner"].decode(),
                        DATA,
                        int(data_headers["seq"]),
                        value or b"",
                        int(data_headers["event"]),
                    )
        return cls._decode(decode_headers(headers), value)

    @classmethod
    def _decode(cls, found: dict[str, str], value: bytes | None) -> "ReplyRecord":
        try:
            kind, outcome = found["kind"], found.get("outcome", "")
            if kind not in (DATA, FINAL, CLAIM) or (kind == FINAL) != (outcome in OUTCOMES):
                raise UndecodableRecord(f"kind {kind!r} with outcome {outcome!r}")
            return cls(
                id=found["id"],
                owner=found["owner"],
                kind=kind,
                seq=int(found["seq"]),
                value=value or b"",
                event=int(found["event"]),
                status=int(found.get("status", "0")),
                head=parse_pairs(orjson.loads(found.get("head") or "[]")),
                outcome=outcome,
                code=found.get("code", ""),
                supersedes=found.get("supersedes", ""),
                deaths=int(found.get("deaths", "0")),
                dead=tuple(filter(None, found.get("dead", "").split(","))),
                by_gateway=found.get("by") == "gateway",
                notes=parse_pairs(orjson.loads(found.get("notes") or "[]")),
            )
        except KeyError as error:
            raise UndecodableRecord(f"header {error} is missing") from None
        except (ValueError, TypeError) as error:
            raise UndecodableRecord(f"a header has the wrong form: {error}") from None


# what each reply record has
_DATA_RECORD_HEADERS = frozenset({"v", "id", "owner", "kind", "seq", "event"})


def _parse_non_negative_int(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError(f"{value} is no place in the log")
    return value


def parse_pairs(raw_pairs: list[list[str]]) -> tuple[tuple[str, str], ...]:
    """HTTP headers or notes, from their JSON. Raises ValueError or TypeError for what has another
    form.
    """
    return tuple([(str(name), str(value)) for name, value in raw_pairs])


@dataclass(frozen=True, slots=True)
class ControlRecord:
    """A fast signal to every worker. It saves work; the reply log decides."""

    CANCEL = "cancel"  # stop working on `id`
    CLAIM = "claim"  # `owner` has claimed `id` from `supersedes`

    id: str
    kind: str
    owner: str = ""
    supersedes: str = ""

    def encode_headers(self) -> Headers:
        return [
            ("v", VERSION),
            ("id", self.id.encode()),
            ("kind", self.kind.encode()),
            ("owner", self.owner.encode()),
            ("supersedes", self.supersedes.encode()),
        ]

    @classmethod
    def decode(cls, headers: Headers | None) -> "ControlRecord":
        """Raises UndecodableRecord, naming what is wrong."""
        found = decode_headers(headers)
        try:
            return cls(
                found["id"], found["kind"], found.get("owner", ""), found.get("supersedes", "")
            )
        except KeyError as error:
            raise UndecodableRecord(f"header {error} is missing") from None
