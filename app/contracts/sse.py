"""Server-sent events as bytes: whole events out of a stream that is cut anywhere, without decoding them.

https://html.spec.whatwg.org/multipage/server-sent-events.html : lines end in \\r\\n, \\n or \\r; an empty line ends an event.
"""

import re

DONE = b"data: [DONE]\n\n"

_LINE_END = rb"(?>\r\n|\n|\r)"  # atomic: "\r\n" is one line's end, never two
_BLANK_LINE = re.compile(_LINE_END + rb"{2}")
_EVENT_END = re.compile(_LINE_END + rb"{2,}|\A" + _LINE_END + rb"+")  # a leading blank line is no part of the event behind it
_DATA_LINE = re.compile(rb"(?:^|[\r\n])data(?::|[\r\n])")


class EventSplitter:
    """Joins what arrives and gives back whole events; the rest waits for more."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """All events that are whole by now, as they came; empty if none is."""
        buffer = self._rest + data if self._rest else data
        end = _end_of_events(buffer)
        self._rest = buffer[end:]
        return buffer[:end]

    def flush(self) -> bytes:
        """What is left at the end of the stream: an event whose blank line never came."""
        rest, self._rest = self._rest, b""
        return rest


def _end_of_events(buffer: bytes) -> int:
    """The offset behind the last whole event."""
    if b"\r" not in buffer:  # the usual case, in two C calls
        cut = buffer.rfind(b"\n\n")
        return cut + 2 if cut >= 0 else 0
    end = 0
    for match in _BLANK_LINE.finditer(buffer):
        if match.end() < len(buffer) or not buffer.endswith(b"\r"):  # "\r" at the very end may be half of "\r\n"
            end = match.end()
    return end


def split_events(block: bytes) -> list[bytes]:
    """A block of whole events, one by one, each with its blank line; joined again they are the block."""
    if b"\r" not in block and b"\n\n\n" not in block and not block.startswith(b"\n"):  # the usual case, in C
        *whole, rest = block.split(b"\n\n")
        events = [event + b"\n\n" for event in whole]
    else:
        ends = [match.end() for match in _EVENT_END.finditer(block)]
        events = [block[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        rest = block[ends[-1] :] if ends else block
    return [*events, rest] if rest else events


def as_event(data: bytes) -> bytes:
    """The data, of one line or several, as one event."""
    return b"data: " + data.replace(b"\n", b"\ndata: ") + b"\n\n"


def has_data(event: bytes) -> bool:
    """Whether an event counts: it has a `data` line (a comment or a bare `event:` line has none)."""
    return event.startswith(b"data:") or _DATA_LINE.search(event) is not None


def count_events(block: bytes) -> int:
    """How many `data:` events a block of whole events holds."""
    begun = block.startswith(b"data:") + block.count(b"\n\ndata:")
    if begun == block.count(b"\n\n") and b"\r" not in block and b"\n\n\n" not in block:  # the usual case, in C
        return begun
    return sum(map(has_data, split_events(block)))


def data_of(event: bytes) -> bytes:
    """The data of one event: its `data:` lines joined by newlines."""
    lines = (line for line in event.splitlines() if line.startswith(b"data:") or line == b"data")
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines)


def field_of(event: bytes, name: bytes) -> bytes:
    """Return the value of an event's last line of that name, such as `event`; empty without one."""
    values = [value for line in event.splitlines() for key, _, value in [line.partition(b":")] if key == name]
    return values[-1].removeprefix(b" ") if values else b""


def with_ids(block: bytes, first: int) -> bytes:
    """The block with an `id:` line before each `data:` event, counting from `first`."""
    out = []
    for event in split_events(block):
        if has_data(event):
            out.append(b"id: %d\n" % first)
            first += 1
        out.append(event)
    return b"".join(out)


def after(block: bytes, first: int, seen: int) -> bytes:
    """The block without its `data:` events up to number `seen`, its own first being number `first`."""
    out = []
    for event in split_events(block):
        counts = has_data(event)
        if not counts or first > seen:
            out.append(event)
        first += counts
    return b"".join(out)
