"""Server-sent events as bytes: whole events out of a stream that is cut anywhere, without decoding
them.

https://html.spec.whatwg.org/multipage/server-sent-events.html : lines end in \\r\\n, \\n or \\r; an
empty line ends an event.
"""

import re
import sys

from app.errors import ReplyTooLarge

DONE_EVENT = b"data: [DONE]\n\n"

_LINE_END = rb"(?>\r\n|\n|\r)"  # atomic: "\r\n" is one line's end, never two
_LINE_ENDS = (b"\r", b"\n")
_BLANK_LINE = re.compile(_LINE_END + rb"{2}")
# a leading blank line is no part of the event behind it
_EVENT_END = re.compile(_LINE_END + rb"{2,}|\A" + _LINE_END + rb"+")
# more than the one that ends an event
_BLANK_LINES = re.compile(rb"(" + _LINE_END + rb"{2})" + _LINE_END + rb"+\Z")
_ID_LINE = re.compile(rb"(?:^|[\r\n])id(?::|[\r\n])")
_OVERLAP_BYTES = 3  # bytes of "\r\n\r\n" that may lie before the byte which completes it
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_EVENT_STREAM_PREFIXES = (b"data:", b"event:", b"id:", b"retry:", b":")
_DATA_LINE = re.compile(rb"(?:^|[\r\n])data(?::|[\r\n])")


class EventSplitter:
    """Cut a stream of bytes into blocks of whole events; the rest waits for more.

    An event costs time in proportion to its size, however many pieces it arrives in: only what is
    new is searched, with the three bytes before it that a blank line may have begun in.
    """

    __slots__ = ("_max_event_bytes", "_pieces", "_size", "_tail")

    def __init__(self, max_event_bytes: int = sys.maxsize) -> None:
        """`max_event_bytes`: bytes of the largest event; a larger one raises ReplyTooLarge."""
        self._max_event_bytes = max_event_bytes
        self._pieces: list[bytes] = []  # of an event that is not whole yet
        self._size = 0  # bytes of these pieces
        self._tail = b""  # their last bytes

    def feed(self, data: bytes) -> bytes:
        """Return all events that are whole by now, unchanged; empty if none is. Raises
        ReplyTooLarge.
        """
        if self._pieces:
            return self._feed_rest(data)
        end = _end_of_events(data)
        if end < len(data):
            self._buffer_piece(data[end:])
        return data[:end]

    def _feed_rest(self, data: bytes) -> bytes:
        """Feed while an event is not whole."""
        tail = self._tail
        end = _end_of_events(tail + data)
        if not end:
            self._buffer_piece(data)
            return b""
        end -= len(tail)
        block = self.flush() + data[:end]
        if end < len(data):
            self._buffer_piece(data[end:])
        return block

    def _buffer_piece(self, data: bytes) -> None:
        self._pieces.append(data)
        self._size += len(data)
        self._tail = (self._tail + data)[-_OVERLAP_BYTES:]
        if self._size > self._max_event_bytes:
            raise ReplyTooLarge(
                f"one event of the model's reply is larger than {self._max_event_bytes} bytes"
            )

    def flush(self) -> bytes:
        """Return what is left at the end of the stream: an event without its blank line."""
        rest = b"".join(self._pieces)
        self._pieces.clear()
        self._size, self._tail = 0, b""
        return rest


def _end_of_events(buffer: bytes) -> int:
    """Return the offset behind the last whole event; 0 without one."""
    if b"\r" not in buffer:  # the usual case, in two C calls
        cut = buffer.rfind(b"\n\n")
        return cut + 2 if cut >= 0 else 0
    end = 0
    for match in _BLANK_LINE.finditer(buffer):
        # A "\r" at the very end may be the first half of "\r\n".
        if match.end() < len(buffer) or not buffer.endswith(b"\r"):
            end = match.end()
    return end


def is_event_stream(head: bytes) -> bool | None:
    """Return whether a body with these first bytes is an event stream; None if more bytes decide.

    Servers exist that stream events as `text/plain`, as JSON, or without any Content-Type.
    """
    text = head.removeprefix(_BYTE_ORDER_MARK).lstrip(b"\r\n")
    if text.startswith(_EVENT_STREAM_PREFIXES):
        return True
    return None if any(first.startswith(text) for first in _EVENT_STREAM_PREFIXES) else False


def split_events(block: bytes) -> list[bytes]:
    """A block of whole events, one by one, each with its blank line; joined again they are the
    block.
    """
    # the usual case, in C
    if b"\r" not in block and b"\n\n\n" not in block and not block.startswith(b"\n"):
        *whole, rest = block.split(b"\n\n")
        events = [event + b"\n\n" for event in whole]
    else:
        ends = [match.end() for match in _EVENT_END.finditer(block)]
        events = [block[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        rest = block[ends[-1] :] if ends else block
    return [*events, rest] if rest else events


def encode_event(data: bytes) -> bytes:
    """Return the data, of one line or several, as one event."""
    data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in data else data
    return b"data: " + data.replace(b"\n", b"\ndata: ") + b"\n\n"


def has_data(event: bytes) -> bool:
    """Whether an event counts: it has a `data` line (a comment or a bare `event:` line has
    none).
    """
    return event.startswith(b"data:") or _DATA_LINE.search(event) is not None


def count_events(block: bytes) -> int:
    """Return the number of `data:` events in a block of whole events."""
    begun = block.startswith(b"data:") + block.count(b"\n\ndata:")
    # the usual case, in C
    if begun == block.count(b"\n\n") and b"\r" not in block and b"\n\n\n" not in block:
        return begun
    return sum(map(has_data, split_events(block)))


def extract_event_data(event: bytes) -> bytes:
    """The data of one event: its `data:` lines joined by newlines."""
    # the usual case
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and b"\r" not in event:
        return event[6:-2]
    lines = (line for line in event.splitlines() if line.startswith(b"data:") or line == b"data")
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines)


def extract_event_field(event: bytes, name: bytes) -> bytes:
    """Return the value of an event's last line of that name, such as `event`; empty without one."""
    values = [
        value
        for line in event.splitlines()
        for key, _, value in [line.partition(b":")]
        if key == name
    ]
    return values[-1].removeprefix(b" ") if values else b""


def strip_blank_line(comment: bytes) -> bytes:
    """Return a comment as a line of the event behind it, for a stream whose events have ids: see
    `add_event_ids`.
    """
    return comment.rstrip(b"\r\n") + b"\n"


def has_event_id(block: bytes) -> bool:
    """Whether an event of a block has an id of its own."""
    return _ID_LINE.search(block) is not None


def add_event_ids(block: bytes, first_number: int) -> bytes:
    """Return the block with an `id:` line before each `data:` event, counting from `first_number`.

    What has no data loses all but its comment lines, and its blank line, as do further blank lines
    behind an event: the openai SDK dispatches an empty event at a blank line once an id has come,
    and fails to parse it.
    """
    out = []
    for event in split_events(block):
        if has_data(event):
            out.append(b"id: %d\n" % first_number)
            out.append(_BLANK_LINES.sub(rb"\1", event) if event[-3:-2] in _LINE_ENDS else event)
            first_number += 1
        else:
            out.extend(line + b"\n" for line in event.splitlines() if line.startswith(b":"))
    return b"".join(out)


def drop_seen_events(block: bytes, first_number: int, last_seen_number: int) -> bytes:
    """The block without its `data:` events up to number `last_seen_number`, its own first being
    number `first_number`.
    """
    out = []
    for event in split_events(block):
        is_counted = has_data(event)
        if not is_counted or first_number > last_seen_number:
            out.append(event)
        first_number += is_counted
    return b"".join(out)
