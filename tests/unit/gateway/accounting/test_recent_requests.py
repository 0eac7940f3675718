"""The last requests, for the operator's view."""

from app.cluster.model_registry import ModelRegistry
from app.gateway.accounting.recent_requests import RecentRequests
from app.gateway.accounting.request_metrics import RequestMetrics
from app.protocol.heartbeats import ModelRegistration

CHAT = "/v1/chat/completions"
LABELS = ("m", "chat/completions", 200, "completed")


def observed() -> RequestMetrics:
    catalog = ModelRegistry()
    catalog.learn(
        ModelRegistration(model="recent-model", topic="t", group="g", aliases=("nickname",))
    )
    return RequestMetrics(catalog)


def test_a_request_is_told_with_its_times_and_under_its_models_id():
    seen = observed()
    line = {
        "model": "nickname",
        "tenant": "research",
        "request_id": "req_1",
        "outcome": "completed",
        "worker": "w",
    }
    seen(
        CHAT,
        200,
        {**line, "queue_ms": 2.5, "upstream_ms": 30.0, "total_ms": 40.0, "completion_tokens": 7},
    )
    (found,) = seen.recent_requests.snapshot(200)
    assert found.pop("ended_at") > 0
    assert found == {
        **{
            "id": "req_1",
            "model": "recent-model",
            "endpoint": "chat/completions",
            "tenant": "research",
            "worker": "w",
        },
        **{
            "status": 200,
            "outcome": "completed",
            "code": None,
            "prompt_tokens": None,
            "completion_tokens": 7,
        },
        **{"queue_ms": 2.5, "ttft_ms": None, "upstream_ms": 30.0, "total_ms": 40.0},
    }


def test_what_was_refused_or_left_is_there_too():
    seen = observed()
    seen(CHAT, 429, {"model": "recent-model", "code": "queue_full", "total_ms": 1.0})
    seen(CHAT, 0, {"model": "recent-model", "client": "gone", "total_ms": 1.0})
    assert [
        (one["status"], one["outcome"], one["code"]) for one in seen.recent_requests.snapshot(200)
    ] == [
        (499, "left", None),
        (429, "refused", "queue_full"),
    ]


def test_what_named_no_model_is_no_request_of_ours():
    seen = observed()
    seen("/v1/models", 200, {"total_ms": 1.0})
    seen(CHAT, 401, {"code": "invalid_api_key", "total_ms": 1.0})
    assert seen.recent_requests.snapshot(200) == []


def test_the_oldest_make_room():
    recent = RecentRequests(max_requests=2)
    for number in range(3):
        recent.add_request((number, LABELS, {"request_id": str(number)}))
    assert [one["id"] for one in recent.snapshot(200)] == ["2", "1"]


def test_nothing_of_a_line_is_told_that_is_not_meant_to_be():
    line = {
        "model": "sk-by-mistake",
        "client_request_id": "secret",
        "prompt": "secret",
        "code": "model_not_found",
    }
    seen = observed()
    seen(CHAT, 404, {**line, "total_ms": 1.0})
    (found,) = seen.recent_requests.snapshot(200)
    assert "secret" not in str(found)
    assert "sk-by-mistake" not in str(found)


def test_a_usage_that_is_no_number_is_none():
    recent = RecentRequests()
    recent.add_request(
        (0.0, LABELS, {"prompt_tokens": {"a": 1}, "completion_tokens": True, "total_ms": "long"})
    )
    (found,) = recent.snapshot(200)
    assert (found["prompt_tokens"], found["completion_tokens"], found["total_ms"]) == (
        None,
        None,
        None,
    )
