"""How our topics are made where they are missing: partitions, retention, sizes."""

from app.bus.base import TopicSpec
from app.config.bus_settings import BusSettings
from app.protocol.records import MAX_REPLY_RECORD_BYTES
from app.protocol.topics import Topics

ENVELOPE_BYTES = 64 * 1024  # room for a record's headers beside its value

_HOUR, _DAY = 3_600_000, 86_400_000  # milliseconds
_CONTROL_PARTITIONS = 2
# Kafka deletes whole segments, by the age of their newest record; by itself it begins a new one
# after a week or a GiB, so that prompts of a quiet model would lie there for days beyond their
# retention.
_HOURLY = {"segment.ms": str(_HOUR)}
_GIB = 2**30
# Bytes that a partition keeps at most, so that a flood fills no disk before its records are old
# enough.
_REPLIES_BYTES, _SMALL_BYTES, _DLQ_BYTES = 8 * _GIB, _GIB, 4 * _GIB


def largest_request(settings: BusSettings) -> int:
    """Bytes of the largest record with a request."""
    return settings.max_body_bytes + ENVELOPE_BYTES


def largest_record(settings: BusSettings) -> int:
    """Bytes of the largest record of any kind: a request's, or a reply's."""
    return max(MAX_REPLY_RECORD_BYTES, settings.max_body_bytes) + ENVELOPE_BYTES


def waiting_requests_bytes(settings: BusSettings) -> int:
    """Return the bytes of the longest queue of a model, were all of it in one partition.

    Kafka deletes by size what was accepted and has not been read yet, so no request topic may keep
    less.
    """
    return max(_GIB, settings.max_queue_depth * largest_request(settings))


def request_spec(settings: BusSettings, topic: str) -> TopicSpec:
    """Return how a model's request topic is made: by age a day, by size never less than a full
    queue.
    """
    config = _HOURLY | {
        "retention.ms": str(_DAY),
        "retention.bytes": str(waiting_requests_bytes(settings)),
        "max.message.bytes": str(largest_request(settings)),
    }
    return TopicSpec(topic, settings.request_partitions, config)


def shared_specs(settings: BusSettings, topics: Topics) -> list[TopicSpec]:
    """Return how the topics that all models share are made; the process that starts first makes
    them.
    """
    age = _HOURLY | {"retention.ms": str(reply_retention_ms(settings))}
    largest = {"max.message.bytes": str(largest_record(settings))}
    week = _HOURLY | {"retention.ms": str(7 * _DAY)}
    compacted = {"cleanup.policy": "compact", "segment.ms": "60000"}
    beats = {"cleanup.policy": "compact,delete", "segment.ms": "60000", "retention.ms": str(_HOUR)}
    return [
        TopicSpec(
            topics.replies, settings.reply_partitions, age | _at_most(_REPLIES_BYTES) | largest
        ),
        TopicSpec(topics.control, _CONTROL_PARTITIONS, age | _at_most(_SMALL_BYTES)),
        TopicSpec(topics.workers, 1, beats | _at_most(_SMALL_BYTES)),
        TopicSpec(topics.models, 1, compacted),
        TopicSpec(topics.dlq, 1, week | _at_most(_DLQ_BYTES) | largest),
    ]


def _at_most(size: int) -> dict[str, str]:
    return {"retention.bytes": str(size)}


def reply_retention_ms(settings: BusSettings) -> int:
    """Replies and controls must outlive every request that may still need them: twice the longest
    timeout and ten minutes.
    """
    return max(int((2 * settings.request_timeout_seconds + 600) * 1000), 2 * _HOUR)
