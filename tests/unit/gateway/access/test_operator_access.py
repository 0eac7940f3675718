"""Who may see the operator's views at the gateway's own port."""

import pytest

from app.config.settings import load_settings
from app.errors import SettingsError
from app.gateway.access.operator_access import OperatorAccess

KEY, OTHER = "operator-0a1b2c3d4e5f", "operator-f5e4d3c2b1a0"
FORWARDED = {"x-forwarded-for": "203.0.113.7"}


def admitted(client: str = "192.0.2.7", keys: str = f"{KEY},{OTHER}", **headers: str) -> bool:
    head = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    operators = OperatorAccess(
        load_settings({"OPERATOR_KEYS": keys, "API_KEYS": "sk-of-a-client-0123"}).gateway
    )
    return operators.is_allowed({"type": "http", "headers": head, "client": (client, 1)})


def test_whoever_is_on_this_machine_is_admitted_and_nobody_else():
    assert admitted("127.0.0.1")
    assert admitted("::1")
    assert not admitted("192.0.2.7")


@pytest.mark.parametrize(
    "header", [FORWARDED, {"x-real-ip": "203.0.113.7"}, {"forwarded": "for=203.0.113.7"}]
)
def test_whoever_comes_through_a_proxy_from_elsewhere_is_not_on_this_machine(header):
    assert not admitted("127.0.0.1", **header)


@pytest.mark.parametrize("key", [KEY, OTHER])
def test_an_operators_key_is_good_from_anywhere(key):
    assert admitted(authorization=f"Bearer {key}")
    assert admitted("127.0.0.1", authorization=f"bearer {key}", **FORWARDED)


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        KEY,
        f"Basic {KEY}",
        f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}",
        "Bearer sk-of-a-client-0123",
    ],
)
def test_nothing_else_is_an_operators_key(authorization):
    assert not admitted(authorization=authorization)


def test_without_operators_keys_none_is_good():
    assert not admitted(keys="", authorization="Bearer ")
    assert not admitted(keys="")


def test_a_page_of_another_origin_in_a_browser_here_is_not_admitted():
    assert not admitted("127.0.0.1", origin="https://elsewhere.example")
    assert not admitted("127.0.0.1", origin="null")
    assert admitted("127.0.0.1", origin="https://elsewhere.example", authorization=f"Bearer {KEY}")


@pytest.mark.parametrize(
    ("host", "may"),
    [
        *(
            (host, True)
            for host in (
                "",
                "localhost",
                "localhost:8000",
                "127.0.0.1:8000",
                "[::1]:8000",
                "0.0.0.0:8000",
            )
        ),
        *(
            (host, False)
            for host in (
                "elsewhere.example",
                "elsewhere.example:8000",
                "localhost.elsewhere.example",
                "[::1",
                "a b",
            )
        ),
    ],
)
def test_a_name_that_was_made_to_lead_here_is_not_admitted(host, may):
    assert admitted("127.0.0.1", host=host) is may
    assert admitted("127.0.0.1", host=host, authorization=f"Bearer {KEY}")


def test_an_operators_key_that_can_be_guessed_stops_the_start():
    with pytest.raises(SettingsError, match="OPERATOR_KEYS: its value does not work"):
        load_settings({"OPERATOR_KEYS": "short"})


def test_an_operators_key_is_in_no_description_of_the_settings():
    assert KEY not in repr(load_settings({"OPERATOR_KEYS": KEY}))
