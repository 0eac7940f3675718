"""Keys: whose request it is, and that nobody else's key, or something like it, opens anything."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.config.api_keys_file import KeyEntry, hash_key
from app.config.settings import load_settings
from app.errors import AnonymousRefused, InvalidApiKey, ModelNotAllowed
from app.gateway.access.authentication import ANONYMOUS, Authenticator, Caller, Limits


def keys(*plain: str, **environment: str) -> Authenticator:
    return Authenticator(replace(load_settings(environment).gateway, api_keys=plain))


def filed(*entries: KeyEntry) -> Authenticator:
    """Keys of a keys file with these entries."""
    made = Authenticator(replace(load_settings({}).gateway, api_keys_file="keys.yaml"))
    made.replace_file_keys(entries)
    return made


def entry(key: str = "sk-one", **members: Any) -> KeyEntry:
    return KeyEntry(**{"id": key, "tenant": "research", "hash": hash_key(key.encode()), **members})


def sent(text: str) -> str:
    """A header's value as the server has it: the bytes that were sent, each a character."""
    return text.encode().decode("latin-1")


def asked(
    of: Authenticator, authorization: str = "", client: str = "127.0.0.1", **headers: str
) -> Caller:
    head = [(b"authorization", authorization.encode("latin-1"))] if authorization else []
    head += [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    return of.authenticate({"type": "http", "headers": head, "client": (client, 1)})


def test_without_keys_everybody_on_this_machine_is_the_same_tenant():
    assert {asked(keys(), value).tenant for value in ("", "Bearer a", "Basic b")} == {ANONYMOUS}


def test_without_keys_those_elsewhere_are_refused_and_told_why():
    with pytest.raises(AnonymousRefused, match="API_KEYS_FILE"):
        asked(keys(), client="192.0.2.7")


def test_without_keys_those_elsewhere_are_served_if_the_operator_says_so():
    assert asked(keys(ALLOW_ANONYMOUS="1"), client="192.0.2.7").tenant == ANONYMOUS


# what a browser on this machine says, and what the refusal says; "": none
PAGES: dict[str, tuple[dict[str, str], str]] = {
    "no browser": ({}, ""),
    "the SDK": ({"host": "127.0.0.1:8000"}, ""),
    "curl": ({"host": "localhost:8000"}, ""),
    "our own page": ({"host": "localhost:8000", "origin": "http://localhost:8000"}, ""),
    "our own page behind TLS": ({"host": "[::1]", "origin": "https://[::1]"}, ""),
    "a page that may": ({"host": "localhost:8000", "origin": "https://app.example"}, ""),
    "a foreign page": (
        {"host": "localhost:8000", "origin": "https://elsewhere.example"},
        "CORS_ORIGINS",
    ),
    "a page at another port": (
        {"host": "localhost:8000", "origin": "http://localhost:3000"},
        "CORS_ORIGINS",
    ),
    "a page without an origin": ({"host": "localhost:8000", "origin": "null"}, "CORS_ORIGINS"),
    "a page without an origin, to no host": ({"origin": "null"}, "CORS_ORIGINS"),
    "a name that leads here": ({"host": "elsewhere.example:8000"}, "localhost"),
    "a page whose name leads here": (
        {"host": "elsewhere.example", "origin": "http://elsewhere.example"},
        "localhost",
    ),
    "a page that may, by a name that leads here": (
        {"host": "app.example", "origin": "https://app.example"},
        "localhost",
    ),
    "an endless name": ({"host": "127.0.0.1" + "0" * 1000}, "localhost"),
}


@pytest.mark.parametrize("page", PAGES)
def test_without_keys_no_web_page_of_somebody_elses_is_served(page):
    headers, why = PAGES[page]
    known = keys(CORS_ORIGINS="https://app.example")
    if not why:
        assert asked(known, **headers).tenant == ANONYMOUS
    else:
        with pytest.raises(AnonymousRefused, match=why):
            asked(known, **headers)


@pytest.mark.parametrize("page", PAGES)
def test_a_key_serves_any_page_and_anonymous_means_other_machines_alone(page):
    headers, why = PAGES[page]
    for client in ("127.0.0.1", "192.0.2.7"):
        known = keys(ALLOW_ANONYMOUS="1", CORS_ORIGINS="https://app.example")
        if not why:
            assert asked(known, client=client, **headers).tenant == ANONYMOUS
        else:
            with pytest.raises(AnonymousRefused, match=why):
                asked(known, client=client, **headers)
    assert asked(keys("sk-one"), "Bearer sk-one", **headers).tenant.startswith("key-")


def test_any_page_that_may_is_any_page_but_not_by_any_name():
    known = keys(CORS_ORIGINS="*")
    assert asked(known, host="localhost", origin="https://elsewhere.example").tenant == ANONYMOUS
    with pytest.raises(AnonymousRefused):
        asked(known, host="elsewhere.example", origin="https://elsewhere.example")


@pytest.mark.parametrize("client", ["127.0.0.1", "192.0.2.7"])
def test_with_keys_nobody_is_anonymous(client):
    for known in (keys("sk-one", ALLOW_ANONYMOUS="1"), filed()):
        with pytest.raises(InvalidApiKey):
            asked(known, client=client)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "others get 403"),
        ({"ALLOW_ANONYMOUS": "1"}, "every machine that reaches"),
        ({"API_KEYS": "sk-0a1b2c3d4e5f67"}, ""),
    ],
)
def test_the_start_says_what_it_means_to_have_no_keys(environment, said, caplog):
    Authenticator(load_settings(environment).gateway).warn_if_anonymous()
    assert [said in record.message for record in caplog.records] == ([True] if said else [])


def test_each_plain_key_is_a_tenant_of_its_own_and_stays_the_same():
    known = keys("sk-one", "sk-two")
    one, two = asked(known, "Bearer sk-one").tenant, asked(known, "bearer  sk-two ").tenant
    assert one != two
    assert asked(keys("sk-two", "sk-one"), "BEARER sk-one").tenant == one
    assert "sk-one" not in one


@pytest.mark.parametrize(
    "value", ["", "Bearer", "Bearer ", "sk-one", "Basic sk-one", "Bearer\tsk-one"]
)
def test_a_header_without_a_key_says_where_to_put_it(value):
    with pytest.raises(InvalidApiKey, match="Authorization: Bearer"):
        asked(keys("sk-one"), value)


@pytest.mark.parametrize("value", ["sk-On", "sk-onee", "sk one", "??????", "\xff"])
def test_a_wrong_key_is_refused_and_not_repeated(value):
    with pytest.raises(InvalidApiKey) as refused:
        asked(keys("sk-one"), f"Bearer {value}")
    assert value not in str(refused.value)


@pytest.mark.parametrize("name", ["x-api-key", "api-key"])
def test_a_key_may_come_as_anthropics_and_azures_sdk_send_it(name):
    known = keys("sk-one")
    assert asked(known, **{name: "sk-one"}) == asked(known, "Bearer sk-one")
    with pytest.raises(InvalidApiKey, match="Incorrect"):
        asked(known, **{name: "sk-two"})


@pytest.mark.parametrize("dummy", ["Bearer dummy", "Bearer sk-old", "Basic eDp5", "Bearer"])
def test_a_good_key_counts_beside_a_dummy_in_another_header(dummy):
    old = entry("sk-old", id="old", expires=datetime.now(UTC) - timedelta(seconds=1))
    known = filed(entry("sk-one"), entry("sk-two", id="two"), old)
    for name in ("x-api-key", "api-key"):
        assert asked(known, dummy, **{name: "sk-one"}).key_id == "sk-one"
        assert asked(known, "Bearer sk-two", **{name: "dummy"}).key_id == "two"
    assert asked(known, dummy, **{"x-api-key": "dummy", "api-key": "sk-one"}).key_id == "sk-one"
    with pytest.raises(InvalidApiKey):
        asked(known, dummy, **{"x-api-key": "dummy", "api-key": "sk-three"})


def test_a_hash_is_no_key():
    with pytest.raises(InvalidApiKey):
        asked(filed(entry("sk-one")), f"Bearer {hash_key(b'sk-one')}")


@given(
    st.text(st.characters(exclude_categories=["Cs", "Z", "Cc"]), min_size=1), st.text(min_size=1)
)
def test_a_key_of_any_characters_opens_and_nothing_else_does(key, other):
    known = keys(key)
    assert asked(known, f"Bearer {sent(key)}").tenant.startswith("key-")
    if other.encode("utf-8", "replace").strip() != key.encode():
        with pytest.raises(InvalidApiKey):
            asked(known, "Bearer " + other.encode("utf-8", "replace").decode("latin-1"))


def test_question_marks_stand_for_no_other_character():
    with pytest.raises(InvalidApiKey):
        asked(keys("\u043f\u0430\u0440\u043e\u043b\u044c"), "Bearer ??????")


def test_a_key_of_the_file_has_what_stands_there():
    known = filed(
        entry(rpm=60, concurrent=2, models=("m",), priority="high"), entry("sk-two", id="two")
    )
    one, two = asked(known, "Bearer sk-one"), asked(known, "Bearer sk-two")
    assert (one.tenant, one.key_id, one.limits, one.priority) == (
        "research",
        "sk-one",
        Limits(rpm=60, concurrent=2),
        "high",
    )
    assert (two.tenant, two.key_id, two.limits) == ("research", "two", None)
    assert (one.is_restricted, two.is_restricted) == (True, False)


def test_both_kinds_of_keys_are_good_beside_each_other():
    known = Authenticator(
        replace(load_settings({}).gateway, api_keys=("sk-plain",), api_keys_file="keys.yaml")
    )
    known.replace_file_keys([entry()])
    assert asked(known, "Bearer sk-one").tenant == "research"
    assert asked(known, "Bearer sk-plain").tenant.startswith("key-")


def test_a_key_that_is_taken_out_opens_nothing_any_more():
    known = filed(entry())
    known.replace_file_keys([entry("sk-two")])
    with pytest.raises(InvalidApiKey):
        asked(known, "Bearer sk-one")


def test_a_key_is_good_until_it_expires():
    now = datetime.now(UTC)
    assert (
        asked(filed(entry(expires=now + timedelta(minutes=1))), "Bearer sk-one").tenant
        == "research"
    )
    with pytest.raises(InvalidApiKey, match="expired"):
        asked(filed(entry(expires=now - timedelta(seconds=1))), "Bearer sk-one")


def test_a_model_is_allowed_by_any_of_its_names():
    caller = Caller("t", allowed_models=frozenset({"gpt"}))
    assert caller.can_use_model(["gpt-4o", "gpt"])
    assert not caller.can_use_model(["gpt-4o"])
    assert Caller("t").can_use_model(["anything"])
    with pytest.raises(ModelNotAllowed, match="'other'") as refused:
        caller.refuse_unless_allowed(["other"], "other")
    assert (refused.value.status, refused.value.code) == (403, "model_not_allowed")
