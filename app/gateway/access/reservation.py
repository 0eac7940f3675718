"""What one request has taken of its caller's limits, until it is settled at the request's end."""

import math
from typing import TYPE_CHECKING

from app.errors import RateLimited, StoreUnavailable
from app.gateway.access.authentication import Caller, Limits
from app.gateway.access.token_estimate import TokenEstimate
from app.gateway.http.asgi import Drain, Message, RawHeaders, Send, WriteChunk, encode_header_pairs
from app.inference.submission import Submission
from app.protocol.records import ReplyRecord

if TYPE_CHECKING:
    from app.gateway.access.limits import RateLimiter

REQUESTS, TOKENS, RUNNING = "requests", "tokens", "running"
MINUTE_SECONDS = 60  # seconds

_HEADER_PREFIX = b"x-ratelimit-"
_CONCURRENCY_RETRY_SECONDS = 1.0
_LARGE_BODY_BYTES = 64 * 1024  # of a body that a client may not take at once


class Reservation:
    """What a request has taken of its caller's limits. `settle` gives back what it did not use."""

    __slots__ = (
        "_lease_holder",
        "_limit_and_remaining",
        "_limiter",
        "_limits",
        "_minute",
        "_reserved_tokens",
        "_token_estimate",
        "_usage_name",
    )

    def __init__(
        self,
        limiter: "RateLimiter",
        usage_name: str,
        limits: Limits,
        submission: Submission | None = None,
    ) -> None:
        self._limiter = limiter
        self._usage_name = usage_name
        self._limits = limits
        self._minute = int(limiter.clock() // MINUTE_SECONDS)
        self._token_estimate = TokenEstimate(submission) if limits.tpm and submission else None
        self._lease_holder = ""
        self._reserved_tokens = 0  # tokens
        # what is told of each kind: its limit, and what remains
        self._limit_and_remaining: dict[str, tuple[int, int]] = {}

    async def reserve(self) -> None:
        """Raises RateLimited, StoreUnavailable. Refused for one kind, it uses none of those behind
        it, but is told of them.
        """
        limits = self._limits
        refusal = await self._acquire_lease(limits.concurrent) if limits.concurrent else None
        if limits.rpm:
            refusal = await self._consume(REQUESTS, limits.rpm, 1, refusal)
        if limits.tpm and self._token_estimate:
            # A request that is larger than the limit by its estimate has the whole minute: else it
            # could never be sent.
            amount = min(self._token_estimate.initial_tokens, limits.tpm)
            refusal = await self._consume(TOKENS, limits.tpm, amount, refusal)
            self._reserved_tokens = 0 if refusal else amount
        if refusal:
            raise refusal

    def add_limit_headers(self, headers: RawHeaders) -> RawHeaders:
        """A reply's headers with OpenAI's for what is limited here, instead of those that the
        upstream has for us.
        """
        if not self._limit_and_remaining:
            return headers
        return [
            *(pair for pair in headers if not pair[0].startswith(_HEADER_PREFIX)),
            *self._build_limit_headers(),
        ]

    def _build_limit_headers(self) -> RawHeaders:
        reset_value = b"%ds" % math.ceil(self._seconds_until_reset())
        headers: RawHeaders = []
        for kind, (limit, remaining) in self._limit_and_remaining.items():
            for name, value in (
                (b"limit", b"%d" % limit),
                (b"remaining", b"%d" % remaining),
                (b"reset", reset_value),
            ):
                headers.append((_HEADER_PREFIX + name + b"-" + kind.encode(), value))
        return headers

    async def _send_last_message(self, message: Message, send: Send, drain: Drain | None) -> None:
        """Send the end of a reply, and free the place: a client that does not read its reply keeps
        it.
        """
        if drain is not None:
            await drain()  # what was sent before
            if len(message.get("body", b"")) > _LARGE_BODY_BYTES:
                await send(message)
                await drain()
                return await self._release_lease()
        # before the client knows, so that its next request finds the place free
        await self._release_lease()
        await send(message)

    def wrap_send(self, send: Send, drain: Drain | None = None) -> Send:
        """Sends, and looks at what goes by: it is what counts if nobody says the usage, and its end
        frees the place.
        """
        estimate = self._token_estimate

        async def send_wrapper(message: Message) -> None:
            if message["type"] == "http.response.start":
                if estimate:
                    estimate.add_reply_headers(message["headers"])
            elif message["type"] == "http.response.body":
                if estimate:
                    estimate.add_reply_data(message.get("body", b""))
                if not message.get("more_body"):
                    return await self._send_last_message(message, send, drain)
            await send(message)

        return send_wrapper

    def wrap_write(self, write: WriteChunk) -> WriteChunk:
        """Writes a part of a stream past `send`, and looks at what goes by as well."""
        estimate = self._token_estimate
        if estimate is None:
            return write

        def write_wrapper(data: bytes) -> bool:
            written = write(data)
            if written:
                estimate.add_reply_data(data)
            return written

        return write_wrapper

    async def keep_for_async_request(
        self, request_id: str, lease_seconds: float
    ) -> "Reservation | None":
        """Keep what the request has taken while it goes on without its connection, at most for
        `lease_seconds`.

        Returns what is to be settled at its end, if anything is.
        """
        holder, self._lease_holder = self._lease_holder, ""
        if holder:
            try:
                await self._limiter.concurrency_leases.keep_lease(holder, request_id, lease_seconds)
                self._lease_holder = request_id
            except StoreUnavailable as error:
                self._limiter.handle_store_failure(error)
        return self if self._reserved_tokens or self._lease_holder else None

    def count_part(self, part: ReplyRecord) -> None:
        """A part of a reply that goes to no client now."""
        if self._token_estimate:
            if part.status:
                self._token_estimate.add_reply_headers(encode_header_pairs(part.head))
            self._token_estimate.add_reply_data(part.value)

    async def settle(self, line: dict[str, object], status: int) -> None:
        """At the request's end, from its access line, which gets the tokens that are counted for
        it.
        """
        await self._release_lease()
        if self._reserved_tokens and self._token_estimate:
            await self._adjust_tokens(self._token_estimate.count_final_tokens(line, status), line)

    async def _release_lease(self) -> None:
        holder, self._lease_holder = self._lease_holder, ""
        if holder:
            try:
                await self._limiter.concurrency_leases.release_lease(holder)
            except StoreUnavailable as error:
                self._limiter.handle_store_failure(error)

    async def _adjust_tokens(self, used_tokens: int | None, line: dict[str, object]) -> None:
        counted_tokens = self._reserved_tokens if used_tokens is None else used_tokens
        line["tokens_counted"] = counted_tokens
        current_minute = int(self._limiter.clock() // MINUTE_SECONDS)
        if counted_tokens > self._reserved_tokens or (
            counted_tokens < self._reserved_tokens and current_minute == self._minute
        ):
            try:
                await self._limiter.counter_leases.adjust_consumption(
                    self._limit_key(TOKENS),
                    current_minute,
                    counted_tokens - self._reserved_tokens,
                    self._limits.tpm or 0,
                )
            except StoreUnavailable as error:
                self._limiter.handle_store_failure(error)

    async def _acquire_lease(self, max_concurrent: int) -> RateLimited | None:
        self._lease_holder = await self._limiter.concurrency_leases.acquire_lease(
            self._limit_key(RUNNING), max_concurrent
        )
        if self._lease_holder:
            return None
        return RateLimited(
            f"{max_concurrent} requests of this key already run with this model",
            retry_after_seconds=_CONCURRENCY_RETRY_SECONDS,
        )

    async def _consume(
        self, kind: str, limit: int, amount: int, refusal: RateLimited | None
    ) -> RateLimited | None:
        """A request that is refused already takes nothing."""
        is_consumed, used = await self._limiter.counter_leases.try_consume(
            self._limit_key(kind), self._minute, 0 if refusal else amount, limit
        )
        self._limit_and_remaining[kind] = (limit, max(0, limit - used))
        if refusal or is_consumed:
            return refusal
        if kind == REQUESTS:
            self._limiter.add_used_up(self._usage_name, self)
        return self.make_refusal(kind, limit)

    @property
    def minute(self) -> int:
        """The minute of the clock that it counts in."""
        return self._minute

    def make_refusal(self, kind: str, limit: int) -> RateLimited:
        """Return the error for a minute that is used up."""
        return RateLimited(
            f"{limit} {kind} a minute are this key's limit with this model",
            retry_after_seconds=self._seconds_until_reset(),
        )

    def _seconds_until_reset(self) -> float:
        """Seconds until the next minute begins."""
        return max(0.0, (self._minute + 1) * MINUTE_SECONDS - self._limiter.clock())

    def _limit_key(self, kind: str) -> str:
        return make_limit_key(self._usage_name, kind)


def make_usage_name(caller: Caller, model: str) -> str:
    """Return what a caller's use of a model is counted under."""
    return f"{caller.tenant}:{model}"


def make_limit_key(usage_name: str, kind: str) -> str:
    """Return the store's key for one kind of use."""
    return f"limits:{usage_name}:{kind}"
