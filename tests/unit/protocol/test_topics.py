"""Names of topics and groups: legal for Kafka, and never the same for two models."""

import re
from dataclasses import astuple

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from app.protocol.topics import Topics, request_group, request_topic, slugify_model

MODELS = st.text(st.characters(exclude_categories=["Cs"]), max_size=400) | st.text(
    "aA0-._/: ", max_size=12
)
LEGAL = re.compile(r"[A-Za-z0-9._-]{1,249}")


def as_kafka_compares(name: str) -> str:
    """Kafka refuses two topics whose names differ only in these."""
    return name.replace("_", ".")


@given(MODELS)
@example("")
@example("x" * 5000)
@example("Qwen/Qwen3-8B")
def test_a_topics_name_is_legal_for_kafka(model):
    for name in (request_topic("llm", model), request_group("llm", model)):
        assert LEGAL.fullmatch(name)


@given(MODELS, MODELS)
@example("a.b", "a_b")
@example("a/b", "a b")
@example("a" * 121, "a" * 122)
@example("a", "a\n")
@example("Model", "model")
def test_two_models_never_share_a_topic(one, other):
    assume(one != other)
    assert as_kafka_compares(request_topic("llm", one)) != as_kafka_compares(
        request_topic("llm", other)
    )
    assert request_group("llm", one) != request_group("llm", other)


@given(MODELS)
@example("a/b")
@example("x" * 200)
def test_a_model_that_is_called_like_anothers_changed_name_gets_another_topic(model):
    called_alike = slugify_model(model)
    assume(called_alike != model)
    assert slugify_model(called_alike) != called_alike
    assert slugify_model(slugify_model(called_alike)) != slugify_model(called_alike)


@given(MODELS)
def test_a_models_topic_is_none_of_the_shared_ones(model):
    assert request_topic("llm", model) not in astuple(Topics.with_prefix("llm"))


@pytest.mark.parametrize("model", ["gpt-4o", "echo", "a-0123456789a", "A" * 120])
def test_a_plain_id_stays_as_it_is(model):
    assert slugify_model(model) == model


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("Qwen/Qwen3-8B", "Qwen-Qwen3-8B-a82fd54762"),
        ("llama3.1:8b", "llama3-1-8b-8754b77c7e"),
        ("a-0123456789", "a-0123456789-14599cfd54"),
    ],
)
def test_the_names_stay_the_same_from_release_to_release(model, expected):
    """Another name would leave the requests of a running deployment behind."""
    assert slugify_model(model) == expected


def test_the_shared_topics_are_named_by_the_prefix_and_the_reply_topic_may_be_given():
    assert astuple(Topics.with_prefix("x")) == (
        "x.replies",
        "x.control",
        "x.workers",
        "x.models",
        "x.dlq",
    )
    assert astuple(Topics.with_prefix("x", "answers"))[:2] == ("answers", "x.control")
