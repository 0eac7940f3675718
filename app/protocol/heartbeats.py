"""Heartbeats of workers and gateways, and model registrations, as JSON.

Heartbeats are on the workers' topic.
"""

from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, TypeAlias

import orjson
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from app.errors import UndecodableRecord
from app.protocol.names import validate_model_name, validate_topic_name
from app.protocol.records import SUPPORTED_VERSIONS

HEARTBEAT_TIMEOUT_INTERVALS = 3  # a process that misses so many heartbeats is taken for dead

# a number, as the name of a JSON member
_PartitionKey: TypeAlias = Annotated[str, Field(pattern="^[0-9]{1,10}$")]
_Offset: TypeAlias = Annotated[int, Field(ge=0, lt=1 << 63)]
_Name: TypeAlias = Annotated[str, Field(min_length=1), AfterValidator(validate_model_name)]
_Topic: TypeAlias = Annotated[str, Field(min_length=1), AfterValidator(validate_topic_name)]
# requests, `running` and `recent`, as the operator's view has them
RequestSnapshots: TypeAlias = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class ModelRegistration:
    """A model that is known, whether or not a worker lives; the compacted models' topic holds one
    per model.

    Its names are those that the configuration of a model may have: they are shown to clients and on
    terminals.
    """

    model: _Name
    topic: _Topic
    group: str
    aliases: tuple[_Name, ...] = ()
    owned_by: str = "llm-gateway"
    created: int = 0  # seconds since the epoch
    paths: tuple[str, ...] = ()  # that it has beside those of app/openai_api/endpoints.py

    @property
    def names(self) -> tuple[str, ...]:
        """The names by which a request may address the model: its id, then its aliases."""
        return (self.model, *self.aliases)


class _Heartbeat:
    __slots__ = ()
    interval: float  # seconds between two heartbeats

    @property
    def heartbeat_timeout_seconds(self) -> float:
        """Seconds until its process is taken for dead unless it is heard again."""
        return HEARTBEAT_TIMEOUT_INTERVALS * self.interval


@dataclass(frozen=True, slots=True)
class WorkerHeartbeat(_Heartbeat):
    """A worker's heartbeat."""

    worker: str  # its owner name: random at start
    model: str
    topic: str
    group: str
    replies: str  # the reply topic it writes to
    time: float  # its clock, seconds since the epoch
    interval: float  # seconds between two heartbeats
    aliases: tuple[str, ...] = ()
    partitions: tuple[int, ...] = ()
    # -> the next offset it will start on
    positions: dict[_PartitionKey, _Offset] = field(default_factory=dict)
    capacity: int = 0
    in_flight: int = 0
    waiting: int = 0  # taken from the log and not started
    running: tuple[str, ...] = ()
    ready: bool = True
    reason: str = ""  # why it is not ready
    leaving: bool = False  # it takes nothing new and finishes what runs
    gone: bool = False  # its last heartbeat
    host: str = ""
    version: str = ""
    reads: tuple[int, ...] = SUPPORTED_VERSIONS

    @property
    def name(self) -> str:
        return self.worker


@dataclass(frozen=True, slots=True)
class GatewayHeartbeat(_Heartbeat):
    """A gateway's heartbeat: which reply partition it reads."""

    gateway: str
    replies: str
    partition: int
    time: float
    interval: float
    in_flight: int = 0
    leaving: bool = False
    version: str = ""
    reads: tuple[int, ...] = SUPPORTED_VERSIONS
    # model -> requests it has ended that lie in the queue still
    withdrawn: dict[str, int] = field(default_factory=dict)
    watched: bool = False  # an operator looks at it: the others tell it what they have to show
    shown: RequestSnapshots = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.gateway


_HEARTBEAT_ADAPTER: TypeAdapter[WorkerHeartbeat | GatewayHeartbeat] = TypeAdapter(
    WorkerHeartbeat | GatewayHeartbeat
)
_REGISTRATION_ADAPTER = TypeAdapter(ModelRegistration)


def encode_message(message: WorkerHeartbeat | GatewayHeartbeat | ModelRegistration) -> bytes:
    return orjson.dumps(asdict(message))


def decode_heartbeat(value: bytes) -> WorkerHeartbeat | GatewayHeartbeat:
    """Raises UndecodableRecord; members that we do not know are ignored."""
    try:
        return _HEARTBEAT_ADAPTER.validate_json(value)
    except ValidationError as error:
        raise UndecodableRecord(f"not a heartbeat: {error.errors()[0]['msg']}") from None


def decode_registration(value: bytes) -> ModelRegistration:
    """Raises UndecodableRecord; members that we do not know are ignored."""
    try:
        return _REGISTRATION_ADAPTER.validate_json(value)
    except ValidationError as error:
        raise UndecodableRecord(f"not a model's card: {error.errors()[0]['msg']}") from None
