"""/v1/requests/{id} over HTTP: what is there, for which method, and what a reply comes as."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest
from fastapi import FastAPI
from starlette.routing import Route

from app.gateway.access_log import AccessLog
from app.gateway.asgi import Receive, Scope, Send, send_whole
from app.gateway.auth import Keys
from app.gateway.edge import Edge, Entrance
from app.gateway.routes.requests import Requests
from app.settings import load
from tests.unit.gateway.house import House, house


async def to_a_model(scope: Scope, receive: Receive, send: Send) -> None:
    await send_whole(send, 299, [], b"to a model's server")


@asynccontextmanager
async def served(at: House) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a gateway whose inference says that it was asked."""
    keys, access_log = Keys(load({}).gateway), AccessLog()
    inference = Edge(to_a_model, keys, access_log)
    catch_all = Route("/v1/{path:path}", inference, methods=["POST"])
    routed = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    routed.add_middleware(Edge, keys=keys, access_log=access_log)
    routed.router.routes += [*Requests(await at.gateway()).routes(), catch_all]
    transport = httpx2.ASGITransport(Entrance(routed, inference))
    async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_a_stream_is_got_and_nothing_else(method):
    async with house() as at, served(at) as client:
        answer = await client.request(method, "/v1/requests/req_x/stream")
        assert answer.status_code == 405
        assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}


@pytest.mark.parametrize("path", ["", "/", "/x/", "/x/foo", "/x/cancel/", "/x/cancel/foo", "/x/y/z", "/v1/requests/x/cancel"])
async def test_what_is_not_there_goes_to_no_model(path):
    async with house() as at, served(at) as client:
        for base in ("/v1/requests", "/api/v1/requests"):
            for method in ("POST", "GET"):
                assert (await client.request(method, f"{base}{path}")).status_code == 404, method


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("POST", "/req_x", "GET"), ("POST", "/req_x/result", "GET"), ("GET", "/req_x/cancel", "POST"), ("PUT", "/req_x", "GET")],
)
async def test_another_method_hears_which_one_is_taken(method, path, allowed):
    async with house() as at, served(at) as client:
        answer = await client.request(method, f"/v1/requests{path}")
        assert answer.status_code == 405
        assert set(answer.headers["allow"].split(", ")) - {"HEAD"} == {allowed}


async def test_what_is_there_asks_for_the_request():
    async with house() as at, served(at) as client:
        for method, below in (("GET", ""), ("GET", "/result"), ("GET", "/stream"), ("POST", "/cancel")):
            answer = await client.request(method, f"/v1/requests/req_x{below}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "request_not_found")


async def test_other_posts_go_to_a_model():
    async with house() as at, served(at) as client:
        assert (await client.post("/v1/requestsx")).status_code == 299
