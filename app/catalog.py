"""Which models there are: what the configuration describes, and what workers announce."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from app.contracts import topics
from app.contracts.presence import ModelCard, WorkerBeat
from app.errors import SettingsError
from app.settings import ModelSettings, Settings
from app.yaml_text import parse_yaml

EXAMPLE = 'models: [{id: qwen, host: "http://127.0.0.1:8011", upstream_model: Qwen/Qwen3-8B}]'


class ModelEntry(BaseModel):
    """One model as configured: whom a worker asks for it, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(min_length=1)
    engine: Literal["http", "echo"] = "http"
    host: str = ""
    token: SecretStr = SecretStr("")
    upstream_model: str = ""  # where the upstream calls it otherwise
    aliases: tuple[str, ...] = ()
    concurrency: int | None = Field(default=None, ge=1)  # None: WORKER_CONCURRENCY
    connect_timeout: float = Field(default=5, gt=0)  # seconds
    read_timeout: float = Field(default=300, gt=0)  # seconds without a byte from the upstream
    continues: bool | Literal["auto"] = "auto"
    ask_usage: bool = True  # for the usage of a stream whose client has not
    topic: str = ""
    group: str = ""

    @field_validator("host")
    @classmethod
    def _is_an_address(cls, host: str) -> str:
        if host and not host.startswith(("http://", "https://")):
            raise ValueError("an http:// or https:// address")
        return host

    @property
    def upstream_name(self) -> str:
        return self.upstream_model or self.id

    def card(self, prefix: str, created: int) -> ModelCard:
        """The entry as it is announced, with the names of its topic and group."""
        return ModelCard(
            model=self.id,
            topic=self.topic or topics.request_topic(prefix, self.id),
            group=self.group or topics.request_group(prefix, self.id),
            aliases=self.aliases,
            created=created,
        )


ECHO = ModelEntry(id="echo", engine="echo")


def configured(settings: Settings) -> list[ModelEntry]:
    """The models of the embedded default: MODELS_FILE's, FIRST_OPENAI_*, SECOND_OPENAI_*; `echo` if there are none.

    Raises SettingsError.
    """
    models = settings.models
    entries = _from_file(settings) if models.file else []
    for order in ("first", "second"):
        entry = _triple(models, order)
        entries += [entry] if entry else []
    _refuse_repeats(entries)
    return entries or [ECHO]


def for_worker(settings: Settings) -> list[ModelEntry]:
    """The models of `python -m app.agent`: the one OPENAI_MODEL_NAME names, or all of MODELS_FILE. Raises SettingsError."""
    models = settings.models
    if models.file:
        entries = [entry for entry in _from_file(settings) if models.name in ("", entry.id)]
        if not entries:
            raise SettingsError(f"OPENAI_MODEL_NAME: {models.name!r} is not in MODELS_FILE; name one of its ids")
        return entries
    if not models.name:
        raise SettingsError("OPENAI_MODEL_NAME: is not set; for example OPENAI_MODEL_NAME=Qwen/Qwen3-8B")
    return [_worker_entry(models)]


def _worker_entry(models: ModelSettings) -> ModelEntry:
    if models.name == ECHO.id and not models.host:
        return ECHO
    if not models.host:
        raise SettingsError("OPENAI_HOST: is not set; for example OPENAI_HOST=http://127.0.0.1:8011")
    return ModelEntry(
        id=models.name,
        host=models.host,
        token=SecretStr(models.token),
        continues="auto" if models.continues == "auto" else models.continues == "1",
        topic=models.request_topic,
        group=models.group,
    )


def _triple(models: ModelSettings, order: str) -> ModelEntry | None:
    name, host = getattr(models, f"{order}_name"), getattr(models, f"{order}_host")
    if not name and not host:
        return None
    for part, value, example in (("MODEL_NAME", name, "gpt-4o-mini"), ("HOST", host, "https://api.openai.com")):
        if not value:
            variable = f"{order.upper()}_OPENAI_{part}"
            raise SettingsError(f"{variable}: is not set, its pair is; for example {variable}={example}")
    return ModelEntry(id=name, host=host, token=SecretStr(getattr(models, f"{order}_token")))


def _from_file(settings: Settings) -> list[ModelEntry]:
    path = Path(settings.models.file)
    try:
        described = parse_yaml(path.read_bytes())
    except (OSError, ValueError) as error:
        raise SettingsError(f"MODELS_FILE: {path} cannot be read ({error}); for example {EXAMPLE}") from None
    if not isinstance(described, dict) or not isinstance(described.get("models"), list):
        raise SettingsError(f"MODELS_FILE: {path} has no list `models`; for example {EXAMPLE}")
    return [_entry(raw, settings) for raw in described["models"]]


def _entry(raw: Any, settings: Settings) -> ModelEntry:
    """One of the file's models. `token` is the name of a variable, so that no secret lies in the file."""
    try:
        entry = ModelEntry.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"MODELS_FILE: model {raw!r}: {where}: {first['msg']}; for example {EXAMPLE}") from None
    if entry.engine == "http" and not entry.host:
        raise SettingsError(f"MODELS_FILE: model {entry.id!r} has no host; for example {EXAMPLE}")
    variable = entry.token.get_secret_value()
    if variable and not settings.environment.get(variable):
        raise SettingsError(f"MODELS_FILE: model {entry.id!r}: token names the variable {variable}, which is not set")
    return entry.model_copy(update={"token": SecretStr(settings.environment.get(variable, ""))})


def _refuse_repeats(entries: Iterable[ModelEntry]) -> None:
    seen: set[str] = set()
    for entry in entries:
        for name in (entry.id, *entry.aliases):
            if name in seen:
                raise SettingsError(f"MODELS_FILE: the name {name!r} stands for two models; each needs its own")
            seen.add(name)


@dataclass
class Known:
    """A model a gateway knows of, its workers that live, and what waits for them."""

    card: ModelCard
    workers: dict[str, WorkerBeat] = field(default_factory=dict)
    queue_depth: int = 0
    ends: dict[int, int] = field(default_factory=dict)  # of the topic's partitions, when the queue was last measured
    backlog: frozenset[int] = frozenset()  # partitions in which requests waited then
    started: int = 0  # requests begun since the topic was made, when the queue was last measured
    rate: float = 0.0  # requests begun per second while some waited; 0: not known yet

    @property
    def serving(self) -> list[WorkerBeat]:
        """The workers that take requests: ready, not only started."""
        return [beat for beat in self.workers.values() if beat.ready]

    @property
    def capacity(self) -> int:
        return sum(beat.capacity for beat in self.serving)

    def position(self, partition: int, offset: int) -> int:
        """About how many requests come before this one, as the partitions take turns: of each other one as many as of its own,
        or all that wait there; and one more of every second that has more."""
        starts: dict[int, int] = {}
        for beat in self.workers.values():
            for name, start in beat.positions.items():
                starts[int(name)] = max(start, starts.get(int(name), 0))
        ahead = max(0, offset - starts.get(partition, offset))
        waiting = [end - starts[other] for other, end in self.ends.items() if other != partition and other in starts]
        return ahead + sum(max(0, min(depth, ahead)) for depth in waiting) + sum(depth > ahead for depth in waiting) // 2

    def estimated_wait(self, waiting: int) -> float | None:
        """Seconds until `waiting` requests are begun, at the measured rate; None while that is not known."""
        return round(waiting / self.rate, 1) if self.rate else None

    @property
    def in_flight(self) -> int:
        return sum(beat.in_flight for beat in self.workers.values())


class Catalog:
    """Models by id and alias, as the cards and heartbeats so far describe them."""

    def __init__(self) -> None:
        self._known: dict[str, Known] = {}
        self._names: dict[str, Known] = {}  # ids and aliases; an id wins over another model's alias
        self.gateways = 1  # that live, this one included

    def learn(self, card: ModelCard) -> None:
        known = self._known.setdefault(card.model, Known(card))
        known.card = replace(card, created=min(card.created, known.card.created))  # not when its newest worker started
        self._index()

    def forget(self, model: str) -> None:
        self._known.pop(model, None)
        self._index()

    def heard(self, beat: WorkerBeat) -> None:
        """A worker's heartbeat: it lives and serves, or it says that it leaves."""
        known = self._known.get(beat.model)
        if known is None:
            return  # its card comes on the models' topic; the next beat finds it
        if beat.leaving:
            known.workers.pop(beat.worker, None)
        else:
            known.workers[beat.worker] = beat

    def lost(self, worker: str) -> None:
        for known in self._known.values():
            known.workers.pop(worker, None)

    def find(self, name: str) -> Known | None:
        """The model with this id or alias."""
        return self._names.get(name)

    def all(self) -> list[Known]:
        return sorted(self._known.values(), key=lambda known: known.card.model)

    def _index(self) -> None:
        self._names = {alias: known for known in self._known.values() for alias in known.card.aliases}
        self._names.update(self._known)
