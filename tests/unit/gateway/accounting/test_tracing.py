"""The gateway's spans: of a request from its head to its end, and of the record that it writes."""

import asyncio
from asyncio import Future
from typing import Any

import pytest

from app.bus.base import Place
from app.config.settings import load_settings
from app.errors import NotDelivered
from app.gateway.access.authentication import Authenticator
from app.gateway.accounting.access_log import AccessLog
from app.gateway.accounting.tracing import TracingMiddleware, TracingSender
from app.gateway.http.asgi import App, Receive, Scope, Send, get_header
from app.gateway.middleware import RequestMiddleware
from app.protocol.records import Headers
from app.telemetry.tracing import PRODUCER, SERVER
from tests.unit.kept_spans import CLIENTS, Kept, tracing

CHAT = "/v1/chat/completions"
SECRET = "sk-secret-secret"


class Application:
    """Answers with a status, having left this line; keeps the trace that it found in the request's
    head.
    """

    def __init__(self, status: int = 200, **line: object) -> None:
        self.status, self.line = status, line
        self.found = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.found = get_header(scope, b"traceparent")
        if self.status:
            scope["state"]["line"] = self.line
            await send({"type": "http.response.start", "status": self.status, "headers": []})


async def asked(
    application: App, path: str = CHAT, *, traceparent: str = CLIENTS, **more: Any
) -> Kept:
    tracer, kept = tracing()
    heads = [
        (b"authorization", f"Bearer {SECRET}".encode()),
        (b"traceparent", traceparent.encode()),
        (b"x", b"y"),
    ]
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "headers": heads,
        "query_string": b"key=" + SECRET.encode(),
    }
    scope |= {"state": {}, **more}

    async def unused(*_: Any) -> Any:
        return None

    await TracingMiddleware(application, tracer)(scope, unused, unused)
    assert SECRET not in str(kept.spans)
    return kept


async def test_a_request_is_a_child_of_the_clients_span_and_what_follows_is_its_child() -> None:
    application = Application(model="m", request_id="req_1", outcome="completed", prompt_tokens=3)
    told = (await asked(application)).one(SERVER)
    assert f"00-{told.span.trace_id}-{told.span.parent_id}-01" == CLIENTS
    assert application.found == told.span.traceparent
    assert (told.name, told.error) == (f"POST {CHAT}", "")
    assert (told["http.route"], told["http.response.status_code"], told["url.path"]) == (
        CHAT,
        200,
        CHAT,
    )
    assert (told["gen_ai.operation.name"], told["gen_ai.request.model"]) == ("chat", "m")
    assert (told["llm_gateway.request.id"], told["llm_gateway.outcome"]) == ("req_1", "completed")


@pytest.mark.parametrize(
    ("status", "line", "error"),
    [
        (429, {"code": "queue_full"}, ""),
        (503, {"code": "draining"}, "draining"),
        (500, {}, "500"),
        (200, {"outcome": "failed", "code": "worker_lost"}, "worker_lost"),
        (504, {"outcome": "expired"}, "504"),
        (200, {"client": "gone"}, "client_gone"),
        (0, {}, "failed"),
    ],
)
async def test_what_is_not_the_clients_fault_is_an_error(
    status: int, line: dict[str, object], error: str
) -> None:
    assert (await asked(Application(status, **line))).one(SERVER).error == error


async def test_names_are_of_few_kinds() -> None:
    assert (await asked(Application(), "/v1/what/ever/1")).one(SERVER).name == "POST /v1/{path}"


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/docs"])
async def test_what_is_not_of_the_api_has_no_span(path: str) -> None:
    application = Application()
    kept = await asked(application, path, state={})
    assert kept.spans == []
    assert application.found == CLIENTS


async def test_a_client_that_keeps_no_trace_is_passed_on_as_such() -> None:
    application = Application()
    kept = await asked(application, traceparent=CLIENTS[:-1] + "0")
    assert kept.spans == []
    assert application.found[:36] == CLIENTS[:36]
    assert application.found.endswith("-00")


class Admitted:
    """Answers each request that a real edge lets in."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._edge = RequestMiddleware(
            self._inner, Authenticator(load_settings(environment).gateway), AccessLog()
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._edge(scope, receive, send)

    async def _inner(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})


@pytest.mark.parametrize(
    ("environment", "client", "spans"),
    [
        ({"API_KEYS": SECRET}, "192.0.2.7", 1),
        ({"API_KEYS": "sk-0a1b2c3d4e5f67"}, "192.0.2.7", 0),
        ({}, "127.0.0.1", 1),
        ({}, "192.0.2.7", 0),
    ],
)
async def test_a_request_that_is_not_let_in_has_no_span(
    environment: dict[str, str], client: str, spans: int
) -> None:
    kept = await asked(Admitted(environment), client=(client, 1))
    assert len(kept.spans) == spans


class Log:
    """Takes what is sent, or does not."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.headers: list[Headers] = []

    def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes,
        headers: Headers,
        partition: int | None = None,
    ) -> Any:
        self.headers.append(headers)
        sent: Future[Place] = Future()
        if self.error:
            sent.set_exception(self.error)
        else:
            sent.set_result(Place(3, 7))
        return sent


async def sent(log: Log, *headers: tuple[str, bytes]) -> tuple[Any, Kept]:
    tracer, kept = tracing()
    future = TracingSender(log, tracer, "kafka").send(
        "llm.requests.m", b"a prompt", key=b"id", headers=[("v", b"1"), *headers]
    )
    (place,) = await asyncio.gather(future, return_exceptions=True)
    await asyncio.sleep(0)
    return place, kept


async def test_a_record_that_carries_a_trace_has_a_span_and_carries_that_on() -> None:
    log = Log()
    place, kept = await sent(log, ("traceparent", CLIENTS.encode()))
    told = kept.one(PRODUCER)
    assert place == Place(3, 7)
    assert log.headers == [[("v", b"1"), ("traceparent", told.span.traceparent.encode())]]
    assert told.span.parent_id == CLIENTS.split("-")[2]
    assert told.name == "send llm.requests.m"
    assert (told["messaging.system"], told["messaging.operation.type"]) == ("kafka", "send")
    assert (told["messaging.destination.name"], told["messaging.message.id"]) == (
        "llm.requests.m",
        "id",
    )
    assert (told["messaging.destination.partition.id"], told["messaging.kafka.offset"]) == ("3", 7)
    assert "a prompt" not in str(told)


async def test_a_record_without_one_goes_as_it_is() -> None:
    log = Log()
    _, kept = await sent(log)
    assert (log.headers, kept.spans) == ([[("v", b"1")]], [])


async def test_a_record_that_was_not_taken_is_an_error() -> None:
    error, kept = await sent(Log(NotDelivered("no broker")), ("traceparent", CLIENTS.encode()))
    assert isinstance(error, NotDelivered)
    assert kept.one(PRODUCER).error == "not_acknowledged"
