"""`app.admin dlq`: what a client sent is shown, and does nothing to the terminal."""

import os
from argparse import Namespace

import pytest

from app.admin import __main__ as admin
from app.admin.dlq import replay, show_all, show_one
from app.agent.consume.dead_letters import dead_letter
from app.protocol import dead_letters
from app.protocol.heartbeats import ModelRegistration, encode_message
from tests.unit.scene import MODEL, REQUESTS, TOPICS, ScriptedBus, log_of, settings, started_bus

EVIL = b"\x1b[2J\x07\rgone\xc2\x9b\xff\n\tkept \xc3\xa4"
LARGE = 16 * 1024


async def letter(value: bytes | None, **headers: bytes) -> ScriptedBus:
    bus = await started_bus()
    marks = [
        (dead_letters.ORIGIN_HEADER, f"{REQUESTS}/0/0".encode()),
        (dead_letters.REASON_HEADER, b"died\x1b]0;"),
    ]
    await bus.send(TOPICS.dlq, value, key=b"k", headers=[*marks, *headers.items()])
    return bus


async def shown(
    bus: ScriptedBus, capsys: pytest.CaptureFixture[str], *, whole: bool = False
) -> str:
    capsys.readouterr()
    assert await show_one(bus, TOPICS, settings(), Namespace(offset=0, whole=whole)) == 0
    return capsys.readouterr().out


async def test_control_characters_are_escaped_but_for_the_bodys_lines_and_tabs(capsys):
    out = await shown(await letter(EVIL, model=b"m\x1b\nx", other=EVIL), capsys)
    assert set(out) - {"\n", "\t"} == {char for char in out if char.isprintable()}
    head, model, other, *body = out.splitlines()
    assert head.endswith(f"model=m\\x1b\\nx origin={REQUESTS}/0/0 reason=died\\x1b]0;")
    assert (model, other) == (
        "  model: m\\x1b\\nx",
        "  other: \\x1b[2J\\x07\\rgone\\x9b\\xff\\n\\tkept ä",
    )
    assert body == ["\\x1b[2J\\x07\\rgone\\x9b\\xff", "\tkept ä"]


async def test_the_list_is_a_line_each(capsys):
    await show_all(await letter(b"", model=b"m\x1b\nx"), TOPICS, settings(), Namespace())
    first, count = capsys.readouterr().out.splitlines()
    assert (first.isprintable(), count) == (True, "1 dead letters")


async def test_of_a_large_body_the_beginning_is_shown_and_how_much_there_is(capsys):
    bus = await letter(b"x" * LARGE + b"end")
    assert (await shown(bus, capsys)).endswith(
        f"\n{'x' * LARGE}\n({LARGE} of {LARGE + 3} bytes; --whole shows all)\n"
    )
    assert (await shown(bus, capsys, whole=True)).endswith(f"\n{'x' * LARGE}end\n")
    assert (await shown(await letter(b"x" * LARGE), capsys)).endswith(f"\n{'x' * LARGE}\n")


async def test_a_letter_without_a_body_has_an_empty_one(capsys):
    assert (await shown(await letter(None), capsys)).endswith("\n\n")


async def test_one_that_was_cut_says_so_and_is_not_sent_again(capsys):
    bus = await letter(b"half", **{dead_letters.ORIGINAL_SIZE_HEADER: b"2000"})
    assert (await shown(bus, capsys)).splitlines()[0].endswith(" cut from 2000 bytes")
    assert await replay(bus, TOPICS, settings(), Namespace(offset=0)) == 1
    assert "nothing whole" in capsys.readouterr().out
    assert await bus.ends(REQUESTS) == {0: 0, 1: 0}


async def marked(origin: str | None) -> ScriptedBus:
    """A log with a known model, and a dead letter of this origin whose own headers name another
    topic and a cut.
    """
    bus = await started_bus()
    card = ModelRegistration(MODEL, REQUESTS, "llm.m")
    await bus.send(TOPICS.models, encode_message(card), key=MODEL.encode(), headers=[])
    own = [
        (dead_letters.ORIGIN_HEADER, f"{TOPICS.models}/0/0".encode()),
        (dead_letters.ORIGINAL_SIZE_HEADER, b"9"),
        ("odd", b"1"),
    ]
    if origin is None:
        await bus.send(TOPICS.dlq, b"body", key=b"k", headers=own[2:])
    else:
        await dead_letter(bus, TOPICS.dlq, (origin, 0, 0), own, b"body", "no request")
    return bus


async def test_a_letter_goes_to_the_topic_it_came_from_whatever_its_own_headers_say(capsys):
    bus = await marked(REQUESTS)
    assert f"origin={REQUESTS}/0/0 reason=no request\n" in await shown(bus, capsys)
    assert await replay(bus, TOPICS, settings(), Namespace(offset=0)) == 0
    assert "sent again as it was" in capsys.readouterr().out
    (sent,) = [record for partition in (0, 1) for record in await log_of(bus, REQUESTS, partition)]
    assert (sent.value, sent.headers) == (b"body", [("odd", b"1")])


async def test_of_two_marks_with_one_name_the_first_counts():
    """In letters that earlier workers wrote, the record's own headers may still have marks."""
    headers = [
        (dead_letters.ORIGIN_HEADER, b"ours"),
        ("odd", b"1"),
        (dead_letters.ORIGIN_HEADER, b"forged"),
    ]
    assert dead_letters.split_marks(headers) == (
        {dead_letters.ORIGIN_HEADER: "ours"},
        [("odd", b"1")],
    )


@pytest.mark.parametrize(
    "origin", [TOPICS.models, TOPICS.replies, "orders.of.another.application", "evil\x1b[2J", None]
)
async def test_nothing_is_sent_to_a_topic_that_no_known_model_has(origin, capsys):
    bus = await marked(origin)
    before = {topic: await bus.ends(topic) for topic in (TOPICS.models, TOPICS.replies, REQUESTS)}
    assert await replay(bus, TOPICS, settings(), Namespace(offset=0)) == 1
    said = capsys.readouterr().out
    assert "no topic of a known model" in said
    assert said.strip().isprintable()
    assert {topic: await bus.ends(topic) for topic in before} == before


def test_a_reader_that_has_seen_enough_ends_a_command_quietly(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("API_KEYS_FILE", str(tmp_path / "none.yaml"))
    monkeypatch.setattr("sys.argv", ["app.admin", "keys", "list"])
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        assert admin.main() == 1
        monkeypatch.undo()
    assert capfd.readouterr().err == ""
