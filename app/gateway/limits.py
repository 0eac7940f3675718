"""What a caller may not use, or not now: which models, and how much of each.

It is counted by tenant and model, in whole minutes of the clock: a minute's counter is known by its number, so that what was
reserved in it is given back to it and to no other. Tokens are reserved by an estimate, and corrected when the usage is known.
"""

import logging
import math
import time
from collections.abc import Callable

from app.contracts.envelope import Reply
from app.errors import LimitsUnavailable, RateLimited, StoreUnavailable
from app.gateway.admission import Admission
from app.gateway.asgi import Message, RawHeaders, Send, WriteChunk, raw
from app.gateway.auth import Caller, Limits
from app.gateway.estimate import Estimate
from app.gateway.places import Places
from app.gateway.submission import Submission
from app.stores.base import Counts, Store
from app.stores.leases import Leases
from app.telemetry.logs import Throttle
from app.telemetry.metrics import UNCOUNTED

logger = logging.getLogger("app.gateway.limits")
logger.addFilter(Throttle())

REQUESTS, TOKENS, RUNNING = "requests", "tokens", "running"

_PREFIX = b"x-ratelimit-"
_MINUTE = 60
_AWAY_SECONDS = 1.0  # a store that did not answer is not asked again for so long
_HELD_RETRY_SECONDS = 1.0


class Limiter:
    """`store` holds the places of running requests, `counts` what is used of a minute."""

    def __init__(
        self, admission: Admission, store: Store, counts: Counts, fail_open: bool, clock: Callable[[], float] = time.time
    ) -> None:
        self._admission = admission
        self.places = Places(store, self.failed)
        self.leases = Leases(counts)
        self.clock = clock
        self._fail_open = fail_open
        self._away_until = -math.inf

    async def admit(self, state: dict[str, object], submission: Submission, send: Send) -> Send:
        """For a caller that is `restricted`; what it is granted stays in state["grant"]. Raises GatewayError.

        Returns what to send the reply by.
        """
        caller = state["caller"]
        assert isinstance(caller, Caller)
        self._admission.refuse_if_closed()
        card = self._admission.model(submission.model).card
        caller.refuse_unless_allowed(card.names, submission.model)
        if caller.limits is None:
            return send
        grant = Grant(self, _name(caller, card.model), caller.limits, submission)
        return grant.watching(send) if await self._take(state, grant) else send

    async def admit_lookup(self, state: dict[str, object], model: str | None) -> None:
        """Count a GET of a request against the caller's requests a minute with its model. Raises GatewayError."""
        caller = state["caller"]
        assert isinstance(caller, Caller)
        if model and caller.limits and caller.limits.rpm:
            await self._take(state, Grant(self, _name(caller, model), Limits(rpm=caller.limits.rpm)))

    async def _take(self, state: dict[str, object], grant: "Grant") -> bool:
        """Take what is limited, which stays in state["grant"]. Returns whether the store was asked."""
        state["grant"] = grant
        if self.clock() < self._away_until:
            self._without("Redis has just not answered")
            return False
        try:
            await grant.take()
        except StoreUnavailable as error:
            self.failed(error)
            self._without(error.told)
        return True

    async def give_back(self, caller: Caller, model: str, request_id: str) -> None:
        """Free the place of a request that has ended: the gateway that kept it may be gone."""
        if caller.limits is None or not caller.limits.concurrent:
            return
        try:
            await self.places.give_back_kept(_key(_name(caller, model), RUNNING), request_id)
        except StoreUnavailable as error:
            self.failed(error)

    def failed(self, error: StoreUnavailable) -> None:
        """The store is away. Where something was to be given back that is all: the client has its reply."""
        self._away_until = self.clock() + _AWAY_SECONDS
        logger.warning("limits cannot be counted: %s", error)

    def _without(self, why: str) -> None:
        UNCOUNTED.inc()
        if not self._fail_open:
            raise LimitsUnavailable(f"this key has limits, and they cannot be looked up: {why}", retry_after=1)


class Grant:
    """What a request has taken of its caller's limits. `settle` gives back what it did not use."""

    __slots__ = ("_estimate", "_holder", "_left", "_limiter", "_limits", "_minute", "_name", "_reserved")

    def __init__(self, limiter: Limiter, name: str, limits: Limits, submission: Submission | None = None) -> None:
        self._limiter = limiter
        self._name = name
        self._limits = limits
        self._minute = int(limiter.clock() // _MINUTE)
        self._estimate = Estimate(submission) if limits.tpm and submission else None
        self._holder = ""
        self._reserved = 0  # tokens
        self._left: dict[str, tuple[int, int]] = {}  # what is told of each kind: its limit, and what remains

    async def take(self) -> None:
        """Raises RateLimited, StoreUnavailable. Refused for one kind, it uses none of those behind it, but is told of them."""
        limits = self._limits
        refusal = await self._hold(limits.concurrent) if limits.concurrent else None
        if limits.rpm:
            refusal = await self._count(REQUESTS, limits.rpm, 1, refusal)
        if limits.tpm and self._estimate:
            # A request that is larger than the limit by its estimate has the whole minute: else it could never be sent.
            amount = min(self._estimate.before, limits.tpm)
            refusal = await self._count(TOKENS, limits.tpm, amount, refusal)
            self._reserved = 0 if refusal else amount
        if refusal:
            raise refusal

    def headed(self, headers: RawHeaders) -> RawHeaders:
        """A reply's headers with OpenAI's for what is limited here, instead of those that the upstream has for us."""
        if not self._left:
            return headers
        return [*(pair for pair in headers if not pair[0].startswith(_PREFIX)), *self._headers()]

    def _headers(self) -> RawHeaders:
        reset = b"%ds" % math.ceil(self._rest())
        found: RawHeaders = []
        for kind, (limit, remaining) in self._left.items():
            for name, value in ((b"limit", b"%d" % limit), (b"remaining", b"%d" % remaining), (b"reset", reset)):
                found.append((_PREFIX + name + b"-" + kind.encode(), value))
        return found

    def watching(self, send: Send) -> Send:
        """Sends, and looks at what goes by: it is what counts if nobody says the usage, and its end frees the place."""
        estimate = self._estimate

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                if estimate:
                    estimate.begins(message["headers"])
            elif message["type"] == "http.response.body":
                if estimate:
                    estimate.saw(message.get("body", b""))
                if not message.get("more_body"):
                    await self._let_go()  # before the client knows, so that its next request finds the place free
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

    async def hand_over(self, request_id: str, seconds: float) -> "Grant | None":
        """Keep what the request has taken while it goes on without its connection, at most for `seconds`.

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

    def read(self, part: Reply) -> None:
        """A part of a reply that goes to no client now."""
        if self._estimate:
            if part.status:
                self._estimate.begins(raw(part.head))
            self._estimate.saw(part.value)

    async def settle(self, line: dict[str, object], status: int) -> None:
        """At the request's end, from its access line, which gets the tokens that are counted for it."""
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
        now = int(self._limiter.clock() // _MINUTE)
        if used > self._reserved or (used < self._reserved and now == self._minute):
            try:
                await self._limiter.leases.correct(self._key(TOKENS), now, used - self._reserved, self._limits.tpm or 0)
            except StoreUnavailable as error:
                self._limiter.failed(error)

    async def _hold(self, most: int) -> RateLimited | None:
        self._holder = await self._limiter.places.take(self._key(RUNNING), most)
        if self._holder:
            return None
        return RateLimited(f"{most} requests of this key already run with this model", retry_after=_HELD_RETRY_SECONDS)

    async def _count(self, kind: str, limit: int, amount: int, refusal: RateLimited | None) -> RateLimited | None:
        """A request that is refused already takes nothing."""
        taken, used = await self._limiter.leases.take(self._key(kind), self._minute, 0 if refusal else amount, limit)
        self._left[kind] = (limit, max(0, limit - used))
        if refusal or taken:
            return refusal
        return RateLimited(f"{limit} {kind} a minute are this key's limit with this model", retry_after=self._rest())

    def _rest(self) -> float:
        """Seconds until the next minute begins."""
        return max(0.0, (self._minute + 1) * _MINUTE - self._limiter.clock())

    def _key(self, kind: str) -> str:
        return _key(self._name, kind)


def _name(caller: Caller, model: str) -> str:
    return f"{caller.tenant}:{model}"


def _key(name: str, kind: str) -> str:
    return f"limits:{name}:{kind}"
