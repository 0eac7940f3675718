"""Limits: what is refused, what is told, what is given back."""

from collections.abc import Callable
from typing import Any

import pytest

from app.bus.memory.bus import MemoryBus
from app.cluster.model_registry import ModelRegistry
from app.errors import (
    Draining,
    GatewayError,
    LimitsUnavailable,
    ModelNotAllowed,
    ModelNotFound,
    RateLimited,
    StoreUnavailable,
)
from app.gateway.access.authentication import Caller, Limits
from app.gateway.access.limits import RateLimiter
from app.inference.admission import Admission
from app.inference.reply_consumer import ReplyConsumer
from app.inference.submission import Submission
from app.protocol.heartbeats import ModelRegistration
from app.stores.memory import MemoryStore
from app.telemetry.metrics import REGISTRY
from tests.unit.gateway.wire import Client
from tests.unit.scene import TOPICS, settings

START = 1_000_000 * 60.0  # the first second of a minute
AWAY = "Error 111 connecting to 127.0.0.1:9701"
ACCEPTED = {"request_id": "req_1"}


def uncounted() -> float:
    return REGISTRY.get_sample_value("llm_gateway_limits_uncounted_total") or 0.0


class Redis(MemoryStore):
    """Counters that are away while a test says so, and how often they were asked."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock=clock)
        self.away = False
        self.asked = 0

    async def add_to_counter(self, key: str, amount: int, ttl_seconds: float) -> int:
        self.asked += 1
        if self.away:
            raise StoreUnavailable(f"Redis: {AWAY}")
        return await super().add_to_counter(key, amount, ttl_seconds)


class Request:
    """One that was let in."""

    def __init__(self, state: dict[str, Any], client: Client, send: Any) -> None:
        self.state, self.client, self.send = state, client, send

    async def ends(self, status: int = 200, **line: Any) -> dict[str, Any]:
        """Its access line."""
        noted = {**ACCEPTED, **line}
        if "grant" in self.state:
            await self.state["grant"].settle(noted, status)
        return noted

    def told(self, *head: tuple[bytes, bytes]) -> dict[str, str]:
        """The reply's headers of these."""
        return {
            name.decode(): value.decode()
            for name, value in self.state["grant"].add_limit_headers(list(head))
        }


class Door:
    """A limiter before two models, at a time that a test moves."""

    def __init__(self, fail_open: bool = True) -> None:
        self.now = START
        self.drain: Any = None  # waits for the client to read
        catalog = ModelRegistry()
        catalog.learn(ModelRegistration("m", "t1", "g1", aliases=("nickname",)))
        catalog.learn(ModelRegistration("other", "t2", "g2"))
        self.admission = Admission(
            catalog, ReplyConsumer(MemoryBus(settings().bus), TOPICS.replies), settings().gateway
        )
        self.admission.unready_reason = ""
        self.redis = Redis(lambda: self.now)
        self.limiter = RateLimiter(self.admission, self.redis, fail_open, lambda: self.now)

    async def asks(
        self,
        tenant: str = "t",
        model: str = "m",
        body: bytes = b"x" * 40,
        models: Any = (),
        **limits: int,
    ) -> Request:
        """Raises GatewayError."""
        caller = Caller(
            tenant, allowed_models=frozenset(models), limits=Limits(**limits) if limits else None
        )
        state: dict[str, Any] = {"caller": caller}
        client = Client()
        submission = Submission("/chat/completions", body, model, False, tenant, 60)
        try:
            return Request(
                state, client, await self.limiter.admit(state, submission, client.send, self.drain)
            )
        except GatewayError:
            self.refused = Request(state, client, None)
            await self.refused.ends(429)
            raise

    async def is_refused(self, **asked: Any) -> RateLimited:
        with pytest.raises(RateLimited) as refused:
            await self.asks(**asked)
        assert (refused.value.status, refused.value.code) == (429, "rate_limit_exceeded")
        return refused.value


@pytest.fixture
async def door() -> Door:
    return Door()


async def test_requests_of_a_minute_are_counted_and_the_next_minute_is_new(door):
    for _ in range(3):
        await (await door.asks(rpm=3)).ends()
    door.now += 13
    assert (await door.is_refused(rpm=3)).retry_after_seconds == 47
    door.now += 47
    await door.asks(rpm=3)


async def test_one_that_is_refused_uses_nothing(door):
    await door.asks(rpm=1)
    for _ in range(5):
        await door.is_refused(rpm=1)
    await door.asks(rpm=2)


@pytest.mark.parametrize(
    ("kind", "limits"), [("running", {"concurrent": 1, "rpm": 5}), ("requests", {"rpm": 1})]
)
async def test_one_that_is_refused_is_told_of_all_its_limits_and_uses_none(door, kind, limits):
    running = await door.asks(**limits, tpm=1000)
    left = running.told()["x-ratelimit-remaining-tokens"]
    for _ in range(3):
        await door.is_refused(**limits, tpm=1000)
        told = door.refused.told()
        assert told["x-ratelimit-remaining-tokens"] == left
        assert told["x-ratelimit-limit-tokens"] == "1000"
        assert told["x-ratelimit-remaining-requests"] == str(limits["rpm"] - 1)


async def test_tenants_and_models_are_counted_apart_and_a_models_names_together(door):
    await door.asks(rpm=1)
    await door.asks(rpm=1, tenant="another")
    await door.asks(rpm=1, model="other")
    await door.is_refused(rpm=1, model="nickname")


async def test_keys_of_one_tenant_are_counted_together_each_with_its_own_limit(door):
    await door.asks(rpm=1)
    await door.asks(rpm=5)
    await door.is_refused(rpm=2)


async def test_as_many_run_at_once_as_may(door):
    first, _ = await door.asks(concurrent=2), await door.asks(concurrent=2)
    assert (await door.is_refused(concurrent=2)).retry_after_seconds == 1
    await door.asks(concurrent=2, model="other")
    await first.ends()
    await door.asks(concurrent=2)


async def test_a_place_is_free_before_the_client_has_the_replys_end(door):
    request = await door.asks(concurrent=1)
    await request.send({"type": "http.response.start", "status": 200, "headers": []})
    await request.send({"type": "http.response.body", "body": b"x", "more_body": True})
    await door.is_refused(concurrent=1)
    await request.send({"type": "http.response.body", "body": b""})
    await door.asks(concurrent=1)
    await request.ends()
    await door.is_refused(concurrent=1)  # the place of another is not given back with it


async def test_one_that_is_refused_for_its_rate_takes_no_place(door):
    await (await door.asks(rpm=1, concurrent=1)).ends()
    await door.is_refused(rpm=1, concurrent=1)
    await door.asks(concurrent=1)


async def test_tokens_are_reserved_by_estimate_and_corrected_by_the_usage(door):
    request = await door.asks(tpm=100)  # 10
    assert request.told()["x-ratelimit-remaining-tokens"] == "90"
    line = await request.ends(prompt_tokens=20, completion_tokens=50)
    assert line["tokens_counted"] == 70
    assert (await door.asks(tpm=100)).told()["x-ratelimit-remaining-tokens"] == "20"


async def test_what_was_reserved_too_much_is_given_back(door):
    request = await door.asks(tpm=100, body=b'{"max_tokens": 80}')
    await door.is_refused(tpm=100, body=b'{"max_tokens": 80}')
    await request.ends(prompt_tokens=1, completion_tokens=1)
    await door.asks(tpm=100, body=b'{"max_tokens": 80}')


@pytest.mark.parametrize(("status", "line"), [(503, {}), (429, {}), (502, ACCEPTED)])
async def test_what_failed_gives_its_tokens_back(door, status, line):
    request = await door.asks(tpm=100, body=b'{"max_tokens": 80}')
    await request.ends(status, **line)
    assert (await door.asks(tpm=100)).told()["x-ratelimit-remaining-tokens"] == "90"


async def test_what_is_corrected_in_another_minute_is_added_there_but_not_given_back(door):
    small, large = await door.asks(tpm=1000), await door.asks(tpm=1000, body=b'{"max_tokens": 500}')
    door.now += 60
    await small.ends(prompt_tokens=10, completion_tokens=200)
    await large.ends(prompt_tokens=1, completion_tokens=1)
    assert (await door.asks(tpm=1000)).told()["x-ratelimit-remaining-tokens"] == "790"


async def test_a_request_larger_than_the_limit_has_a_minute_of_its_own(door):
    await door.asks(tpm=100, body=b"x" * 4000)
    await door.is_refused(tpm=100, body=b"x")
    door.now += 60
    await door.asks(tpm=100, body=b"x")
    await door.is_refused(tpm=100, body=b"x" * 4000)


async def test_sound_that_goes_by_is_a_file_whatever_its_size(door):
    asked = await door.asks(tpm=100_000)
    await asked.send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"audio/mpeg")],
        }
    )
    await asked.send({"type": "http.response.body", "body": b"x" * 76_800})
    line = await asked.ends()
    assert (line["tokens_counted"], line["tokens_estimated"]) == (1010, True)


async def test_what_goes_by_is_counted_where_nobody_says_the_usage(door):
    request = await door.asks(tpm=1000)
    await request.send({"type": "http.response.start", "status": 200, "headers": []})
    await request.send({"type": "http.response.body", "body": b"x" * 400})
    assert request.client.got == b"x" * 400
    line = await request.ends()
    assert (line["tokens_counted"], line["tokens_estimated"]) == (110, True)


@pytest.mark.parametrize(("limits", "counted"), [({"tpm": 1000}, 110), ({"rpm": 10}, None)])
async def test_what_is_written_past_send_goes_by_as_well(door, limits, counted):
    request = await door.asks(**limits)
    taken: list[bytes] = []
    grant = request.state["grant"]
    assert grant.wrap_write(lambda data: not taken.append(data))(b"x" * 400)
    assert not grant.wrap_write(lambda _: False)(b"x" * 400), "it is sent another way"
    line = await request.ends()
    assert (taken, line.get("tokens_counted")) == ([b"x" * 400], counted)


async def test_headers_are_openais(door):
    door.now += 20.5
    request = await door.asks(rpm=5, tpm=100)
    assert request.told() == {
        "x-ratelimit-limit-requests": "5",
        "x-ratelimit-remaining-requests": "4",
        "x-ratelimit-reset-requests": "40s",
        "x-ratelimit-limit-tokens": "100",
        "x-ratelimit-remaining-tokens": "90",
        "x-ratelimit-reset-tokens": "40s",
    }


async def test_an_upstreams_limits_are_told_only_to_those_that_have_none_here(door):
    theirs = (b"x-ratelimit-remaining-requests", b"9"), (b"x-other", b"1")
    told = (await door.asks(rpm=5)).told(*theirs)
    assert (told["x-ratelimit-remaining-requests"], told["x-other"]) == ("4", "1")
    assert (await door.asks(concurrent=5)).told(*theirs)["x-ratelimit-remaining-requests"] == "9"


async def test_a_refusal_tells_its_limits_too(door):
    await door.asks(rpm=1)
    state: dict[str, Any] = {"caller": Caller("t", limits=Limits(rpm=1))}
    with pytest.raises(RateLimited):
        await door.limiter.admit(state, Submission("/x", b"", "m", False, "t", 60), Client().send)
    assert Request(state, Client(), None).told()["x-ratelimit-remaining-requests"] == "0"


async def test_a_key_with_models_and_no_limits_asks_nobody(door):
    request = await door.asks(models=("nickname",))
    assert request.send == request.client.send
    assert "grant" not in request.state
    assert door.redis.asked == 0


async def test_a_model_that_is_not_allowed_is_refused_before_anything_is_counted(door):
    with pytest.raises(ModelNotAllowed):
        await door.asks(models=("other",), rpm=1)
    with pytest.raises(ModelNotFound):
        await door.asks(model="nowhere", rpm=1)
    assert door.redis.asked == 0


async def test_a_gateway_that_is_closed_says_so_first(door):
    door.admission.is_draining = True
    with pytest.raises(Draining):
        await door.asks(models=("other",), rpm=1)


async def test_while_redis_is_away_requests_are_served_without_headers_and_it_is_said(door, caplog):
    door.redis.away = True
    before = uncounted()
    request = await door.asks(rpm=1)
    await door.asks(rpm=1)
    assert request.told() == {}
    assert uncounted() - before == 2
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert AWAY in caplog.text
    assert door.redis.asked == 1  # it is not asked again at once
    door.redis.away = False
    door.now += 1.1
    await door.asks(rpm=1)
    await door.is_refused(rpm=1)


async def test_while_redis_is_away_requests_are_refused_if_the_operator_wants_that():
    door = Door(fail_open=False)
    door.redis.away = True
    for _ in range(2):
        with pytest.raises(LimitsUnavailable) as refused:
            await door.asks(rpm=1)
        assert (refused.value.status, refused.value.retry_after_seconds) == (503, 1)
        assert "9701" not in refused.value.message


async def test_a_redis_that_goes_in_the_middle_disturbs_nobody(door):
    request = await door.asks(tpm=100)
    door.redis.away = True
    await request.ends(prompt_tokens=50, completion_tokens=1)
