"""What the metrics say of requests and models."""

from collections.abc import Iterator
from itertools import count

import pytest

from app.cluster.model_registry import ModelRegistry
from app.gateway.accounting.request_metrics import ModelsCollector, RequestMetrics
from app.protocol.heartbeats import ModelRegistration, WorkerHeartbeat
from app.telemetry.metrics import REGISTRY

CHAT = "/v1/chat/completions"
_numbers = count()


@pytest.fixture
def model() -> str:
    """A model that no other test has counted anything for."""
    return f"observed-{next(_numbers)}"


@pytest.fixture
def catalog(model: str) -> ModelRegistry:
    catalog = ModelRegistry()
    catalog.learn(
        ModelRegistration(model=model, topic="t", group="g", created=1, aliases=(f"{model}-alias",))
    )
    return catalog


@pytest.fixture
def collected(catalog: ModelRegistry) -> Iterator[None]:
    collector = ModelsCollector(catalog)
    REGISTRY.register(collector)
    yield
    REGISTRY.unregister(collector)


def value(name: str, **labels: str) -> float:
    """0 where it was never counted."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


def requests(model: str, status: str, outcome: str, endpoint: str = "chat/completions") -> float:
    return value(
        "llm_gateway_requests_total", model=model, endpoint=endpoint, status=status, outcome=outcome
    )


def completed(model: str, **more: object) -> dict[str, object]:
    return {"model": model, "outcome": "completed", "total_ms": 2100.0, "queue_ms": 20.0, **more}


def test_a_request_is_counted_under_its_models_id_whatever_alias_it_named(
    catalog: ModelRegistry, model: str
) -> None:
    observed = RequestMetrics(catalog)
    for name in (model, f"{model}-alias"):
        observed(CHAT, 200, completed(name))
    assert requests(model, "200", "completed") == 2
    assert value(
        "gen_ai_server_request_duration_seconds_sum", gen_ai_request_model=model
    ) == pytest.approx(4.2)
    assert value("llm_gateway_queue_seconds_sum", model=model) == pytest.approx(0.04)
    assert value("llm_gateway_queue_seconds_bucket", model=model, le="0.025") == 2
    assert value("llm_gateway_queue_seconds_bucket", model=model, le="0.01") == 0


def test_a_name_that_is_no_models_is_no_label(catalog: ModelRegistry, model: str) -> None:
    before = requests("", "404", "refused")
    RequestMetrics(catalog)(
        CHAT, 404, {"model": f"{model}-guessed", "code": "model_not_found", "total_ms": 1.0}
    )
    assert requests("", "404", "refused") == before + 1
    assert f"{model}-guessed" not in {
        label
        for family in REGISTRY.collect()
        for sample in family.samples
        for label in sample.labels.values()
    }


def test_a_path_that_is_none_of_the_known_is_other(catalog: ModelRegistry, model: str) -> None:
    RequestMetrics(catalog)("/v1/whatever/a/client/likes", 200, completed(model))
    assert requests(model, "200", "completed", "other") == 1


def test_tokens_are_counted_as_the_usage_says(catalog: ModelRegistry, model: str) -> None:
    observed = RequestMetrics(catalog)
    observed(CHAT, 200, completed(model, prompt_tokens=7, completion_tokens=3))
    observed(CHAT, 200, completed(model, prompt_tokens="many", completion_tokens=None))
    assert value("llm_gateway_tokens_total", model=model, type="input") == 7
    assert value("llm_gateway_tokens_total", model=model, type="output") == 3


def test_a_streams_first_token_and_the_others_are_timed_apart(
    catalog: ModelRegistry, model: str
) -> None:
    RequestMetrics(catalog)(CHAT, 200, completed(model, ttft_ms=100.0, completion_tokens=21))
    assert value(
        "gen_ai_server_time_to_first_token_seconds_sum", gen_ai_request_model=model
    ) == pytest.approx(0.1)
    assert value(
        "gen_ai_server_time_per_output_token_seconds_sum", gen_ai_request_model=model
    ) == pytest.approx(0.1)


@pytest.mark.parametrize("tokens", [{}, {"completion_tokens": 1}])
def test_without_a_second_token_there_is_no_time_per_token(
    catalog: ModelRegistry, model: str, tokens: dict[str, int]
) -> None:
    RequestMetrics(catalog)(CHAT, 200, completed(model, ttft_ms=100.0, **tokens))
    assert value("gen_ai_server_time_to_first_token_seconds_count", gen_ai_request_model=model) == 1
    assert (
        value("gen_ai_server_time_per_output_token_seconds_count", gen_ai_request_model=model) == 0
    )


def test_what_was_refused_is_counted_by_its_code_and_takes_no_time(
    catalog: ModelRegistry, model: str
) -> None:
    before = value("llm_gateway_refusals_total", code="rate_limit_exceeded")
    RequestMetrics(catalog)(
        CHAT, 429, {"model": model, "code": "rate_limit_exceeded", "total_ms": 1.0}
    )
    assert requests(model, "429", "refused") == 1
    assert value("llm_gateway_refusals_total", code="rate_limit_exceeded") == before + 1
    assert value("gen_ai_server_request_duration_seconds_count", gen_ai_request_model=model) == 0


def test_a_client_that_left_before_a_status_is_counted_as_such(
    catalog: ModelRegistry, model: str
) -> None:
    RequestMetrics(catalog)(CHAT, 0, {"model": model, "client": "gone", "total_ms": 1.0})
    assert requests(model, "499", "left") == 1


def beat(model: str, worker: str, *, ready: bool) -> WorkerHeartbeat:
    return WorkerHeartbeat(
        worker=worker,
        model=model,
        topic="t",
        group="g",
        replies="r",
        time=0,
        interval=1,
        capacity=4,
        in_flight=2,
        ready=ready,
    )


@pytest.mark.usefixtures("collected")
def test_queue_and_workers_are_as_the_catalog_has_them_when_somebody_asks(
    catalog: ModelRegistry, model: str
) -> None:
    assert value("llm_gateway_workers", model=model) == 0
    catalog.heard(beat(model, "one", ready=True))
    catalog.heard(beat(model, "two", ready=False))
    catalog.all()[0].queue_depth = 5
    found = {
        name: value(f"llm_gateway_{name}", model=model)
        for name in ("workers", "capacity", "in_flight", "queue_depth")
    }
    assert found == {"workers": 1, "capacity": 4, "in_flight": 4, "queue_depth": 5}
    catalog.forget(model)
    assert REGISTRY.get_sample_value("llm_gateway_workers", {"model": model}) is None
