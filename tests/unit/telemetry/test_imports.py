"""Where traces go nowhere, nothing that makes them is imported."""

import json
import subprocess
import sys

import pytest

GATEWAY = [
    "app.main",
    "app.bus.kafka.bus",
    "app.bus.memory.bus",
    "app.agent.engines.http.engine",
    "app.agent.engines.echo",
]
WORKER = [
    "app.agent.__main__",
    "app.bus.kafka.bus",
    "app.agent.engines.http.engine",
    "app.agent.engines.echo",
]


def imported(modules: list[str], **environment: str) -> set[str]:
    """OpenTelemetry's modules in a process that has imported these, and made a tracer if the
    settings want one.
    """
    lines = [
        f"import sys, json, asyncio, {', '.join(modules)}",
        "from app.config.settings import load_settings",
        "from app.telemetry.tracing import make_tracer",
        "tracer = make_tracer(load_settings().traces, 'x')",
        "tracer and (tracer.start(), asyncio.run(tracer.close()))",
        "print(json.dumps([name for name in sys.modules if name.partition('.')[0] in "
        "('opentelemetry', 'google', 'requests')]))",
    ]
    ended = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        env={"BUS": "memory", "PYTHONPATH": ":".join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(ended.stdout))


def test_a_worker_has_nothing_of_opentelemetry() -> None:
    assert imported(WORKER) == set()


def test_a_gateway_has_only_the_interfaces_that_fastapi_itself_imports() -> None:
    by_fastapi = imported(["fastapi"])
    assert imported(GATEWAY) <= by_fastapi
    assert not [
        name
        for name in by_fastapi
        if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))
    ]


@pytest.mark.parametrize("modules", [WORKER, GATEWAY])
def test_with_an_endpoint_the_sdk_is_there(modules: list[str]) -> None:
    found = imported(modules, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    assert {
        "opentelemetry.sdk.trace",
        "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    } <= found
