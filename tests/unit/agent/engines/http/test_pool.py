"""Where an upstream's host is: looked up seldom, and anew where that failed."""

import asyncio
import socket
from typing import Any

import pytest

from app.agent.engines.http.pool import Names
from app.agent.engines.http.request import Address

FOUND = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 80))]


class Resolver:
    def __init__(self, *outcomes: Exception) -> None:
        self.outcomes = list(outcomes)
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int, **_more: Any) -> list[Any]:
        self.asked.append((host, port))
        await asyncio.sleep(1)
        if self.outcomes:
            raise self.outcomes.pop()
        return FOUND


def names(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> Names:
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolver)
    return Names(Address.of("http://up"))


async def test_a_name_is_looked_up_once_for_all_who_ask_and_again_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolver = Resolver()
    known = names(resolver, monkeypatch)
    assert await asyncio.gather(*(known.addresses() for _ in range(5))) == [FOUND] * 5
    await known.addresses()
    assert resolver.asked == [("up", 80)]
    await asyncio.sleep(20)
    assert await known.addresses() == FOUND
    assert len(resolver.asked) == 2


async def test_a_failure_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = Resolver(socket.gaierror(-3, "try again"))
    known = names(resolver, monkeypatch)
    with pytest.raises(socket.gaierror):
        await known.addresses()
    assert await known.addresses() == FOUND


async def test_one_who_leaves_does_not_take_the_answer_from_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = names(Resolver(), monkeypatch)
    first, second = (asyncio.create_task(known.addresses()) for _ in range(2))
    await asyncio.sleep(0.5)
    first.cancel()
    assert await second == FOUND
