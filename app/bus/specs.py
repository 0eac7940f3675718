"""How our topics are made where they are missing: partitions, retention, sizes."""

from app.bus.base import TopicSpec
from app.contracts.envelope import MAX_REPLY_BYTES
from app.contracts.topics import Topics
from app.settings import BusSettings

ENVELOPE_BYTES = 64 * 1024  # room for a record's headers beside its value

_HOUR, _DAY = 3_600_000, 86_400_000  # milliseconds
_CONTROL_PARTITIONS = 2


def largest_request(settings: BusSettings) -> int:
    """Bytes of the largest record with a request."""
    return settings.max_body + ENVELOPE_BYTES


def largest_record(settings: BusSettings) -> int:
    """Bytes of the largest record of any kind: a request's, or a reply's."""
    return max(MAX_REPLY_BYTES, settings.max_body) + ENVELOPE_BYTES


def request_spec(settings: BusSettings, topic: str) -> TopicSpec:
    return TopicSpec(
        topic,
        settings.request_partitions,
        {"retention.ms": str(_DAY), "max.message.bytes": str(largest_request(settings))},
    )


def shared_specs(settings: BusSettings, topics: Topics) -> list[TopicSpec]:
    """The topics that all models share; whoever starts first makes them."""
    replies = str(reply_retention_ms(settings))
    largest = str(largest_record(settings))
    compacted = {"cleanup.policy": "compact", "segment.ms": "60000"}
    beats = {"cleanup.policy": "compact,delete", "segment.ms": "60000", "retention.ms": str(_HOUR)}
    return [
        TopicSpec(topics.replies, settings.response_partitions, {"retention.ms": replies, "max.message.bytes": largest}),
        TopicSpec(topics.control, _CONTROL_PARTITIONS, {"retention.ms": replies}),
        TopicSpec(topics.workers, 1, beats),
        TopicSpec(topics.models, 1, compacted),
        TopicSpec(topics.dlq, 1, {"retention.ms": str(7 * _DAY), "max.message.bytes": largest}),
    ]


def reply_retention_ms(settings: BusSettings) -> int:
    """Replies and controls must outlive every request that may still need them: twice the longest timeout and ten minutes."""
    return max(int((2 * settings.request_timeout + 600) * 1000), 2 * _HOUR)
