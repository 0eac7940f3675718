"""The list of models, page by page, as Anthropic's SDK reads it."""

import pytest
from anthropic.types import ModelInfo

from app.cluster.model_registry import ModelState
from app.errors import BadRequest
from app.gateway.routes.anthropic_models import build_anthropic_page, describe_model_for_anthropic
from app.protocol.heartbeats import ModelRegistration

MODELS = [
    ModelState(ModelRegistration(f"m{number}", "t", "g", created=1767225600)) for number in range(5)
]


def ids(**query: str) -> tuple[list[str], bool]:
    page = build_anthropic_page(MODELS, query)
    found = [model["id"] for model in page["data"]]
    assert (page["first_id"], page["last_id"]) == ((found[0], found[-1]) if found else (None, None))
    return found, page["has_more"]


def test_a_model_is_described_as_the_sdk_has_it():
    described = describe_model_for_anthropic(MODELS[0])
    model = ModelInfo.model_validate(described, strict=False)
    assert (model.id, model.type, model.display_name) == ("m0", "model", "m0")
    assert described["created_at"] == "2026-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, (["m0", "m1", "m2", "m3", "m4"], False)),
        ({"limit": "2"}, (["m0", "m1"], True)),
        ({"limit": "2", "after_id": "m1"}, (["m2", "m3"], True)),
        ({"limit": "2", "after_id": "m2"}, (["m3", "m4"], False)),
        ({"limit": "2", "after_id": "m25"}, (["m3", "m4"], False)),
        ({"limit": "2", "after_id": "m4"}, ([], False)),
        ({"limit": "2", "before_id": "m4"}, (["m2", "m3"], True)),
        ({"limit": "2", "before_id": "m2"}, (["m0", "m1"], False)),
        ({"limit": "2", "after_id": "m0", "before_id": "m4"}, (["m1", "m2"], True)),
    ],
)
def test_a_page_is_what_lies_beside_its_cursor(query, expected):
    assert ids(**query) == expected


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "x", "", "1.5", "\u0663", "9" * 5000])
def test_a_limit_that_is_none_is_refused(limit):
    with pytest.raises(BadRequest) as refused:
        ids(limit=limit)
    assert refused.value.param == "limit"
