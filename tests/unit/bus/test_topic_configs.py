"""How much of a disk the topics may take, and that no limit deletes what still waits."""

import pytest

from app.bus.base import TopicSpec
from app.bus.topic_configs import largest_request, request_spec, shared_specs
from app.config.settings import load_settings
from app.protocol.topics import Topics

TOPICS = Topics.with_prefix("llm")


def all_specs(**environment: str) -> list[TopicSpec]:
    settings = load_settings(environment).bus
    return [request_spec(settings, "llm.requests.m"), *shared_specs(settings, TOPICS)]


def test_every_topic_that_is_not_compacted_alone_has_a_size_that_it_keeps_at_most() -> None:
    unbounded = [spec.name for spec in all_specs() if "retention.bytes" not in spec.config]
    assert unbounded == [TOPICS.models]


@pytest.mark.parametrize(
    "environment",
    [{}, {"MAX_QUEUE_DEPTH": "50000"}, {"MAX_BODY_BYTES": "1000"}, {"MAX_BODY_BYTES": "100000000"}],
)
def test_a_full_queue_fits_into_one_partition_whatever_its_limits(
    environment: dict[str, str],
) -> None:
    settings = load_settings(environment)
    kept = int(request_spec(settings.bus, "t").config["retention.bytes"])
    assert kept >= settings.gateway.max_queue_depth * largest_request(settings.bus)


def test_no_segment_keeps_a_record_for_more_than_an_hour_beyond_its_retention() -> None:
    kept_by_age = [spec.config for spec in all_specs() if "retention.ms" in spec.config]
    assert len(kept_by_age) == 5
    assert all(int(config["segment.ms"]) <= 3_600_000 for config in kept_by_age)
