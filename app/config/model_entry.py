"""One model as configured."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

from app.config import parsers as parse
from app.protocol import topics
from app.protocol.heartbeats import ModelRegistration
from app.protocol.names import validate_model_name, validate_topic_name

EndpointPath = Annotated[str, AfterValidator(parse.endpoint_path)]
ModelName = Annotated[str, Field(min_length=1), AfterValidator(validate_model_name)]


class ModelEntry(BaseModel):
    """One model as configured: whom a worker asks for it, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: ModelName
    engine: Literal["http", "echo"] = "http"
    # it may hold a password
    host: Annotated[str, AfterValidator(parse.upstream_url)] = Field(default="", repr=False)
    token: SecretStr = SecretStr("")
    upstream_model: str = ""  # where the upstream calls it otherwise
    aliases: tuple[ModelName, ...] = ()
    concurrency: int | None = Field(default=None, ge=1)  # None: WORKER_CONCURRENCY
    connect_timeout: float = Field(default=5, gt=0, allow_inf_nan=False)  # seconds
    # Seconds without a byte from the upstream; None: the request's deadline ends it.
    read_timeout: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    continues: bool | Literal["auto"] = "auto"
    ask_usage: bool = True  # for the usage of a stream whose client has not
    paths: tuple[EndpointPath, ...] = ()  # below /v1, beside those of app/openai_api/endpoints.py
    topic: Annotated[str, AfterValidator(validate_topic_name)] = ""
    group: str = ""

    @model_validator(mode="after")
    def _check_aliases(self) -> Self:
        if self.id in self.aliases or len(set(self.aliases)) < len(self.aliases):
            raise ValueError("aliases other than its own id, each of them once")
        return self

    @property
    def upstream_name(self) -> str:
        return self.upstream_model or self.id

    def make_registration(self, prefix: str, created: int) -> ModelRegistration:
        """The entry as it is announced, with the names of its topic and group."""
        return ModelRegistration(
            model=self.id,
            topic=self.topic or topics.request_topic(prefix, self.id),
            group=self.group or topics.request_group(prefix, self.id),
            aliases=self.aliases,
            created=created,
            paths=self.paths,
        )


ECHO = ModelEntry(id="echo", engine="echo")
