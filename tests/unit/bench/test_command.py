"""`python -m bench` as it is called."""

import asyncio
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from bench.__main__ import arguments, main, run
from bench.processes import BenchError
from bench.question import question
from bench.report import Report
from bench.upstream import MODEL, Conversation


@pytest.fixture
async def server() -> asyncio.Server:
    return await asyncio.get_running_loop().create_server(
        lambda: Conversation(0, 0), "127.0.0.1", 0
    )


def address(server: asyncio.Server) -> str:
    return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_each_concurrency_is_a_row_of_the_table_and_of_the_file(
    server: asyncio.Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "new.json")
    given = [
        "--base-url",
        address(server),
        "--model",
        MODEL,
        "--stream",
        "--concurrency",
        "1,3",
        "--requests",
        "6",
    ]
    async with server:
        assert await run(arguments([*given, "--json", path])) == 0
        assert await run(arguments([*given, "--compare", path])) == 0
    assert [
        (row.concurrency, row.requests, row.tokens) for row in Report.read(Path(path)).rows
    ] == [(1, 6, 384), (3, 6, 384)]
    printed = capsys.readouterr().out
    assert "stream c=3" in printed
    assert "new / old" in printed


class Refusing(Conversation):
    """Of every request; notes the key that came with it."""

    keys: ClassVar[list[bytes]] = []

    def data_received(self, data: bytes) -> None:
        self.keys += [line for line in data.split(b"\r\n") if line.startswith(b"authorization")]
        body = b'{"error":{"message":"Incorrect API key provided."}}'
        self._transport.write(
            b"HTTP/1.1 401 Unauthorized\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )


async def test_one_request_goes_before_the_others_and_if_it_fails_the_rest_is_not_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-env")
    server = await asyncio.get_running_loop().create_server(lambda: Refusing(0, 0), "127.0.0.1", 0)
    async with server:
        for own, sent in (([], b"sk-env"), (["--api-key", "sk-own"], b"sk-own")):
            Refusing.keys.clear()
            with pytest.raises(
                BenchError,
                match=r"127\.0\.0\.1:\d+ does not answer as it should: status 401: "
                r".*Incorrect API key",
            ):
                await run(arguments(["--base-url", address(server), "--model", MODEL, *own]))
            assert Refusing.keys == [b"authorization: Bearer " + sent]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "no connection"),
        (["--plot", "x.png"], "x.png: PNG needs matplotlib"),
        (["--plot", "x.gif"], ".svg or .png"),
    ],
)
def test_what_can_be_known_before_is_said_at_once(
    more: list[str],
    said: str,
    refusing_port: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # nobody has it
    url = f"http://127.0.0.1:{refusing_port}"
    monkeypatch.setattr(sys, "argv", ["bench", "--base-url", url, "--model", MODEL, *more])
    assert main() == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [["--concurrency", "0"], ["--concurrency", "a"], ["--requests", "1", "--duration", "1"]],
)
def test_an_option_that_makes_no_sense_is_refused(wrong: list[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(["--base-url", "http://a", "--model", "m", *wrong])


@pytest.mark.parametrize(
    ("url", "line", "port"),
    [
        ("http://host:8000", b"POST /v1/chat/completions HTTP/1.1", 8000),
        ("http://host:8000/v1/", b"POST /v1/chat/completions HTTP/1.1", 8000),
        ("https://host/openai/v1", b"POST /openai/v1/chat/completions HTTP/1.1", 443),
    ],
)
def test_the_address_may_have_a_path_or_none(url: str, line: bytes, port: int) -> None:
    asked = question(url, "m", stream=False, max_tokens=1, key="secret")
    head = asked.request.partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert head[0] == line
    assert b"authorization: Bearer secret" in head
    assert (asked.host, asked.port, asked.tls) == ("host", port, url.startswith("https"))


@pytest.mark.parametrize("url", ["", "host:8000", "ftp://host", "http://"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="not an http"):
        question(url, "m", stream=False, max_tokens=1)
