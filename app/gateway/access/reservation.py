"""What one request has taken of its caller's limits, until it is settled at the request's end."""

import math
from typing import TYPE_CHECKING

from app.errors import RateLimited, StoreUnavailable
from app.gateway.access.authentication import Caller, Limits
from app.gateway.access.token_estimate import TokenEstimate
from app.gateway.http.asgi import Drain, Message, RawHeaders, Send, WriteChunk, raw
from app.inference.submission import Submission
from app.protocol.records import ReplyRecord

if TYPE_CHECKING:
    from app.gateway.access.limits import RateLimiter

REQUESTS, TOKENS, RUNNING = "requests", "tokens", "running"
MINUTE = 60  # seconds

_PREFIX = b"x-ratelimit-"
_HELD_RETRY_SECONDS = 1.0
_LARGE_BYTES = 64 * 1024  # of a body that a client may not take at once


class Reservation:
    """What a request has taken of its caller's limits. `settle` gives back what it did not use."""

    __slots__ = (
        "_estimate",
        "_holder",
        "_left",
        "_limiter",
        "_limits",
        "_minute",
        "_name",
        "_reserved",
    )

    def __init__(
        self,
        limiter: "RateLimiter",
        name: str,
        limits: Limits,
        submission: Submission | None = None,
    ) -> None:
        self._limiter = limiter
        self._name = name
        self._limits = limits
        self._minute = int(limiter.clock() // MINUTE)
        self._estimate = TokenEstimate(submission) if limits.tpm and submission else None
        self._holder = ""
        self._reserved = 0  # tokens
        # what is told of each kind: its limit, and what remains
        self._left: dict[str, tuple[int, int]] = {}

    async def take(self) -> None:
        """Raises RateLimited, StoreUnavailable. Refused for one kind, it uses none of those behind
        it, but is told of them.
        """
        limits = self._limits
        refusal = await self._hold(limits.concurrent) if limits.concurrent else None
        if limits.rpm:
            refusal = await self._count(REQUESTS, limits.rpm, 1, refusal)
        if limits.tpm and self._estimate:
            # A request that is larger than the limit by its estimate has the whole minute: else it
            # could never be sent.
            amount = min(self._estimate.before, limits.tpm)
            refusal = await self._count(TOKENS, limits.tpm, amount, refusal)
            self._reserved = 0 if refusal else amount
        if refusal:
            raise refusal

    def headed(self, headers: RawHeaders) -> RawHeaders:
        """A reply's headers with OpenAI's for what is limited here, instead of those that the
        upstream has for us.
        """
        if not self._left:
            return headers
        return [*(pair for pair in headers if not pair[0].startswith(_PREFIX)), *self._headers()]

    def _headers(self) -> RawHeaders:
        reset = b"%ds" % math.ceil(self._rest())
        found: RawHeaders = []
        for kind, (limit, remaining) in self._left.items():
            for name, value in (
                (b"limit", b"%d" % limit),
                (b"remaining", b"%d" % remaining),
                (b"reset", reset),
            ):
                found.append((_PREFIX + name + b"-" + kind.encode(), value))
        return found

    async def _send_last(self, message: Message, send: Send, drain: Drain | None) -> None:
        """Send the end of a reply, and free the place: a client that does not read its reply keeps
        it.
        """
        if drain is not None:
            await drain()  # what was sent before
            if len(message.get("body", b"")) > _LARGE_BYTES:
                await send(message)
                await drain()
                return await self._let_go()
        # before the client knows, so that its next request finds the place free
        await self._let_go()
        await send(message)

    def watching(self, send: Send, drain: Drain | None = None) -> Send:
        """Sends, and looks at what goes by: it is what counts if nobody says the usage, and its end
        frees the place.
        """
        estimate = self._estimate

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                if estimate:
                    estimate.begins(message["headers"])
            elif message["type"] == "http.response.body":
                if estimate:
                    estimate.saw(message.get("body", b""))
                if not message.get("more_body"):
                    return await self._send_last(message, send, drain)
            await send(message)

        return sending

    def reading(self, write: WriteChunk) -> WriteChunk:
        """Writes a part of a stream past `send`, and looks at what goes by as well."""
        estimate = self._estimate
        if estimate is None:
            return write

        def writing(data: bytes) -> bool:
            written = write(data)
            if written:
                estimate.saw(data)
            return written

        return writing

    async def hand_over(self, request_id: str, seconds: float) -> "Reservation | None":
        """Keep what the request has taken while it goes on without its connection, at most for
        `seconds`.

        Returns what is to be settled at its end, if anything is.
        """
        holder, self._holder = self._holder, ""
        if holder:
            try:
                await self._limiter.places.keep(holder, request_id, seconds)
                self._holder = request_id
            except StoreUnavailable as error:
                self._limiter.failed(error)
        return self if self._reserved or self._holder else None

    def read(self, part: ReplyRecord) -> None:
        """A part of a reply that goes to no client now."""
        if self._estimate:
            if part.status:
                self._estimate.begins(raw(part.head))
            self._estimate.saw(part.value)

    async def settle(self, line: dict[str, object], status: int) -> None:
        """At the request's end, from its access line, which gets the tokens that are counted for
        it.
        """
        await self._let_go()
        if self._reserved and self._estimate:
            await self._correct(self._estimate.after(line, status), line)

    async def _let_go(self) -> None:
        holder, self._holder = self._holder, ""
        if holder:
            try:
                await self._limiter.places.give_back(holder)
            except StoreUnavailable as error:
                self._limiter.failed(error)

    async def _correct(self, spent: int | None, line: dict[str, object]) -> None:
        used = self._reserved if spent is None else spent
        line["tokens_counted"] = used
        now = int(self._limiter.clock() // MINUTE)
        if used > self._reserved or (used < self._reserved and now == self._minute):
            try:
                await self._limiter.leases.adjust_consumption(
                    self._key(TOKENS), now, used - self._reserved, self._limits.tpm or 0
                )
            except StoreUnavailable as error:
                self._limiter.failed(error)

    async def _hold(self, most: int) -> RateLimited | None:
        self._holder = await self._limiter.places.take(self._key(RUNNING), most)
        if self._holder:
            return None
        return RateLimited(
            f"{most} requests of this key already run with this model",
            retry_after_seconds=_HELD_RETRY_SECONDS,
        )

    async def _count(
        self, kind: str, limit: int, amount: int, refusal: RateLimited | None
    ) -> RateLimited | None:
        """A request that is refused already takes nothing."""
        taken, used = await self._limiter.leases.try_consume(
            self._key(kind), self._minute, 0 if refusal else amount, limit
        )
        self._left[kind] = (limit, max(0, limit - used))
        if refusal or taken:
            return refusal
        if kind == REQUESTS:
            self._limiter.note_used_up(self._name, self)
        return self.refusal(kind, limit)

    @property
    def minute(self) -> int:
        """The minute of the clock that it counts in."""
        return self._minute

    def refusal(self, kind: str, limit: int) -> RateLimited:
        """Return the error for a minute that is used up."""
        return RateLimited(
            f"{limit} {kind} a minute are this key's limit with this model",
            retry_after_seconds=self._rest(),
        )

    def _rest(self) -> float:
        """Seconds until the next minute begins."""
        return max(0.0, (self._minute + 1) * MINUTE - self._limiter.clock())

    def _key(self, kind: str) -> str:
        return limit_key(self._name, kind)


def limit_name(caller: Caller, model: str) -> str:
    """Return what a caller's use of a model is counted under."""
    return f"{caller.tenant}:{model}"


def limit_key(name: str, kind: str) -> str:
    """Return the store's key for one kind of use."""
    return f"limits:{name}:{kind}"
