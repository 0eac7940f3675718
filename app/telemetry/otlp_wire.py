"""Spans in OTLP's bytes: what we say of opentelemetry-proto's trace.proto, as protobuf writes it.

By hand, because the SDK's way from a span to these bytes is most of what a span would cost
(docs/decisions/0012).
https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/trace/v1/trace.proto
, https://protobuf.dev/programming-guides/encoding/
"""

import struct
from collections.abc import Callable, Hashable, Iterable
from functools import lru_cache

from app.telemetry.tracing import CLIENT, CONSUMER, INTERNAL, PRODUCER, SERVER, Attributes, Span

_KINDS = {INTERNAL: 1, SERVER: 2, CLIENT: 3, PRODUCER: 4, CONSUMER: 5}
_REMOTE = (SERVER, CONSUMER)  # their parents are other processes' spans

# A field begins with its number * 8 + how its value is written: 0 a varint, 1 eight bytes, 2 a
# length and bytes, 5 four bytes.
_TIMES = struct.Struct("<BQBQ")  # start_time_unix_nano = 7, end_time_unix_nano = 8
_DOUBLE = struct.Struct("<Bd")  # AnyValue.double_value = 4
# status = 15; its code = 3 is STATUS_CODE_ERROR
_NO_STATUS, _FAILED = b"\x7a\x00", b"\x7a\x02\x18\x02"
# flags = 16, of the parent
_LOCAL, _REMOTE_PARENT = (b"\x85\x01" + flags.to_bytes(4, "little") for flags in (0x100, 0x300))

_INT64 = range(-(2**63), 2**63)
_64_BITS = 2**64 - 1
MOST = 4096  # encodings that are kept,
_LONGEST = 128  # bytes of one of them: a client's long words do not fill the memory


class Kept(dict[Hashable, bytes]):
    """Encodings by what they are of, made when they are first asked for: nearly all come again with
    each request.

    Those that do not (ids, offsets) fill it up in the end. Then it begins anew, which is cheaper
    than to know the oldest.
    """

    def __init__(self, encode: Callable[..., bytes]) -> None:
        self._encode = encode

    def __missing__(self, what: tuple[object, ...]) -> bytes:
        made = self._encode(*what)
        if len(made) <= _LONGEST:
            if len(self) >= MOST:
                self.clear()
            self[what] = made
        return made


def span_field(
    span: Span, kind: str, name: str, attributes: Attributes, failed: bool, ended: int
) -> bytes:
    """A span as a member of ScopeSpans. An integer of more than 64 bits, which OTLP has no way to
    say, is left out.
    """
    parts = [_attributes[type(value), key, value] for key, value in attributes.items()]
    parts.append(_FAILED if failed else _NO_STATUS)
    parts.append(_REMOTE_PARENT if span.parent_id and kind in _REMOTE else _LOCAL)
    parent = f"2208{span.parent_id}" if span.parent_id else ""
    # trace_id = 1, span_id = 2, parent_span_id = 4
    ids = bytes.fromhex(f"0a10{span.trace_id}1208{span.span_id}{parent}")
    # a record may say any time: nonsense stays nonsense
    times = _TIMES.pack(0x39, span.start_time_ns & _64_BITS, 0x41, ended & _64_BITS)
    return _field(b"\x12", b"".join((ids, _names[name, kind], times, *parts)))


def request(resource: bytes, scope: bytes, spans: Iterable[bytes]) -> bytes:
    """An ExportTraceServiceRequest. `resource` is a ResourceSpans with no ScopeSpans, `scope` a
    ScopeSpans with no spans yet.
    """
    return _field(b"\x0a", resource + _field(b"\x12", b"".join((scope, *spans))))


def _named(name: str, kind: str) -> bytes:
    return _text(b"\x2a", name) + bytes((0x30, _KINDS[kind]))  # name = 5, kind = 6


def _attribute(_: type, key: str, value: object) -> bytes:
    said = _value(value)
    # attributes = 9: key = 1, value = 2
    return _field(b"\x4a", _key(key) + _field(b"\x12", said)) if said else b""


@lru_cache(maxsize=256)
def _key(key: str) -> bytes:
    return _text(b"\x0a", key)


def _value(value: object) -> bytes:
    """An AnyValue; empty if it has no way to say this one."""
    match value:
        case str():
            return _text(b"\x0a", value)
        case bool():
            return bytes((0x10, value))
        case int():
            return b"\x18" + _varint(value & _64_BITS) if value in _INT64 else b""
        case float():
            return _DOUBLE.pack(0x21, value)
        case tuple():
            return _field(b"\x2a", b"".join([_field(b"\x0a", _value(each)) for each in value]))
    raise TypeError(f"no attribute's value: {value!r}")


def _text(tag: bytes, text: str) -> bytes:
    return _field(tag, text.encode("utf-8", "replace"))  # half a surrogate pair has no bytes


def _field(tag: bytes, value: bytes) -> bytes:
    size = len(value)
    return tag + (_SIZES[size] if size < len(_SIZES) else _varint(size)) + value


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first, each but the last with its highest bit set. `number` is
    not negative.
    """
    written = bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    written.append(number)
    return bytes(written)


_SIZES = tuple(_varint(size) for size in range(1024))
_attributes = Kept(_attribute)
_names = Kept(_named)
