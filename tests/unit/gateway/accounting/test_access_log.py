"""The access line of what did not go well: who it was, and how many lines a flood of it leaves."""

import logging
from typing import Any

import pytest

from app.config.settings import load_settings
from app.gateway.accounting import refusal_throttle as floods
from app.gateway.accounting.access_log import AccessLog
from tests.unit.scene import until

REFUSED = {"code": "invalid_api_key"}
TRUSTED = load_settings({}).gateway.trusted_proxies


class Log:
    """What the log has of requests that end so."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "app.access")
        self.counted = 0
        self.access_log = AccessLog(self._observe, trusted_proxies=TRUSTED)
        self._caplog = caplog

    def _observe(self, *_: object) -> None:
        self.counted += 1

    def ended(
        self,
        status: int,
        line: dict[str, Any],
        client: str = "192.0.2.7",
        *head: tuple[bytes, bytes],
        times: int = 1,
    ) -> None:
        for _ in range(times):
            scope = {"method": "GET", "path": "/v1/models", "headers": head, "client": (client, 1)}
            self.access_log.log_request(scope, status, dict(line))

    def lines(self, name: str) -> list[Any]:
        """A member of each line; None where a line has none."""
        self.access_log.flush()
        return [getattr(record, name, None) for record in self._caplog.records]


@pytest.fixture
async def log(caplog: pytest.LogCaptureFixture) -> Log:
    return Log(caplog)


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (401, REFUSED),
        (502, {"outcome": "failed"}),
        (0, {"client": "gone"}),
        (200, {"outcome": "cancelled"}),
    ],
)
async def test_what_did_not_go_well_says_from_where_it_came(
    log: Log, status: int, line: dict[str, Any]
) -> None:
    log.ended(status, line)
    assert log.lines("client_address") == ["192.0.2.7"]


async def test_behind_a_trusted_proxy_that_is_its_client(log: Log) -> None:
    for peer in ("127.0.0.1", "192.0.2.7"):
        log.ended(401, REFUSED, peer, (b"x-forwarded-for", b"203.0.113.9"))
    assert log.lines("client_address") == ["203.0.113.9", "192.0.2.7"]


async def test_what_went_well_says_no_more_than_it_needs(log: Log) -> None:
    log.ended(200, {"outcome": "completed"})
    assert log.lines("client_address") == [None]


async def test_a_flood_of_the_same_refusal_is_cut_and_counted(log: Log) -> None:
    log.ended(401, REFUSED, times=500)
    log.ended(401, REFUSED, "192.0.2.8")
    log.ended(404, {"code": "unknown_url"})
    log.ended(502, {"outcome": "failed"}, times=20)
    assert log.lines("status") == [401] * 10 + [401, 404] + [502] * 20
    assert log.counted == 522
    log.access_log.close()
    assert log.lines("left_out")[32:] == [490]
    assert (log.lines("code")[-1], log.lines("client_address")[-1]) == (
        "invalid_api_key",
        "192.0.2.7",
    )


async def test_it_begins_anew_after_a_while(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floods, "_WINDOW_SECONDS", 0.01)
    for floods_so_far in (1, 2):
        log.ended(401, REFUSED, times=13)
        await until(lambda many=floods_so_far: log.lines("left_out").count(3) == many)
    assert log.lines("status").count(401) == 20


async def test_a_flood_from_very_many_addresses_is_cut_too(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(floods, "_MAX_KINDS", 2)
    for number in range(30):
        log.ended(401, REFUSED, f"192.0.2.{number}")
    log.access_log.close()
    assert log.lines("client_address") == [f"192.0.2.{number}" for number in range(12)] + [""]
    assert log.lines("left_out")[-1] == 18
