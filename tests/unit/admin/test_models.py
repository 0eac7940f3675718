"""`app.admin models`: what it shows, and that a model at work is not forgotten by mistake."""

import time
from argparse import Namespace
from dataclasses import replace

import pytest

from app.admin.models import forget, show
from app.protocol.heartbeats import (
    GatewayHeartbeat,
    ModelRegistration,
    WorkerHeartbeat,
    encode_message,
)
from tests.unit.scene import MODEL, REQUESTS, TOPICS, ScriptedBus, settings, started_bus

CARD = ModelRegistration(MODEL, REQUESTS, "llm.m", aliases=("nickname",))
BEAT = WorkerHeartbeat(
    "w", MODEL, REQUESTS, "llm.m", TOPICS.replies, time=0.0, interval=1.0, host="gpu-7"
)
GATEWAYS = GatewayHeartbeat("g", TOPICS.replies, 0, time=0.0, interval=1.0)


async def known(*beats: WorkerHeartbeat | GatewayHeartbeat) -> ScriptedBus:
    """A log with the model's card and these heartbeats."""
    bus = await started_bus()
    await bus.send(TOPICS.models, encode_message(CARD), key=MODEL.encode(), headers=[])
    for beat in beats:
        whose = beat.worker if isinstance(beat, WorkerHeartbeat) else beat.gateway
        await bus.send(
            TOPICS.workers,
            encode_message(replace(beat, time=time.time())),
            key=whose.encode(),
            headers=[],
        )
    await bus.send(TOPICS.workers, b"no heartbeat", key=b"x", headers=[])
    return bus


async def forgets(bus: ScriptedBus, *, force: bool = False, model: str = MODEL) -> int:
    return await forget(bus, TOPICS, settings(), Namespace(model=model, force=force))


async def lists(bus: ScriptedBus, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert await show(bus, TOPICS, settings(), Namespace()) == 0
    return capsys.readouterr().out


async def test_a_model_without_workers_is_forgotten(capsys):
    bus = await known(
        GATEWAYS, BEAT, replace(BEAT, gone=True), replace(BEAT, worker="other", model="another")
    )
    assert await lists(bus, capsys) == f"m topic={REQUESTS} group=llm.m aliases=nickname\n"
    assert await forgets(bus) == 0
    assert await lists(bus, capsys) == ""
    assert await forgets(bus) == 1
    assert "m is not known" in capsys.readouterr().out


async def test_one_that_is_at_work_is_not_unless_it_is_forced(capsys):
    bus = await known(BEAT, replace(BEAT, worker="other"))
    assert await forgets(bus) == 1
    assert "m has 2 at work (gpu-7): stop them first" in capsys.readouterr().out
    assert "m topic=" in await lists(bus, capsys)
    assert await forgets(bus, force=True) == 0
    assert await lists(bus, capsys) == ""


async def test_a_worker_that_is_silent_counts_no_more():
    bus = await known(replace(BEAT, interval=0.0))
    assert await forgets(bus) == 0


async def test_a_card_that_cannot_be_read_is_said_and_the_others_are_listed(capsys):
    bus = await known()
    await bus.send(TOPICS.models, b"no card", key=b"other", headers=[])
    await bus.send(TOPICS.models, None, key=b"\xff", headers=[])
    assert await show(bus, TOPICS, settings(), Namespace()) == 0
    shown = capsys.readouterr()
    assert shown.out == f"m topic={REQUESTS} group=llm.m aliases=nickname\n"
    assert shown.err.startswith("undecodable model card at offset 1: not a model's card")


async def test_one_whose_card_cannot_be_read_any_more_is_not_known(capsys):
    bus = await known()
    await bus.send(TOPICS.models, b"no card", key=MODEL.encode(), headers=[])
    assert await lists(bus, capsys) == ""


async def test_nothing_in_a_card_or_a_heartbeat_steers_the_terminal(capsys):
    evil = "\x1b[2Jgone\u202e\u009b"
    bus = await known(replace(BEAT, host=evil))
    await bus.send(
        TOPICS.models, encode_message(replace(CARD, group=evil)), key=MODEL.encode(), headers=[]
    )
    assert await forgets(bus) == 1
    assert await show(bus, TOPICS, settings(), Namespace()) == 0
    out = capsys.readouterr().out
    assert out.count("\\x1b[2Jgone\\u202e\\x9b") == 2
    assert all(line.isprintable() for line in out.splitlines())


@pytest.mark.parametrize(
    "odd",
    [{"model": "a\x1b[2J"}, {"model": ""}, {"aliases": ("b\n",)}, {"topic": "c d"}, {"topic": ""}],
)
async def test_a_card_whose_names_no_configuration_can_have_is_undecodable(odd, capsys):
    bus = await started_bus()
    await bus.send(TOPICS.models, encode_message(replace(CARD, **odd)), key=b"x", headers=[])
    assert await show(bus, TOPICS, settings(), Namespace()) == 0
    shown = capsys.readouterr()
    assert (shown.out, shown.err.startswith("undecodable model card at offset 0")) == ("", True)
    assert shown.err.strip().isprintable()
