"""/v1/requests/{id} over HTTP: what is there, for which method, and what a reply comes as."""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from starlette.routing import Route

from app.config.api_keys_file import KeyEntry, hash_key
from app.config.settings import load_settings
from app.gateway.access.authentication import Authenticator
from app.gateway.accounting.access_log import AccessLog
from app.gateway.http.asgi import App, Receive, Scope, Send, send_response
from app.gateway.middleware import FastPathRouter, RequestMiddleware
from app.gateway.routes.inference import InferenceEndpoint
from app.gateway.routes.requests import RequestEndpoints
from app.inference.request_view import MAX_TENANT_LOOKUPS
from app.protocol.records import RequestRecord
from app.protocol.reply_state import COMPLETED, FINAL
from app.protocol.request_id import Address, fingerprint_topic
from tests.unit.gateway.house import House, house
from tests.unit.scene import REQUESTS, body, request, send_request, until


async def to_a_model(scope: Scope, receive: Receive, send: Send) -> None:
    await send_response(send, 299, [], b"to a model's server")


@asynccontextmanager
async def served(
    at: House, infers: App = to_a_model, keys: Authenticator | None = None
) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a gateway whose inference, if nothing else is said, only tells that it was
    asked.
    """
    keys, access_log = keys or Authenticator(load_settings({}).gateway), AccessLog()
    inference = RequestMiddleware(infers, keys, access_log)
    catch_all = Route("/v1/{path:path}", inference, methods=["POST"])
    routed = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    routed.add_middleware(RequestMiddleware, authenticator=keys, access_log=access_log)
    gateway = at.gateways[0] if at.gateways else await at.gateway()
    routed.router.routes += [*RequestEndpoints(gateway).routes(), catch_all]
    transport = httpx2.ASGITransport(FastPathRouter(routed, inference))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


async def asked(at: House, **members: bool) -> tuple[RequestRecord, str]:
    """A request in the log, and the id by which a client knows it."""
    one = request(now=time.time(), tenant="anonymous", **members)
    place = await send_request(at.bus, one)
    address = Address(
        one.id,
        fingerprint_topic(REQUESTS),
        place.partition,
        place.offset,
        one.reply_partition,
        one.reply_offset,
    )
    return one, address.encode()


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_a_stream_is_got_and_nothing_else(method):
    async with house() as at, served(at) as client:
        answer = await client.request(method, "/v1/requests/req_x/stream")
        assert answer.status_code == 405
        assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}


@pytest.mark.parametrize(
    "path",
    ["", "/", "/x/", "/x/foo", "/x/cancel/", "/x/cancel/foo", "/x/y/z", "/v1/requests/x/cancel"],
)
async def test_what_is_not_there_goes_to_no_model(path):
    async with house() as at, served(at) as client:
        for base in ("/v1/requests", "/api/v1/requests"):
            for method in ("POST", "GET"):
                assert (await client.request(method, f"{base}{path}")).status_code == 404, method


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/req_x", "GET"),
        ("POST", "/req_x/result", "GET"),
        ("GET", "/req_x/cancel", "POST"),
        ("PUT", "/req_x", "GET"),
    ],
)
async def test_another_method_hears_which_one_is_taken(method, path, allowed):
    async with house() as at, served(at) as client:
        answer = await client.request(method, f"/v1/requests{path}")
        assert answer.status_code == 405
        assert set(answer.headers["allow"].split(", ")) - {"HEAD"} == {allowed}


async def test_what_is_there_asks_for_the_request():
    async with house() as at, served(at) as client:
        for method, below in (
            ("GET", ""),
            ("GET", "/result"),
            ("GET", "/stream"),
            ("POST", "/cancel"),
        ):
            answer = await client.request(method, f"/v1/requests/req_x{below}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (
                404,
                "request_not_found",
            )


def count_readers(at: House) -> list[str]:
    """The topics of the readers that are opened from now on."""
    opened: list[str] = []
    open_reader = at.bus.log_reader

    async def counted(topic: str, *others: Any) -> Any:
        opened.append(topic)
        return await open_reader(topic, *others)

    at.bus.log_reader = counted  # type: ignore[method-assign]
    return opened


async def test_an_id_behind_the_end_of_its_partition_is_refused_without_reading():
    async with house() as at, served(at) as client:
        _, public_id = await asked(at)
        address = Address.decode(public_id)
        assert address is not None
        opened = count_readers(at)
        for offset in (address.offset + 1, address.offset + 300, (1 << 48) - 1):
            forged = replace(address, offset=offset).encode()
            assert (await client.get(f"/v1/requests/{forged}")).status_code == 404
        assert opened == []
        assert (await client.get(f"/v1/requests/{public_id}")).status_code == 200
        assert opened[0] == REQUESTS


async def test_a_tenant_may_have_so_many_look_ups_waiting_and_then_hears_when_to_come_back():
    async with house() as at, served(at) as client:
        _, public_id = await asked(at)
        (gateway,) = at.gateways
        gateway.request_views._lookups_by_tenant["anonymous"] = MAX_TENANT_LOOKUPS
        answer = await client.get(f"/v1/requests/{public_id}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert answer.headers["retry-after"] == "1"
        gateway.request_views._lookups_by_tenant["anonymous"] -= 1
        assert (await client.get(f"/v1/requests/{public_id}")).status_code == 200
        assert gateway.request_views._lookups_by_tenant == {"anonymous": MAX_TENANT_LOOKUPS - 1}


async def test_each_look_counts_as_a_request_of_the_minute_and_a_cancel_does_not():
    keys = Authenticator(load_settings({"API_KEYS_FILE": "keys.yaml"}).gateway)
    keys.replace_file_keys(
        [KeyEntry(id="one", tenant="anonymous", hash=hash_key(b"sk-one"), rpm=3)]
    )
    async with house() as at, served(at, keys=keys) as client:
        client.headers["authorization"] = "Bearer sk-one"
        _, public_id = await asked(at)
        statuses = [
            (await client.get(f"/v1/requests/{public_id}{below}")).status_code
            for below in ("", "/result", "", "/result")
        ]
        assert statuses == [200, 202, 200, 429]
        refused = await client.get(f"/v1/requests/{public_id}/stream")
        assert (refused.status_code, refused.headers["x-ratelimit-remaining-requests"]) == (
            429,
            "0",
        )
        assert (await client.post(f"/v1/requests/{public_id}/cancel")).json()[
            "status"
        ] == "cancelled"
        assert (await client.get("/v1/requests/req_x")).status_code == 404


async def test_other_posts_go_to_a_model():
    async with house() as at, served(at) as client:
        assert (await client.post("/v1/requestsx")).status_code == 299


async def test_a_result_has_its_id_whether_or_not_it_is_there_yet():
    async with house() as at, served(at) as client:
        one, public_id = await asked(at, stream=False)
        pending = await client.get(f"/v1/requests/{public_id}/result")
        assert (
            pending.status_code,
            pending.headers["x-request-id"],
            pending.headers["retry-after"],
        ) == (202, public_id, "1")
        await at.write(
            one,
            FINAL,
            0,
            b"{}",
            outcome=COMPLETED,
            status=200,
            head=(("content-type", "application/json"),),
        )
        there = await client.get(f"/v1/requests/{public_id}/result")
        assert (there.status_code, there.headers["x-request-id"]) == (200, public_id)


@pytest.mark.parametrize("base", ["/v1", "/api/v1"])
async def test_a_request_that_is_accepted_is_found_below_the_clients_own_base_path(base):
    async with house() as at:
        gateway = await at.gateway()
        async with served(at, InferenceEndpoint(gateway)) as client:
            told = await client.post(
                f"{base}/chat/completions", content=body(), headers={"Prefer": "respond-async"}
            )
            assert told.status_code == 202
            assert told.headers["location"] == f"{base}/requests/{told.headers['x-request-id']}"
            assert (await client.get(told.headers["location"])).json()["id"] == told.headers[
                "x-request-id"
            ]


async def test_the_access_line_of_a_look_at_a_request_says_whose_and_which(
    caplog: pytest.LogCaptureFixture,
):
    caplog.set_level(logging.INFO, "app.access")
    async with house() as at, served(at) as client:
        one, public_id = await asked(at, stream=False)
        await at.write(
            one,
            FINAL,
            0,
            b"{}",
            outcome=COMPLETED,
            status=200,
            head=(("content-type", "application/json"),),
        )
        for method, below in (
            ("GET", ""),
            ("GET", "/result"),
            ("GET", "/stream"),
            ("POST", "/cancel"),
        ):
            assert (
                await client.request(method, f"/v1/requests/{public_id}{below}")
            ).status_code == 200
        refused = (await client.get("/v1/requests/req_x")).headers["x-request-id"]
        await until(lambda: len(lines_of(caplog)) == 5)
    assert lines_of(caplog) == [("anonymous", public_id)] * 4 + [("anonymous", refused)]


def lines_of(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    found = [record.__dict__ for record in caplog.records if record.name == "app.access"]
    return [(line["tenant"], line["request_id"]) for line in found]


def head(kind: str) -> dict[str, Any]:
    return {"outcome": COMPLETED, "status": 200, "head": (("content-type", kind),)}


@pytest.mark.parametrize("kind", ["audio/mpeg", "application/octet-stream", "Image/PNG; q=1"])
async def test_a_reply_that_is_no_text_has_no_events_and_says_where_it_is(kind):
    async with house() as at, served(at) as client:
        one, public_id = await asked(at, stream=False)
        await at.write(one, FINAL, 0, b"\xff\n\x00", **head(kind))
        answer = await client.get(f"/v1/requests/{public_id}/stream")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "id")
        assert f"GET /v1/requests/{public_id}/result has it" in answer.json()["error"]["message"]
        assert (await client.get(f"/v1/requests/{public_id}/result")).content == b"\xff\n\x00"


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "text/plain; charset=utf-8",
        "application/x-ndjson",
        "application/problem+json",
    ],
)
async def test_a_whole_reply_that_is_text_is_one_event(kind):
    async with house() as at, served(at) as client:
        one, public_id = await asked(at, stream=False)
        await at.write(one, FINAL, 0, b"{}", **head(kind))
        assert (
            await client.get(f"/v1/requests/{public_id}/stream")
        ).content == b"id: 1\ndata: {}\n\nid: 2\ndata: [DONE]\n\n"
