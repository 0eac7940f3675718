"""The models as configured: what does not work is told in one line, which shows no secret."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.config.model_entry import ModelEntry
from app.config.models_file import load_embedded_models, load_worker_models
from app.config.settings import load_settings
from app.config.unknown_settings import find_misspelt_settings
from app.errors import SettingsError

SECRET = "sk-real-secret"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "models.yaml"


def entry(**members: Any) -> dict[str, Any]:
    return {"id": "one", "host": "http://one:8000", **members}


def written(file: Path, *entries: Any) -> Path:
    file.write_text(yaml.safe_dump({"models": list(entries)}))
    return file


def models_of(file: Path, **environment: str) -> list[ModelEntry]:
    return load_worker_models(load_settings({"MODELS_FILE": str(file), **environment}))


def fault(file: Path, **environment: str) -> str:
    with pytest.raises(SettingsError) as refused:
        models_of(file, **environment)
    text = str(refused.value)
    assert text.isprintable(), "one line"
    assert len(text) < 500
    return text


def test_an_entry_is_read_with_the_value_of_the_variable_that_its_token_names(file):
    described = written(file, entry(token="MY_TOKEN", aliases=["a", "b c"], topic="my.own_topic-1"))
    (only,) = models_of(described, MY_TOKEN=SECRET)
    assert (only.id, only.host, only.aliases, only.topic) == (
        "one",
        "http://one:8000",
        ("a", "b c"),
        "my.own_topic-1",
    )
    assert only.token.get_secret_value() == SECRET


@pytest.mark.parametrize(
    ("member", "value", "said"),
    [
        ("host", "http://a:99999", "its port, if it has one, is 1 to 65535"),
        ("host", "http://a b/", "expected an http:// or https:// address"),
        ("host", "one:8000", "expected an http:// or https:// address"),
        ("paths", ["files"], "a path below /v1"),
        ("paths", ["/v1/ocr"], "a path below /v1"),
        ("paths", ["/Requests/x"], "a path below /v1"),
        ("paths", ["/models"], "a path below /v1"),
        ("paths", ["/a/../b"], "a path below /v1"),
        ("paths", ["/a?b=c"], "a path below /v1"),
        ("paths", ["/"], "a path below /v1"),
        ("topic", "a b", "a topic's name"),
        ("topic", "..", "a topic's name"),
        ("topic", "a" * 250, "at most 249"),
        ("aliases", "y", "expected a list"),
        ("aliases", [" "], "without spaces around it"),
        ("aliases", ["a\x1b[2J"], "without control characters"),
        ("aliases", ["one"], "aliases other than its own id"),
        ("aliases", ["a", "a"], "each of them once"),
        ("id", "a\nb", "without control characters"),
        ("id", "", "at least 1 character"),
        ("read_timeout", 0, "greater than 0"),
        ("read_timeout", float("inf"), "finite number"),
        ("host", f"http://user:{SECRET}@up:99999", "its port, if it has one, is 1 to 65535"),
        ("concurrency", 0, "greater than or equal to 1"),
        ("nowhere\nto be found", 1, "there is no such field"),
    ],
)
def test_a_wrong_field_is_refused_by_its_entry_and_its_name(file, member, value, said):
    text = fault(written(file, entry(id="first"), entry(**{member: value})))
    assert text.startswith(f"MODELS_FILE: {file}: model 2 (")
    assert SECRET not in text
    assert said in text


def test_an_entry_that_is_none_is_refused_by_its_place(file):
    assert "model 1: expected fields and their values" in fault(written(file, "one"))


def test_a_model_without_a_host_is_refused(file):
    assert "model 1 ('one') has no host" in fault(written(file, {"id": "one"}))


def test_a_faulty_entry_is_not_shown_as_its_token_may_be_the_secret_itself(file):
    assert SECRET not in fault(written(file, entry(token=SECRET, hots="x")))


def test_a_token_that_is_no_variables_name_is_not_shown(file):
    text = fault(written(file, entry(token=SECRET)))
    assert "token takes the NAME of a variable" in text
    assert SECRET not in text
    assert "the variable GPT_TOKEN, which is not set" in fault(
        written(file, entry(token="GPT_TOKEN"))
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe\xff", "it is no YAML"),
        (b"models: [{id: \xe4}]", "it is no YAML"),
        (
            b"models:\n  - id: a\n   host: [\n",
            "line 3, column 4: it is no YAML: did not find expected",
        ),
        (b"models: [{id: 2026-02-30}]", "line 1 has a value that cannot be"),
        (b"models: [{id: !!bool x}]", "line 1 has a value that cannot be"),
        (b"models: [{id: !!timestamp x}]", "line 1 has a value that cannot be"),
        (
            b"models:\n  - id: a\n    host: http://a\n    id: b\n",
            "line 4 has a name that its entry has already",
        ),
        (b"models: []\nmodels: []\n", "line 2 has a name that its entry has already"),
        (b"", "it has no list `models`"),
        (b"models: {}", "it has no list `models`"),
        (b"models: []", "it has no models"),
    ],
)
def test_what_is_no_list_of_models_is_refused(file, content, said):
    file.write_bytes(content)
    assert said in fault(file)


def test_a_models_read_timeout_is_that_of_its_variables(file):
    named = {
        f"{order}_OPENAI_{part}": f"http://{order}"
        for order in ("FIRST", "SECOND")
        for part in ("MODEL_NAME", "HOST")
    }
    first, second = load_embedded_models(
        load_settings({**named, "FIRST_OPENAI_READ_TIMEOUT_SECONDS": "7"})
    )
    (own,) = load_worker_models(
        load_settings(
            {
                "OPENAI_MODEL_NAME": "m",
                "OPENAI_HOST": "http://m",
                "OPENAI_READ_TIMEOUT_SECONDS": "8",
            }
        )
    )
    (described,) = models_of(written(file, entry(read_timeout=9)))
    assert [one.read_timeout for one in (first, second, own, described)] == [7, None, 8, 9]


def test_a_hosts_password_is_in_no_repr(file):
    (only,) = models_of(written(file, entry(host=f"http://user:{SECRET}@up?key={SECRET}")))
    assert SECRET not in repr(only)


def test_a_merge_is_no_repetition(file):
    file.write_text(
        "models:\n  - &one {id: a, host: 'http://a'}\n  - {<<: *one, id: b}\n  - {<<: "
        "*one, id: c}\n"
    )
    assert [one.id for one in models_of(file)] == ["a", "b", "c"]


def test_a_file_that_cannot_be_read_is_said(file, tmp_path):
    assert "it cannot be read (No such file or directory)" in fault(file)
    assert "it cannot be read (Is a directory)" in fault(tmp_path)


def test_no_name_stands_for_two_models(file):
    twice = written(file, entry(aliases=["x"]), entry(id="x"))
    assert "MODELS_FILE: the name 'x' stands for two models" in fault(twice)
    pair = {
        f"{order}_OPENAI_{part}": "http://x"
        for order in ("FIRST", "SECOND")
        for part in ("MODEL_NAME", "HOST")
    }
    with pytest.raises(
        SettingsError, match=r"^SECOND_OPENAI_MODEL_NAME: the name 'http://x' stands for two models"
    ):
        load_embedded_models(load_settings(pair))


def test_a_model_that_the_file_does_not_have_is_refused(file):
    assert "OPENAI_MODEL_NAME: 'two' is not in MODELS_FILE" in fault(
        written(file, entry()), OPENAI_MODEL_NAME="two"
    )


def test_the_cause_of_a_fault_comes_first_with_its_place_and_what_was_meant(file):
    file.write_bytes(b"models:\n  - id: a\n\thost: http://a\n")
    assert "line 3, column 1: it is no YAML: a tab stands there" in fault(file)
    file.write_bytes(b"models:\n  - id: 'a\n")
    assert "it is no YAML: found unexpected end of stream" in fault(file)
    assert "hosts: there is no such field; did you mean host?" in fault(
        written(file, {"id": "one", "hosts": "http://a"})
    )
    assert "for example models:" not in fault(written(file, {"id": "one", "hosts": "http://a"}))


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/chat/completions/", "/openai/v1/responses?a=b"]
)
def test_the_address_of_an_endpoint_is_no_upstreams(file, path):
    assert "not that of one endpoint" in fault(written(file, entry(host=f"http://up{path}")))
    with pytest.raises(SettingsError, match=r"FIRST_OPENAI_HOST: .* not that of one endpoint"):
        load_settings({"FIRST_OPENAI_HOST": f"http://up{path}"})


def test_a_token_alone_and_a_file_without_models_stop_the_start(file):
    with pytest.raises(
        SettingsError, match="FIRST_OPENAI_MODEL_NAME: is not set, and FIRST_OPENAI_TOKEN is"
    ):
        load_embedded_models(load_settings({"FIRST_OPENAI_TOKEN": "t"}))
    file.write_bytes(b"models: []")
    with pytest.raises(SettingsError, match="it has no models"):
        load_embedded_models(load_settings({"MODELS_FILE": str(file)}))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("FIRST_OPENAI_MODEL", "FIRST_OPENAI_MODEL_NAME"),
        ("REQUEST_TIMEOUT", "REQUEST_TIMEOUT_SECONDS"),
        ("SECOND_OPENAI_URL", "SECOND_OPENAI_"),
        ("API_KEY", ""),
        ("ALLOW_ANONYMUS", "ALLOW_ANONYMOUS"),
        ("MAX_QUEUE_DEPHT", "MAX_QUEUE_DEPTH"),
        ("OPENAI_API_KEY", ""),
        ("OPENAI_BASE_URL", ""),
        ("PATH", ""),
        ("KAFKA_UI_PASSWORD", ""),
        ("API_KEYS", ""),
    ],
)
def test_a_variable_that_is_no_setting_and_resembles_one_is_named(name, meant):
    lines = find_misspelt_settings({name: "x", "HOME": "/", "LC_ALL": "C"})
    assert len(lines) == bool(meant)
    if meant:
        assert lines[0].startswith(f"{name}: there is no such setting; did you mean {meant}")


def test_no_variable_of_the_example_is_taken_for_a_mistake():
    names = re.findall(
        r"^#?([A-Z_]+)=", (Path(__file__).parents[3] / ".env.example").read_text(), re.MULTILINE
    )
    assert find_misspelt_settings(dict.fromkeys(names, "x")) == []
