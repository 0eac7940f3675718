"""All settings, as frozen sections; the only reader of the environment.

Each field names its variable, default and meaning in one place; `.env.example` is checked against
them. A `.env` file in the working directory is read too; the environment wins over it.
"""

import os
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, TypeVar

from dotenv import dotenv_values

from app.config import parsers as parse
from app.config.bus_settings import BusSettings
from app.config.gateway_settings import GatewaySettings
from app.config.variables import var
from app.errors import SettingsError
from app.protocol.names import validate_model_name, validate_topic_name

Section = TypeVar("Section")


@dataclass(frozen=True)
class WorkerSettings:
    concurrency: int = var(
        "WORKER_CONCURRENCY", "32", "requests at once in one worker", parse.positive_int
    )
    max_reply_bytes: int = var(
        "MAX_REPLY_BYTES",
        "67108864",
        "largest whole reply of an upstream, bytes",
        parse.positive_int,
    )
    max_upstream_retries: int = var(
        "UPSTREAM_RETRIES", "2", "tries more before the first byte", parse.non_negative_int
    )
    max_retry_wait_seconds: float = var(
        "UPSTREAM_RETRY_SECONDS", "10", "longest wait before a retry", parse.non_negative_seconds
    )
    drain_seconds: float = var(
        "DRAIN_SECONDS",
        "120",
        "how long a stopping process goes on with what runs",
        parse.non_negative_seconds,
    )
    heartbeat_seconds: float = var(
        "HEARTBEAT_SECONDS", "1", "between two heartbeats of a process", parse.positive_seconds
    )
    request_timeout_seconds: float = var(
        "REQUEST_TIMEOUT_SECONDS", "540", "deadline of a request", parse.positive_seconds
    )
    http_proxy: str = var(
        "HTTP_PROXY", "", "the proxy for upstreams with http://", parse.proxy_url, secret=True
    )
    https_proxy: str = var(
        "HTTPS_PROXY", "", "the proxy for upstreams with https://", parse.proxy_url, secret=True
    )
    no_proxy: str = var(
        "NO_PROXY",
        "",
        "upstreams asked without a proxy: names, domains, addresses, with commas between",
    )


@dataclass(frozen=True)
class ModelSettings:
    """Where the models are described; `app.config.models_file` makes entries of it."""

    file: str = var("MODELS_FILE", "", "the models, as YAML (docs/models.md)")
    token: str = var("OPENAI_TOKEN", "", "worker: the upstream's bearer token", secret=True)
    name: str = var("OPENAI_MODEL_NAME", "", "worker: the model it serves", validate_model_name)
    host: str = var(
        "OPENAI_HOST",
        "",
        "worker: the upstream, http://host:port; /v1 is added if it has no path",
        parse.upstream_url,
    )
    continues: str = var(
        "OPENAI_CONTINUES",
        "auto",
        "may the upstream continue a text: 1, 0, or auto (it says it is vLLM)",
        parse.one_of("auto", "0", "1"),
    )
    read_timeout: float | None = var(
        "OPENAI_READ_TIMEOUT_SECONDS",
        "",
        "worker: how long the upstream may be silent; empty: until the request's deadline",
        parse.optional_positive_seconds,
    )
    request_topic: str = var(
        "KAFKA_REQUEST_TOPIC",
        "",
        "worker: its topic; empty: made from the model's name",
        validate_topic_name,
    )
    group: str = var(
        "GROUP_ID", "", "worker: its consumer group; empty: made from the model's name"
    )
    first_token: str = var(
        "FIRST_OPENAI_TOKEN", "", "first model: the upstream's bearer token", secret=True
    )
    first_name: str = var(
        "FIRST_OPENAI_MODEL_NAME", "", "first model: its name", validate_model_name
    )
    first_host: str = var("FIRST_OPENAI_HOST", "", "first model: its upstream", parse.upstream_url)
    first_read_timeout: float | None = var(
        "FIRST_OPENAI_READ_TIMEOUT_SECONDS",
        "",
        "first model: the same for its upstream",
        parse.optional_positive_seconds,
    )
    second_token: str = var(
        "SECOND_OPENAI_TOKEN", "", "second model: the upstream's bearer token", secret=True
    )
    second_name: str = var(
        "SECOND_OPENAI_MODEL_NAME", "", "second model: its name", validate_model_name
    )
    second_host: str = var(
        "SECOND_OPENAI_HOST", "", "second model: its upstream", parse.upstream_url
    )
    second_read_timeout: float | None = var(
        "SECOND_OPENAI_READ_TIMEOUT_SECONDS",
        "",
        "second model: the same for its upstream",
        parse.optional_positive_seconds,
    )


@dataclass(frozen=True)
class LogSettings:
    level: str = var(
        "LOG_LEVEL",
        "INFO",
        "DEBUG, INFO, WARNING or ERROR",
        parse.one_of("debug", "info", "warning", "error"),
    )
    format: str = var(
        "LOG_FORMAT",
        "",
        "text or json; empty: text on a terminal, else json",
        parse.one_of("", "text", "json"),
    )
    access_sample_rate: float = var(
        "ACCESS_LOG_SAMPLE",
        "1",
        "share of the access lines of requests that went well, 0 to 1",
        parse.fraction,
    )


@dataclass(frozen=True)
class AdminSettings:
    host: str = var("ADMIN_HOST", "127.0.0.1", "the address that ADMIN_PORT is opened on")
    allowed_hosts: tuple[str, ...] = var(
        "ADMIN_HOSTS",
        "",
        "names besides localhost by which that port may be asked, with commas between",
        parse.host_names,
    )
    port: int = var(
        "ADMIN_PORT",
        "0",
        "where the operator's views are; 0: at the gateway's own port, for its own machine",
        parse.port,
    )


@dataclass(frozen=True)
class TraceSettings:
    endpoint: str = var(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "",
        "where traces go: an OTLP/HTTP collector; empty: nowhere",
        parse.url,
    )
    headers: str = var(
        "OTEL_EXPORTER_OTLP_HEADERS", "", "HTTP headers for it: name=value,name=value", secret=True
    )
    service_name: str = var(
        "OTEL_SERVICE_NAME", "", "what we are called in traces; empty: llm-gateway, llm-worker"
    )
    sampler: str = var(
        *(
            "OTEL_TRACES_SAMPLER",
            "parentbased_always_on",
            "which traces that begin here are kept; parentbased: and the client's",
        ),
        parse.one_of(
            *(
                each + kind
                for each in ("parentbased_", "")
                for kind in ("always_on", "always_off", "traceidratio")
            )
        ),
    )
    sample_ratio: float = var(
        "OTEL_TRACES_SAMPLER_ARG", "1", "of traceidratio: the share of them, 0 to 1", parse.fraction
    )


@dataclass(frozen=True)
class Settings:
    bus: BusSettings
    gateway: GatewaySettings
    worker: WorkerSettings
    models: ModelSettings
    logs: LogSettings
    admin: AdminSettings
    traces: TraceSettings
    # where MODELS_FILE's token names are looked up
    environment: Mapping[str, str] = field(repr=False)


SECTIONS: tuple[type, ...] = (
    BusSettings,
    GatewaySettings,
    WorkerSettings,
    ModelSettings,
    LogSettings,
    AdminSettings,
    TraceSettings,
)


def load_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Reads all sections, from `environment` or else from `.env` and the process's environment.

    Raises SettingsError, with one line that names the variable, on the first value that does not
    parse.
    """
    if environment is None:
        from_file = {
            name: value for name, value in dotenv_values(".env").items() if value is not None
        }
        environment = {**from_file, **os.environ}
    # Programs agree on these three in lower case as well, and some systems set only those.
    names = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
    lower = {name: environment.get(name.lower(), "") for name in names if not environment.get(name)}
    environment = {**environment, **lower}
    sections: list[Any] = [_read_section(section, environment) for section in SECTIONS]
    return Settings(*[*sections, environment])


def _read_section(section: type[Section], environment: Mapping[str, str]) -> Section:
    return section(**{item.name: _parse_value(item, environment) for item in fields(section)})  # type: ignore[arg-type]


def _parse_value(item: Field[Any], environment: Mapping[str, str]) -> Any:
    name, default = item.metadata["name"], item.metadata["default"]
    # compose passes unset variables as empty ones
    text = environment.get(name, "").strip() or default
    try:
        return item.metadata["parser"](text)
    except ValueError as error:
        example = f"{name}={default}" if default else f"leave {name} empty"
        is_address = "://" in text or item.metadata["parser"] in (parse.url, parse.upstream_url)
        shown = repr(parse.redact_url(text) if is_address else text) if item.repr else "its value"
        raise SettingsError(
            f"{name}: {shown} does not work ({error}); for example {example}"
        ) from None
