"""Settings that do not work stop the start, with a line that names them and not their secret."""

import secrets
from dataclasses import fields, is_dataclass

import pytest

from app.config.parsers import positive_seconds, redact_url
from app.config.settings import load_settings
from app.errors import SettingsError

GOOD = "sk-7f3a9c1e5b2d8046"


def refused(**environment: str) -> str:
    with pytest.raises(SettingsError) as error:
        load_settings(environment)
    return str(error.value)


def test_keys_of_our_own_stand_with_commas_between():
    assert load_settings({"API_KEYS": f" {GOOD}, {GOOD}x ,"}).gateway.api_keys == (GOOD, f"{GOOD}x")


@pytest.mark.parametrize("key", ["sesame", "sk-123456789012", "x" * 15])
def test_a_short_key_is_refused_by_its_place_and_not_shown(key):
    text = refused(API_KEYS=f"{GOOD},{key}")
    assert text.startswith("API_KEYS: ")
    assert "key 2 is shorter than 16 characters" in text
    assert "openssl rand" in text
    assert key not in text
    assert GOOD not in text


@pytest.mark.parametrize(
    "key",
    [
        *(
            "changeme-changeme",
            "CHANGE_ME_PLEASE!",
            "your-api-key-here",
            "sk-your-api-key-here",
            "<your-secret-key>",
        ),
        *(
            "xxxxxxxxxxxxxxxxxxxx",
            "sk-xxxxxxxxxxxxxxxx",
            "1111111111111111",
            "replace-me-by-a-key",
            "password12345678",
        ),
        "0123456789abcdef0123",
    ],
)
def test_a_placeholder_is_refused(key):
    text = refused(API_KEYS=key)
    assert "key 1 is a placeholder" in text
    assert key not in text


def test_random_keys_are_no_placeholders():
    for _ in range(200):
        load_settings({"API_KEYS": f"{secrets.token_hex(16)},sk-{secrets.token_urlsafe(24)}"})


def test_keys_are_in_no_repr():
    assert GOOD not in repr(load_settings({"API_KEYS": GOOD}))


@pytest.mark.parametrize("value", ["yes", "2", "true"])
def test_a_switch_is_0_or_1(value):
    assert "0 or 1" in refused(ALLOW_ANONYMOUS=value)


@pytest.mark.parametrize(
    "variable",
    ["OPENAI_HOST", "FIRST_OPENAI_HOST", "SECOND_OPENAI_HOST", "OTEL_EXPORTER_OTLP_ENDPOINT"],
)
@pytest.mark.parametrize(
    "value",
    [
        *(
            "http://localhost:80000",
            "http://localhost:abc",
            "http://localhost:0",
            "http://",
            "http://:8000",
            "localhost:8000",
        ),
        *("http://a b/", "http://a/b\tc", "http://[::1", "http://a..b", "ftp://a"),
    ],
)
def test_an_address_that_leads_nowhere_is_refused(variable, value):
    assert refused(**{variable: value}).startswith(f"{variable}: ")


@pytest.mark.parametrize(
    "value",
    [
        "http://localhost",
        "https://api.example.com/openai/v1",
        "http://127.0.0.1:65535/",
        "http://[::1]:8000",
        "http://my_model:1",
    ],
)
def test_an_address_is_taken_as_it_is(value):
    assert load_settings({"OPENAI_HOST": value}).models.host == value


@pytest.mark.parametrize(
    "variable", ["KAFKA_REQUEST_TOPIC", "KAFKA_RESPONSE_TOPIC", "TOPIC_PREFIX"]
)
def test_a_topic_that_kafka_does_not_take_is_refused(variable):
    for value in ("a b", "..", ".", "a/b", "\u00e4", "a" * 250):
        assert refused(**{variable: value}).startswith(f"{variable}: ")
    load_settings({variable: "llm.my-own_Topic.1"})


@pytest.mark.parametrize(
    "variable", ["OPENAI_MODEL_NAME", "FIRST_OPENAI_MODEL_NAME", "SECOND_OPENAI_MODEL_NAME"]
)
def test_a_models_name_is_printable(variable):
    for value in ("a\nb", "a\x1b[2J"):
        assert "\n" not in refused(**{variable: value})
    load_settings({variable: "Qwen/Qwen3-8B my own"})


ABOVE_0 = [
    "HEARTBEAT_SECONDS",
    "BUS_ADMIT_TIMEOUT_SECONDS",
    "REQUEST_TIMEOUT_SECONDS",
    "IDEMPOTENCY_TTL_SECONDS",
]


@pytest.mark.parametrize("variable", ABOVE_0)
@pytest.mark.parametrize("value", ["0", "0.0", "-1", "nan", "inf", "soon"])
def test_a_time_without_which_nothing_works_is_above_0(variable, value):
    assert refused(**{variable: value}).startswith(f"{variable}: ")


@pytest.mark.parametrize("variable", ABOVE_0)
def test_every_section_that_reads_such_a_time_asks_the_same_of_it(variable):
    sections = [value for value in vars(load_settings({})).values() if is_dataclass(value)]
    parsers = {
        field.metadata["parser"]
        for section in sections
        for field in fields(section)
        if field.metadata["name"] == variable
    }
    assert parsers == {positive_seconds}


def test_a_time_may_be_a_fraction_and_where_0_means_something_0():
    found = load_settings(
        {"HEARTBEAT_SECONDS": "0.2", "SSE_HEAD_AFTER_SECONDS": "0", "DRAIN_SECONDS": "0"}
    )
    assert (
        found.gateway.heartbeat_seconds,
        found.worker.heartbeat_seconds,
        found.gateway.sse_head_after_seconds,
        found.worker.drain_seconds,
    ) == (0.2, 0.2, 0, 0)


@pytest.mark.parametrize(
    "variable",
    ["OPENAI_HOST", "FIRST_OPENAI_HOST", "SECOND_OPENAI_HOST", "OTEL_EXPORTER_OTLP_ENDPOINT"],
)
@pytest.mark.parametrize(
    "address",
    [
        *(
            "http://user:secret@host:99999",
            "http://user:secret@host:x/v1",
            "user:secret@host",
            "http://user:sec@secret@",
            "ftp://secret@host",
        ),
        *(
            "http://user:secret/x@host",
            "http://host:99999/v1?key=secret",
            "http://secret@a b/",
            "http://user:secret@host:x/?a=http://b",
        ),
    ],
)
def test_an_address_that_does_not_work_is_shown_without_its_password(variable, address):
    text = refused(**{variable: address})
    assert text.startswith(f"{variable}: ")
    assert "secret" not in text


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("", ""),
        ("http://up:8000/v1", "http://up:8000/v1"),
        ("https://u:p@up/v1?k=p#p", "https://***@up/v1"),
        ("https://u:p@w@up", "https://***@up"),
        ("u:p@up", "***@up"),
    ],
)
def test_an_address_is_shown_without_userinfo_query_and_fragment(address, shown):
    assert redact_url(address) == shown


@pytest.mark.parametrize(("text", "seconds"), [("", None), ("7.5", 7.5)])
def test_each_model_of_the_environment_may_have_its_own_read_timeout(text, seconds):
    names = ("OPENAI", "FIRST_OPENAI", "SECOND_OPENAI")
    models = load_settings({f"{name}_READ_TIMEOUT_SECONDS": text for name in names}).models
    assert (models.read_timeout, models.first_read_timeout, models.second_read_timeout) == (
        seconds,
    ) * 3
    for name in names:
        assert refused(**{f"{name}_READ_TIMEOUT_SECONDS": "0"}).startswith(
            f"{name}_READ_TIMEOUT_SECONDS: "
        )
