"""What a caller may not use, or not now: which models, and how much of each.

It is counted by tenant and model, in whole minutes of the clock: a minute's counter is known by its
number, so that what was reserved in it is given back to it and to no other. Tokens are reserved by
an estimate, and corrected when the usage is known.
"""

import logging
import math
import time
from collections.abc import Callable

from app.errors import LimitsUnavailable, StoreUnavailable
from app.gateway.access.authentication import Caller, Limits
from app.gateway.access.concurrency_leases import ConcurrencyLeases
from app.gateway.access.reservation import (
    MINUTE_SECONDS,
    REQUESTS,
    RUNNING,
    Reservation,
    make_limit_key,
    make_usage_name,
)
from app.gateway.http.asgi import Drain, Send
from app.inference.admission import Admission
from app.inference.submission import Submission
from app.stores.base import Store
from app.stores.counter_leases import CounterLeases
from app.telemetry.logs import Throttle
from app.telemetry.metrics import LIMITS_UNCOUNTED

logger = logging.getLogger("app.gateway.access.limits")
logger.addFilter(Throttle())


_STORE_RETRY_SECONDS = 1.0  # a store that did not answer is not asked again for so long
_MAX_USED_UP = 10_000  # tenants and models whose minute is known to be used up


class RateLimiter:
    """`store` holds the leases of running requests and what is used of each minute."""

    def __init__(
        self,
        admission: Admission,
        store: Store,
        fail_open: bool,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._admission = admission
        self.concurrency_leases = ConcurrencyLeases(store, self.handle_store_failure)
        self.counter_leases = CounterLeases(store)
        self.clock = clock
        self._fail_open = fail_open
        self._store_retry_at = -math.inf
        # by tenant and model: the last request that was refused for its minute
        self._used_up_reservations: dict[str, Reservation] = {}

    async def admit(
        self,
        state: dict[str, object],
        submission: Submission,
        send: Send,
        drain: Drain | None = None,
    ) -> Send:
        """For a caller that is `restricted`; what it is granted stays in state["grant"]. Raises
        GatewayError.

        Returns what to send the reply by.
        """
        caller = state["caller"]
        assert isinstance(caller, Caller)
        self._admission.refuse_if_closed()
        registration = self._admission.get_model(submission.model).card
        caller.refuse_unless_allowed(registration.names, submission.model)
        if caller.limits is None:
            return send
        reservation = Reservation(
            self, make_usage_name(caller, registration.model), caller.limits, submission
        )
        return (
            reservation.wrap_send(send, drain)
            if await self._try_reserve(state, reservation)
            else send
        )

    def refuse_if_used_up(self, state: dict[str, object]) -> None:
        """Refuse before the body is read where the caller's minute is used up with each model that
        it may use.

        A body of 16 MB costs 0.4 s to read and parse. Raises RateLimited.
        """
        caller = state["caller"]
        assert isinstance(caller, Caller)
        if not self._used_up_reservations or caller.limits is None:
            return
        minute = int(self.clock() // MINUTE_SECONDS)
        usage_names = [
            make_usage_name(caller, model)
            for model in self._admission.list_allowed_models(caller.can_use_model)
        ]
        last_refused = [self._used_up_reservations.get(name) for name in usage_names]
        refused_this_minute = [
            reservation
            for reservation in last_refused
            if reservation is not None and reservation.minute == minute
        ]
        if refused_this_minute and len(refused_this_minute) == len(usage_names):
            state["grant"] = refused_this_minute[0]  # which tells what is left: nothing
            raise refused_this_minute[0].make_refusal(REQUESTS, caller.limits.rpm or 0)

    def add_used_up(self, usage_name: str, reservation: Reservation) -> None:
        """Remember a request that was refused because its minute is used up."""
        if len(self._used_up_reservations) >= _MAX_USED_UP:
            self._used_up_reservations.clear()
        self._used_up_reservations[usage_name] = reservation

    async def admit_lookup(self, state: dict[str, object], model: str | None) -> None:
        """Count a GET of a request against the caller's requests a minute with its model. Raises
        GatewayError.
        """
        caller = state["caller"]
        assert isinstance(caller, Caller)
        if model and caller.limits and caller.limits.rpm:
            await self._try_reserve(
                state,
                Reservation(self, make_usage_name(caller, model), Limits(rpm=caller.limits.rpm)),
            )

    async def _try_reserve(self, state: dict[str, object], reservation: Reservation) -> bool:
        """Take what is limited, which stays in state["grant"]. Returns whether the store was
        asked.
        """
        state["grant"] = reservation
        if self.clock() < self._store_retry_at:
            self._proceed_uncounted("Redis has just not answered")
            return False
        try:
            await reservation.reserve()
        except StoreUnavailable as error:
            self.handle_store_failure(error)
            self._proceed_uncounted(error.client_message)
        return True

    async def release_kept_lease(self, caller: Caller, model: str, request_id: str) -> None:
        """Free the place of a request that has ended: the gateway that kept it may be gone."""
        if caller.limits is None or not caller.limits.concurrent:
            return
        try:
            await self.concurrency_leases.release_kept_lease(
                make_limit_key(make_usage_name(caller, model), RUNNING), request_id
            )
        except StoreUnavailable as error:
            self.handle_store_failure(error)

    def handle_store_failure(self, error: StoreUnavailable) -> None:
        """The store is away. Where something was to be given back that is all: the client has its
        reply.
        """
        self._store_retry_at = self.clock() + _STORE_RETRY_SECONDS
        logger.warning("limits cannot be counted: %s", error)

    def _proceed_uncounted(self, reason: str) -> None:
        LIMITS_UNCOUNTED.inc()
        if not self._fail_open:
            raise LimitsUnavailable(
                f"this key has limits, and they cannot be looked up: {reason}",
                retry_after_seconds=1,
            )
