"""All settings, as frozen sections; the only reader of the environment.

Each field names its variable, default and meaning in one place; `.env.example` is checked against them.
A `.env` file in the working directory is read too; the environment wins over it.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, TypeVar

from dotenv import dotenv_values

from app.config import parsers as parse
from app.errors import SettingsError
from app.protocol.names import model_name, topic_name, topic_prefix

Section = TypeVar("Section")


def var(name: str, default: str, meaning: str, parser: Callable[[str], Any] = str, secret: bool = False) -> Any:
    """A field that is read from the variable `name`; `default` is written as the environment would have it."""
    return field(metadata={"name": name, "default": default, "meaning": meaning, "parser": parser}, repr=not secret)


@dataclass(frozen=True)
class BusSettings:
    kind: str = var("BUS", "", "kafka or memory; empty: kafka if BOOTSTRAP_SERVERS is set", parse.one_of("", "kafka", "memory"))
    servers: str = var("BOOTSTRAP_SERVERS", "", "Kafka's brokers, host:port with commas between")
    prefix: str = var("TOPIC_PREFIX", "llm", "how the names of our topics and groups begin", topic_prefix)
    response_topic: str = var(
        "KAFKA_RESPONSE_TOPIC", "", "the reply topic of the deployment; empty: <prefix>.replies", topic_name
    )
    request_partitions: int = var("KAFKA_REQUEST_PARTITIONS", "16", "partitions of a model's topic, at its making", parse.count)
    response_partitions: int = var("KAFKA_RESPONSE_PARTITIONS", "8", "partitions of the reply topic, at its making", parse.count)
    replication: int = var("KAFKA_REPLICATION", "-1", "copies of each topic we make; -1: the broker's default", int)
    group_protocol: str = var(
        "KAFKA_GROUP_PROTOCOL", "auto", "auto, consumer (KIP-848) or classic", parse.one_of("auto", "consumer", "classic")
    )
    security_protocol: str = var(
        *("KAFKA_SECURITY_PROTOCOL", "", "how to reach the brokers: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"),
        parse.one_of("", "plaintext", "ssl", "sasl_plaintext", "sasl_ssl"),
    )
    sasl_mechanism: str = var(
        *("KAFKA_SASL_MECHANISM", "", "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"),
        parse.one_of("", "plain", "scram-sha-256", "scram-sha-512"),
    )
    sasl_username: str = var("KAFKA_SASL_USERNAME", "", "who we are at the brokers")
    sasl_password: str = var("KAFKA_SASL_PASSWORD", "", "the password for it", secret=True)
    ssl_ca_location: str = var("KAFKA_SSL_CA_LOCATION", "", "authorities of the brokers' certificates (PEM); empty: the system's")
    ssl_certificate_location: str = var("KAFKA_SSL_CERTIFICATE_LOCATION", "", "our own certificate (PEM), where one is wanted")
    ssl_key_location: str = var("KAFKA_SSL_KEY_LOCATION", "", "its private key (PEM)")
    ssl_key_password: str = var("KAFKA_SSL_KEY_PASSWORD", "", "the password of that key", secret=True)
    properties: dict[str, str] = var(
        "KAFKA_PROPERTIES", "", "any other librdkafka property, name=value;name=value", parse.properties, secret=True
    )
    admit_timeout: float = var("BUS_ADMIT_TIMEOUT_SECONDS", "3", "longest wait for a broker's acknowledgement", parse.positive)
    max_body: int = var("MAX_BODY_BYTES", "16777216", "largest request body, bytes", parse.count)
    max_queue_depth: int = var("MAX_QUEUE_DEPTH", "1000", "waiting (not running) requests a model may have", parse.count)
    request_timeout: float = var("REQUEST_TIMEOUT_SECONDS", "540", "deadline of a request", parse.positive)

    @property
    def on_kafka(self) -> bool:
        return self.kind == "kafka" or (self.kind == "" and bool(self.servers))

    @property
    def system(self) -> str:
        return "kafka" if self.on_kafka else "memory"


@dataclass(frozen=True)
class GatewaySettings:
    request_timeout: float = var("REQUEST_TIMEOUT_SECONDS", "540", "deadline of a request", parse.positive)
    max_queue_depth: int = var("MAX_QUEUE_DEPTH", "1000", "waiting (not running) requests a model may have", parse.count)
    tenant_soft_queue: int = var(
        "TENANT_SOFT_QUEUE", "16", "a tenant with more waiting requests of a model than this gives way to others", parse.natural
    )
    tenant_hard_queue: int = var(
        "TENANT_HARD_QUEUE", "0", "waiting requests of a model that one tenant may have; 0: no limit of its own", parse.natural
    )
    drain: float = var("DRAIN_SECONDS", "120", "how long a stopping process goes on with what runs", parse.seconds)
    sse_head_after: float = var(
        "SSE_HEAD_AFTER_SECONDS", "15", "a stream's head is sent at the latest after this; 0: never early", parse.seconds
    )
    sse_keepalive: float = var("SSE_KEEPALIVE_SECONDS", "15", "a comment line after this much silence in a stream", parse.seconds)
    client_stall: float = var(
        "CLIENT_STALL_SECONDS", "60", "a client that takes no byte of its reply for so long is cut off", parse.positive
    )
    heartbeat: float = var("HEARTBEAT_SECONDS", "1", "between two heartbeats of a process", parse.positive)
    cancel_grace: float = var(
        "CANCEL_GRACE_SECONDS",
        "30",
        "a request with the client's own Idempotency-Key outlives its connection by this",
        parse.seconds,
    )
    idempotency_ttl: float = var("IDEMPOTENCY_TTL_SECONDS", "3600", "how long an Idempotency-Key is remembered", parse.positive)
    redis_url: str = var("REDIS_URL", "", "where gateways share Idempotency-Keys and limits; empty: nowhere", secret=True)
    trusted_proxies: tuple[parse.Network, ...] = var(
        "TRUSTED_PROXIES",
        "127.0.0.0/8,::1",
        "whose X-Proxy-Request-Id is believed: addresses, with commas between",
        parse.networks,
    )
    cors_origins: tuple[str, ...] = var(
        "CORS_ORIGINS",
        "",
        "web pages that may call from a browser: https://a.example, with commas between; *: any",
        parse.origins,
    )
    allowed_hosts: tuple[str, ...] = var(
        "ALLOWED_HOSTS", "", "without keys: names besides localhost by which this gateway may be asked", parse.host_names
    )
    ready_requires_workers: bool = var(
        "READY_REQUIRES_WORKERS", "0", "1: /readyz is 503 while a known model has no ready worker", parse.switch
    )
    limits_fail_open: bool = var("LIMITS_FAIL_OPEN", "1", "1: while Redis is away limited keys are served; 0: 503", parse.switch)
    api_keys: tuple[str, ...] = var("API_KEYS", "", "keys that clients send, with commas between", parse.own_keys, secret=True)
    api_keys_file: str = var("API_KEYS_FILE", "", "keys with tenants and limits, as YAML (docs/operating/keys.md)")
    operator_keys: tuple[str, ...] = var(
        "OPERATOR_KEYS",
        "",
        "keys for /metrics and /admin at the gateway's own port, with commas between",
        parse.own_keys,
        secret=True,
    )
    allow_anonymous: bool = var("ALLOW_ANONYMOUS", "0", "1: where there are no keys, serve other machines too", parse.switch)
    published_host: str = var("PUBLISHED_HOST", "", "where another container's proxy publishes the gateway")


@dataclass(frozen=True)
class WorkerSettings:
    concurrency: int = var("WORKER_CONCURRENCY", "32", "requests at once in one worker", parse.count)
    max_reply: int = var("MAX_REPLY_BYTES", "67108864", "largest whole reply of an upstream, bytes", parse.count)
    upstream_retries: int = var("UPSTREAM_RETRIES", "2", "tries more before the first byte", parse.natural)
    upstream_retry: float = var("UPSTREAM_RETRY_SECONDS", "10", "longest wait before a retry", parse.seconds)
    drain: float = var("DRAIN_SECONDS", "120", "how long a stopping process goes on with what runs", parse.seconds)
    heartbeat: float = var("HEARTBEAT_SECONDS", "1", "between two heartbeats of a process", parse.positive)
    request_timeout: float = var("REQUEST_TIMEOUT_SECONDS", "540", "deadline of a request", parse.positive)
    http_proxy: str = var("HTTP_PROXY", "", "the proxy for upstreams with http://", parse.proxy, secret=True)
    https_proxy: str = var("HTTPS_PROXY", "", "the proxy for upstreams with https://", parse.proxy, secret=True)
    no_proxy: str = var("NO_PROXY", "", "upstreams asked without a proxy: names, domains, addresses, with commas between")


@dataclass(frozen=True)
class ModelSettings:
    """Where the models are described; `app.config.models_file` makes entries of it."""

    file: str = var("MODELS_FILE", "", "the models, as YAML (docs/models.md)")
    token: str = var("OPENAI_TOKEN", "", "worker: the upstream's bearer token", secret=True)
    name: str = var("OPENAI_MODEL_NAME", "", "worker: the model it serves", model_name)
    host: str = var("OPENAI_HOST", "", "worker: the upstream, http://host:port; /v1 is added if it has no path", parse.upstream)
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
        parse.optional_positive,
    )
    request_topic: str = var("KAFKA_REQUEST_TOPIC", "", "worker: its topic; empty: made from the model's name", topic_name)
    group: str = var("GROUP_ID", "", "worker: its consumer group; empty: made from the model's name")
    first_token: str = var("FIRST_OPENAI_TOKEN", "", "first model: the upstream's bearer token", secret=True)
    first_name: str = var("FIRST_OPENAI_MODEL_NAME", "", "first model: its name", model_name)
    first_host: str = var("FIRST_OPENAI_HOST", "", "first model: its upstream", parse.upstream)
    first_read_timeout: float | None = var(
        "FIRST_OPENAI_READ_TIMEOUT_SECONDS", "", "first model: the same for its upstream", parse.optional_positive
    )
    second_token: str = var("SECOND_OPENAI_TOKEN", "", "second model: the upstream's bearer token", secret=True)
    second_name: str = var("SECOND_OPENAI_MODEL_NAME", "", "second model: its name", model_name)
    second_host: str = var("SECOND_OPENAI_HOST", "", "second model: its upstream", parse.upstream)
    second_read_timeout: float | None = var(
        "SECOND_OPENAI_READ_TIMEOUT_SECONDS", "", "second model: the same for its upstream", parse.optional_positive
    )


@dataclass(frozen=True)
class LogSettings:
    level: str = var("LOG_LEVEL", "INFO", "DEBUG, INFO, WARNING or ERROR", parse.one_of("debug", "info", "warning", "error"))
    format: str = var("LOG_FORMAT", "", "text or json; empty: text on a terminal, else json", parse.one_of("", "text", "json"))
    access_sample: float = var(
        "ACCESS_LOG_SAMPLE",
        "1",
        "share of the access lines of requests that went well, 0 to 1",
        parse.share,
    )


@dataclass(frozen=True)
class AdminSettings:
    host: str = var("ADMIN_HOST", "127.0.0.1", "the address that ADMIN_PORT is opened on")
    hosts: tuple[str, ...] = var(
        "ADMIN_HOSTS", "", "names besides localhost by which that port may be asked, with commas between", parse.host_names
    )
    port: int = var(
        "ADMIN_PORT",
        "0",
        "where the operator's views are; 0: at the gateway's own port, for its own machine",
        parse.port,
    )


@dataclass(frozen=True)
class TraceSettings:
    endpoint: str = var("OTEL_EXPORTER_OTLP_ENDPOINT", "", "where traces go: an OTLP/HTTP collector; empty: nowhere", parse.url)
    headers: str = var("OTEL_EXPORTER_OTLP_HEADERS", "", "HTTP headers for it: name=value,name=value", secret=True)
    service: str = var("OTEL_SERVICE_NAME", "", "what we are called in traces; empty: llm-gateway, llm-worker")
    sampler: str = var(
        *("OTEL_TRACES_SAMPLER", "parentbased_always_on", "which traces that begin here are kept; parentbased: and the client's"),
        parse.one_of(*(each + kind for each in ("parentbased_", "") for kind in ("always_on", "always_off", "traceidratio"))),
    )
    share: float = var("OTEL_TRACES_SAMPLER_ARG", "1", "of traceidratio: the share of them, 0 to 1", parse.share)


@dataclass(frozen=True)
class Settings:
    bus: BusSettings
    gateway: GatewaySettings
    worker: WorkerSettings
    models: ModelSettings
    logs: LogSettings
    admin: AdminSettings
    traces: TraceSettings
    environment: Mapping[str, str] = field(repr=False)  # where MODELS_FILE's token names are looked up


SECTIONS: tuple[type, ...] = (
    *(BusSettings, GatewaySettings, WorkerSettings, ModelSettings, LogSettings, AdminSettings, TraceSettings),
)


def load(environment: Mapping[str, str] | None = None) -> Settings:
    """Reads all sections, from `environment` or else from `.env` and the process's environment.

    Raises SettingsError, with one line that names the variable, on the first value that does not parse.
    """
    if environment is None:
        from_file = {name: value for name, value in dotenv_values(".env").items() if value is not None}
        environment = {**from_file, **os.environ}
    # Programs agree on these three in lower case as well, and some systems set only those.
    names = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
    lower = {name: environment.get(name.lower(), "") for name in names if not environment.get(name)}
    environment = {**environment, **lower}
    sections: list[Any] = [_read(section, environment) for section in SECTIONS]
    return Settings(*[*sections, environment])


def _read(section: type[Section], environment: Mapping[str, str]) -> Section:
    return section(**{item.name: _value(item, environment) for item in fields(section)})  # type: ignore[arg-type]


def _value(item: Field[Any], environment: Mapping[str, str]) -> Any:
    name, default = item.metadata["name"], item.metadata["default"]
    text = environment.get(name, "").strip() or default  # compose passes unset variables as empty ones
    try:
        return item.metadata["parser"](text)
    except ValueError as error:
        example = f"{name}={default}" if default else f"leave {name} empty"
        is_address = "://" in text or item.metadata["parser"] in (parse.url, parse.upstream)
        shown = repr(parse.without_userinfo(text) if is_address else text) if item.repr else "its value"
        raise SettingsError(f"{name}: {shown} does not work ({error}); for example {example}") from None
