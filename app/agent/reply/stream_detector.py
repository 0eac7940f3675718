"""Tells an event stream from a body where the upstream's Content-Type does not say which it is."""

from collections.abc import Awaitable, Callable

from app.agent.reply.event_relay import EventRelay
from app.errors import ReplyTooLarge
from app.openai_api.sse import is_event_stream


class StreamDetector:
    """Passes a reply to the relay once its first bytes are those of events, else keeps it as a
    body.
    """

    def __init__(self, relay: EventRelay, begin_stream: Callable[[], None], most_body: int) -> None:
        """`begin_stream` is called before the first event. `most_body`: bytes of the largest
        body.
        """
        self._relay = relay
        self._begin_stream = begin_stream
        self._most_body = most_body
        self._pieces: list[bytes] = []
        self._size = 0
        self._decided = False
        self.is_stream = False

    @property
    def body(self) -> bytes:
        """All that came, where it is no stream."""
        return b"".join(self._pieces)

    def take(self, piece: bytes) -> Awaitable[None] | None:
        """Take the engine's next piece, as EventRelay.take does. Raises ReplyTooLarge."""
        if self.is_stream:
            return self._relay.take(piece)
        self._pieces.append(piece)
        self._size += len(piece)
        if not self._decided:
            found = is_event_stream(self.body)
            self._decided = found is not None
            if found:
                return self._become_stream()
        if self._size > self._most_body:
            raise ReplyTooLarge(
                f"the model's reply is larger than {self._most_body} bytes (MAX_REPLY_BYTES)"
            )
        return None

    def _become_stream(self) -> Awaitable[None] | None:
        self.is_stream = True
        self._begin_stream()
        head = self.body
        self._pieces.clear()
        return self._relay.take(head)
