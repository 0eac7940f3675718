"""The contract of an engine: what answers a model's requests. `tests/contract/test_engines.py` is
the contract in full.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

JSON = "application/json"
MOST_READ = 64 * 1024 * 1024  # bytes of a whole reply, where no setting says otherwise

Take = Callable[[bytes], Awaitable[None] | None]


@dataclass(frozen=True, slots=True)
class Job:
    """One request as the upstream is to get it."""

    id: str
    path: str  # below the API's root: /chat/completions
    body: bytes = field(repr=False)  # it already names the upstream's model
    stream: bool
    head: tuple[tuple[str, str], ...] = ()  # HTTP headers for the upstream
    deadline: float = float("inf")  # the event loop's time, seconds
    content_type: str = JSON


class EngineUnreachable(Exception):
    """The upstream did not answer, after all retries; no byte of a reply was seen.

    `is_silent`: it took the request and was silent for the read timeout, so it may still be at work
    on it.
    """

    def __init__(self, words: str, *, is_silent: bool = False) -> None:
        super().__init__(words)
        self.is_silent = is_silent


class EngineBroken(Exception):
    """The reply stopped in its middle: a reset, a stall, an end that no length or last chunk
    announced.
    """


class EngineSilent(EngineBroken):
    """No byte of the reply came for the whole read timeout."""


class Answer(Protocol):
    """An upstream's reply whose head is known. `headers` are those a client is to see, names in
    lower case.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    is_stream: bool  # server-sent events

    async def read(self, most: int = MOST_READ) -> bytes:
        """Return the whole body, decompressed, of at most `most` bytes.

        Raises EngineBroken, ReplyTooLarge, UpstreamInvalidReply.
        """

    async def relay(self, take: Take) -> None:
        """Hands each piece of the body to `take` as it comes, decompressed, cut anywhere; returns
        at the end.

        When `take` returns an awaitable, nothing more is read until that is done. Raises
        EngineBroken, UpstreamInvalidReply, and what `take` raises.
        """

    async def close(self) -> None:
        """Ends the upstream's work on this request, if it is still going on."""


class Engine(Protocol):
    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def check(self) -> str:
        """Empty when requests can be answered now, else why not, in a few words without addresses'
        secrets.
        """

    async def continues(self) -> bool:
        """Whether the upstream can go on from a text; asked once `check` is empty."""

    async def call(self, job: Job) -> Answer:
        """Send the request and wait for the reply's head.

        Raises EngineUnreachable; UpstreamInvalidReply or ReplyTooLarge for a head that cannot be
        passed on. An upstream's own 4xx or 5xx is an Answer, after the retries that its kind
        allows.
        """
