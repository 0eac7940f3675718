"""Settings of the gateway."""

from dataclasses import dataclass

from app.config import parsers as parse
from app.config.variables import var


@dataclass(frozen=True)
class GatewaySettings:
    request_timeout_seconds: float = var(
        "REQUEST_TIMEOUT_SECONDS", "540", "deadline of a request", parse.positive_seconds
    )
    max_queue_depth: int = var(
        "MAX_QUEUE_DEPTH",
        "1000",
        "waiting (not running) requests a model may have",
        parse.positive_int,
    )
    soft_max_tenant_queue_depth: int = var(
        "TENANT_SOFT_QUEUE",
        "16",
        "a tenant with more waiting requests of a model than this gives way to others",
        parse.non_negative_int,
    )
    max_tenant_queue_depth: int = var(
        "TENANT_HARD_QUEUE",
        "0",
        "waiting requests of a model that one tenant may have; 0: no limit of its own",
        parse.non_negative_int,
    )
    drain_seconds: float = var(
        "DRAIN_SECONDS",
        "120",
        "how long a stopping process goes on with what runs",
        parse.non_negative_seconds,
    )
    sse_head_after_seconds: float = var(
        "SSE_HEAD_AFTER_SECONDS",
        "15",
        "a stream's head is sent at the latest after this; 0: never early",
        parse.non_negative_seconds,
    )
    sse_keepalive_seconds: float = var(
        "SSE_KEEPALIVE_SECONDS",
        "15",
        "a comment line after this much silence in a stream",
        parse.non_negative_seconds,
    )
    client_stall_seconds: float = var(
        "CLIENT_STALL_SECONDS",
        "60",
        "a client that takes no byte of its reply for so long is cut off",
        parse.positive_seconds,
    )
    heartbeat_seconds: float = var(
        "HEARTBEAT_SECONDS", "1", "between two heartbeats of a process", parse.positive_seconds
    )
    cancel_grace_seconds: float = var(
        "CANCEL_GRACE_SECONDS",
        "30",
        "a request with the client's own Idempotency-Key outlives its connection by this",
        parse.non_negative_seconds,
    )
    idempotency_ttl_seconds: float = var(
        "IDEMPOTENCY_TTL_SECONDS",
        "3600",
        "how long an Idempotency-Key is remembered",
        parse.positive_seconds,
    )
    redis_url: str = var(
        "REDIS_URL",
        "",
        "where gateways share Idempotency-Keys and limits; empty: nowhere",
        secret=True,
    )
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
        "ALLOWED_HOSTS",
        "",
        "without keys: names besides localhost by which this gateway may be asked",
        parse.host_names,
    )
    ready_requires_workers: bool = var(
        "READY_REQUIRES_WORKERS",
        "0",
        "1: /readyz is 503 while a known model has no ready worker",
        parse.boolean,
    )
    limits_fail_open: bool = var(
        "LIMITS_FAIL_OPEN",
        "1",
        "1: while Redis is away limited keys are served; 0: 503",
        parse.boolean,
    )
    api_keys: tuple[str, ...] = var(
        "API_KEYS",
        "",
        "keys that clients send, with commas between",
        parse.strong_keys,
        secret=True,
    )
    api_keys_file: str = var(
        "API_KEYS_FILE", "", "keys with tenants and limits, as YAML (docs/operating/keys.md)"
    )
    operator_keys: tuple[str, ...] = var(
        "OPERATOR_KEYS",
        "",
        "keys for /metrics and /admin at the gateway's own port, with commas between",
        parse.strong_keys,
        secret=True,
    )
    allow_anonymous: bool = var(
        "ALLOW_ANONYMOUS",
        "0",
        "1: where there are no keys, serve other machines too",
        parse.boolean,
    )
    published_host: str = var(
        "PUBLISHED_HOST", "", "where another container's proxy publishes the gateway"
    )
