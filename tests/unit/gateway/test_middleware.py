"""The outermost layer: one base path, errors as OpenAI's bodies, keys, one line per request."""

import asyncio
import logging
from dataclasses import replace
from typing import Any

import orjson
import pytest

from app.config.settings import load_settings
from app.errors import BadRequest, ClientGone, GatewayError, InvalidBody
from app.gateway.access.authentication import Authenticator
from app.gateway.accounting.access_log import AccessLog
from app.gateway.http.asgi import Receive, Scope, Send, send_response
from app.gateway.http.cors import with_cors
from app.gateway.middleware import FastPathRouter, RequestMiddleware
from app.gateway.openapi.failures import SAMPLE_ERRORS
from app.openai_api.anthropic import error_type
from app.protocol.request_id import Address
from tests.unit.gateway.wire import Client

HEAD = {"type": "http.response.start", "status": 200, "headers": []}


class Inner:
    """Notes what it is asked, and does what it is told."""

    def __init__(
        self, fault: BaseException | None = None, after: tuple[dict[str, Any], ...] = ()
    ) -> None:
        self.scopes: list[Scope] = []
        self._fault = fault
        self._after = after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        for message in self._after:
            await send(message)
        if self._fault:
            raise self._fault
        scope["state"]["line"]["added"] = 1
        await send_response(send, 200, [], b"{}")


class Served:
    def __init__(
        self, inner: Inner | None = None, keys: tuple[str, ...] = (), **options: Any
    ) -> None:
        self.routed, self.inference = inner or Inner(), inner or Inner()
        known = Authenticator(replace(load_settings({}).gateway, api_keys=keys))
        self.access_log = AccessLog(**options)
        self.edge = FastPathRouter(
            RequestMiddleware(self.routed, known, self.access_log),
            RequestMiddleware(self.inference, known, self.access_log),
        )
        self.client = Client()

    async def ask(self, method: str, path: str, **headers: str) -> Client:
        head = [
            (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
        ]
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "headers": head,
        }
        scope["client"] = ("127.0.0.1", 1)
        try:
            await self.edge(scope, _nothing, self.client.send)
        finally:
            self.access_log.flush()
        return self.client


async def _nothing() -> Any:
    raise AssertionError("the edge reads no body")


@pytest.mark.parametrize(
    "path",
    ["/v1/chat/completions", "/api/v1/chat/completions", "/v1/anything/else", "/v1/requestsx"],
)
async def test_posts_under_either_base_path_go_to_inference(path):
    served = Served()
    await served.ask("POST", path)
    (scope,) = served.inference.scopes
    assert scope["path"] == scope["raw_path"].decode() == path.removeprefix("/api")
    assert scope["state"].get("base", "") == ("/api" if path.startswith("/api") else "")
    assert served.routed.scopes == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("GET", "/api/v1/models"),
        ("POST", "/v1/requests/req_x/cancel"),
        ("POST", "/v1/requests/x/foo"),
        ("POST", "/api/v1/requests"),
        ("POST", "/docs"),
        ("GET", "/v1/x"),
    ],
)
async def test_everything_else_goes_to_the_router(method, path):
    served = Served()
    await served.ask(method, path)
    assert [scope["path"] for scope in served.routed.scopes] == [path.removeprefix("/api")]
    assert served.inference.scopes == []


async def test_what_is_no_http_passes_through():
    served = Served()
    seen: list[Any] = []

    async def app(*arguments: Any) -> None:
        seen.append(arguments)

    edge = RequestMiddleware(app, Authenticator(load_settings({}).gateway), AccessLog())
    await FastPathRouter(edge, served.inference)({"type": "lifespan"}, _nothing, served.client.send)
    assert len(seen) == 1


async def test_a_preflight_for_a_private_network_is_allowed_to_a_page_that_may_and_to_no_other():
    served = Served()
    app = with_cors(served.edge, ["https://app.example"])
    for origin, allowed in (("https://app.example", True), ("https://elsewhere.example", False)):
        client = Client()
        asked = {
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization",
            "access-control-request-private-network": "true",
        }
        head = [(name.encode(), value.encode()) for name, value in asked.items()]
        scope = {
            "type": "http",
            "method": "OPTIONS",
            "path": "/v1/chat/completions",
            "headers": head,
        }
        await app(scope, _nothing, client.send)
        assert (client.status == 200) is allowed
        assert (client.headers.get("access-control-allow-origin") == origin) is allowed
        if allowed:
            assert client.headers["access-control-allow-private-network"] == "true"
    assert served.inference.scopes == served.routed.scopes == []


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/realtime", "/api/v1/realtime", "/else"])
async def test_a_websocket_is_refused_with_a_404_where_the_server_can_send_one(path):
    served = Served(keys=("sk-one",))
    sent: list[Any] = []

    async def connect() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "websocket",
        "path": path,
        "headers": [],
        "extensions": {"websocket.http.response": {}},
    }
    await served.edge(scope, connect, send)
    start, body = sent
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 404)
    assert (body["type"], orjson.loads(body["body"])["error"]["code"]) == (
        "websocket.http.response.body",
        "unknown_url",
    )
    sent.clear()
    await served.edge({"type": "websocket", "path": path, "headers": []}, connect, send)
    assert sent == [{"type": "websocket.close"}]
    assert served.inference.scopes == served.routed.scopes == []


async def test_without_a_key_of_ours_nobody_gets_in_but_to_what_is_open():
    for path in ("/v1/chat/completions", "/v1/models", "/else"):
        served = Served(keys=("sk-one",))
        client = await served.ask("POST", path, authorization="Bearer sk-two")
        assert (client.status, orjson.loads(client.got)["error"]["code"]) == (
            401,
            "invalid_api_key",
        )
        assert client.headers["www-authenticate"] == "Bearer"
        assert served.inference.scopes == served.routed.scopes == []
    for path in ("/", "/healthz", "/readyz", "/docs", "/openapi.json", "/ui"):
        assert (await Served(keys=("sk-one",)).ask("GET", path)).status == 200


async def test_the_tenant_is_handed_on():
    served = Served(keys=("sk-one",))
    await served.ask("POST", "/v1/x", authorization="Bearer sk-one")
    state = served.inference.scopes[0]["state"]
    assert state["tenant"] == state["caller"].tenant
    assert state["tenant"].startswith("key-")
    assert state["line"]["tenant"] == state["tenant"]  # of whatever is asked, GET /v1/models too
    served = Served()
    await served.ask("POST", "/v1/x")
    assert served.inference.scopes[0]["state"]["tenant"] == "anonymous"


async def test_our_own_errors_are_openais_bodies():
    client = await Served(Inner(BadRequest("no", param="n"))).ask("POST", "/v1/x")
    assert (client.status, client.headers["content-type"]) == (400, "application/json")
    assert orjson.loads(client.got) == {
        "error": {"message": "no", "type": "invalid_request_error", "param": "n", "code": None}
    }


ANTHROPIC = ("/v1/messages", "/v1/messages/count_tokens", "/api/v1/messages")
OF_EACH_STATUS = {type(sample): sample for sample in SAMPLE_ERRORS}.values()


@pytest.mark.parametrize("path", ANTHROPIC)
@pytest.mark.parametrize("error", OF_EACH_STATUS, ids=lambda error: type(error).__name__)
async def test_on_anthropics_endpoints_our_errors_are_anthropics_bodies(path, error):
    client = await Served(Inner(error)).ask("POST", path)
    document = orjson.loads(client.got)
    assert (client.status, document["type"]) == (error.status, "error")
    assert document["error"]["type"] == error_type(error.status)
    assert (document["error"]["message"], document["error"]["code"]) == (error.message, error.code)
    assert client.headers["request-id"] == client.headers["x-request-id"]


async def test_a_refused_key_and_a_fault_are_anthropics_bodies_too():
    for served in (Served(keys=("sk-one",)), Served(Inner(KeyError("fault")))):
        assert orjson.loads((await served.ask("POST", "/v1/messages")).got)["type"] == "error"


async def test_the_models_answer_in_the_shape_of_the_api_that_asks():
    served = Served(keys=("sk-one",))
    assert "type" not in orjson.loads((await served.ask("GET", "/v1/models")).got)
    served = Served(keys=("sk-one",))
    client = await served.ask("GET", "/v1/models", anthropic_version="2023-06-01")
    assert orjson.loads(client.got)["error"]["type"] == "authentication_error"
    for path in ("/v1/chat/completions", "/v1/messagesx"):
        client = await Served(Inner(BadRequest("no"))).ask(
            "POST", path, anthropic_version="2023-06-01"
        )
        assert "type" not in orjson.loads(client.got)
        assert "request-id" not in client.headers


async def test_a_fault_is_a_500_without_its_text_and_the_log_has_the_trace(caplog):
    client = await Served(Inner(KeyError("secret"))).ask("POST", "/v1/x")
    assert (client.status, orjson.loads(client.got)["error"]["code"]) == (500, "internal_error")
    assert b"secret" not in client.got
    assert [
        record.exc_info is not None for record in caplog.records if record.levelno == logging.ERROR
    ] == [True]


@pytest.mark.parametrize("fault", [BadRequest("no"), KeyError("fault")])
async def test_a_refused_request_has_an_id_that_client_and_log_share_and_that_is_no_address(
    caplog, fault
):
    caplog.set_level(logging.INFO)
    id_ = (await Served(Inner(fault)).ask("POST", "/v1/x", x_request_id="mine")).headers[
        "x-request-id"
    ]
    assert id_.startswith("err_")
    assert Address.decode(id_) is None
    assert {record.request_id for record in caplog.records} == {id_}  # type: ignore[attr-defined]
    assert (await Served(Inner(fault)).ask("POST", "/v1/x")).headers["x-request-id"] != id_


async def test_without_a_key_of_ours_an_id_is_told_too():
    client = await Served(keys=("sk-one",)).ask("GET", "/v1/models")
    assert (client.status, client.headers["x-request-id"][:4]) == (401, "err_")


class Accepted(Inner):
    """Fails when the request lies in the log."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["line"]["request_id"] = "req_x"
        raise KeyError("fault")


async def test_what_fails_once_it_is_accepted_keeps_its_id(caplog):
    assert (await Served(Accepted()).ask("POST", "/v1/x")).headers["x-request-id"] == "req_x"
    assert caplog.records[0].request_id == "req_x"


@pytest.mark.parametrize("fault", [BadRequest("late"), KeyError("late")])
async def test_behind_the_head_an_error_breaks_the_connection_off(fault):
    served = Served(
        Inner(
            fault, after=(HEAD, {"type": "http.response.body", "body": b"half", "more_body": True})
        )
    )
    with pytest.raises(Exception, match=r"late|failed"):
        await served.ask("POST", "/v1/x")
    assert (served.client.status, served.client.got, served.client.ended) == (200, b"half", False)


@pytest.mark.parametrize(
    ("fault", "code"), [(InvalidBody("late"), "invalid_json"), (KeyError("late"), "internal_error")]
)
async def test_what_breaks_off_behind_the_head_has_its_line_and_is_counted(caplog, fault, code):
    caplog.set_level(logging.INFO, "app.access")
    observed: list[int] = []
    inner = Inner(fault, after=(HEAD,))
    served = Served(
        inner, sample_rate=0.0, on_request=lambda _path, status, _line: observed.append(status)
    )
    with pytest.raises(GatewayError):
        await served.ask("POST", "/v1/x")
    (line,) = (record for record in caplog.records if record.name == "app.access")
    assert (line.status, line.code) == (200, code)  # type: ignore[attr-defined]
    assert observed == [200]


async def test_a_client_that_has_left_is_no_error(caplog):
    caplog.set_level(logging.INFO, "app.access")
    client = await Served(Inner(ClientGone())).ask("POST", "/v1/x")
    assert (client.status, client.got) == (0, b"")
    (line,) = (record for record in caplog.records if record.name == "app.access")
    assert (line.message, line.status, line.client) == ("POST /v1/x", 0, "gone")  # type: ignore[attr-defined]


async def test_each_request_is_one_line_and_health_is_none(caplog):
    caplog.set_level(logging.INFO, "app.access")
    await Served().ask("POST", "/api/v1/x", x_request_id="mine" * 100)
    await Served(Inner(BadRequest("no"))).ask("GET", "/v1/models")
    for path in ("/healthz", "/readyz"):
        await Served().ask("GET", path)
    first, second = (record for record in caplog.records if record.name == "app.access")
    assert (first.message, first.status, first.added) == ("POST /v1/x", 200, 1)  # type: ignore[attr-defined]
    assert (second.message, second.status) == ("GET /v1/models", 400)  # type: ignore[attr-defined]
    assert first.client_request_id == ("mine" * 100)[:128]  # type: ignore[attr-defined]


def statuses(caplog: pytest.LogCaptureFixture) -> list[int]:
    return [record.status for record in caplog.records]  # type: ignore[attr-defined]


async def test_a_line_comes_by_itself_shortly_after_the_reply_and_those_of_many_together(caplog):
    caplog.set_level(logging.INFO, "app.access")
    access_log = AccessLog()
    for status in (200, 201):
        access_log.log_request({"method": "POST", "path": "/v1/x", "headers": []}, status, {})
        await asyncio.sleep(0)
    assert statuses(caplog) == []
    await asyncio.sleep(0.01)
    assert statuses(caplog) == [200, 201]
    access_log.log_request({"method": "POST", "path": "/v1/x", "headers": []}, 202, {})
    await asyncio.sleep(0.01)
    assert statuses(caplog) == [200, 201, 202]


class Told(Inner):
    """Its requests end so."""

    def __init__(self, status: int = 200, **line: Any) -> None:
        super().__init__()
        self._status, self._line = status, line

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["line"].update(self._line)
        await send_response(send, self._status, [], b"{}")


async def lines_of(
    caplog: pytest.LogCaptureFixture, inner: Inner, sample_rate: float, times: int = 1
) -> int:
    """How many access lines so many requests had; each was counted."""
    caplog.set_level(logging.INFO, "app.access")
    observed: list[int] = []
    for _ in range(times):
        await Served(
            inner,
            sample_rate=sample_rate,
            on_request=lambda _path, status, _line: observed.append(status),
        ).ask("POST", "/v1/x")
    assert len(observed) == times
    return len([record for record in caplog.records if record.name == "app.access"])


@pytest.mark.parametrize(
    "inner",
    [
        Inner(BadRequest("no")),
        Inner(KeyError("fault")),
        Inner(ClientGone()),
        Told(502),
        Told(outcome="failed"),
        Told(outcome="cancelled"),
        Told(200, client="gone"),
    ],
)
async def test_what_did_not_go_well_always_has_its_line(caplog, inner):
    assert await lines_of(caplog, inner, sample_rate=0.0) == 1


@pytest.mark.parametrize("inner", [Inner(), Told(outcome="completed"), Told(202)])
async def test_what_went_well_has_a_line_if_it_is_in_the_sample(caplog, inner):
    assert await lines_of(caplog, inner, sample_rate=0.0) == 0
    assert await lines_of(caplog, inner, sample_rate=1.0) == 1


async def test_of_what_went_well_about_so_many_have_a_line(caplog):
    assert 20 < await lines_of(caplog, Inner(), sample_rate=0.25, times=400) < 200
