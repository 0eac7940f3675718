"""`python -m bench` as it is called."""

import asyncio
from pathlib import Path

import pytest

from bench.__main__ import arguments, run
from bench.question import question
from bench.report import Report
from bench.upstream import MODEL, Conversation


@pytest.fixture
async def server() -> asyncio.Server:
    return await asyncio.get_running_loop().create_server(lambda: Conversation(0, 0), "127.0.0.1", 0)


def address(server: asyncio.Server) -> str:
    return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_each_concurrency_is_a_row_of_the_table_and_of_the_file(
    server: asyncio.Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "new.json")
    given = ["--base-url", address(server), "--model", MODEL, "--stream", "--concurrency", "1,3", "--requests", "6"]
    async with server:
        assert await run(arguments([*given, "--json", path])) == 0
        assert await run(arguments([*given, "--compare", path])) == 0
    assert [(row.concurrency, row.requests, row.tokens) for row in Report.read(Path(path)).rows] == [(1, 6, 384), (3, 6, 384)]
    printed = capsys.readouterr().out
    assert "stream c=3" in printed
    assert "new / old" in printed


async def test_it_fails_when_every_request_did(server: asyncio.Server, capsys: pytest.CaptureFixture[str]) -> None:
    url = address(server)
    server.close()
    assert await run(arguments(["--base-url", url, "--model", MODEL, "--concurrency", "1", "--requests", "2"])) == 1
    assert "2 no connection" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["--concurrency", "0"], ["--concurrency", "a"], ["--requests", "1", "--duration", "1"]])
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
