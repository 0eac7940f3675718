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
    routed.router.routes += [*Requests(await at.gateway()).routes(), catch_all]
    transport = httpx2.ASGITransport(Entrance(Edge(routed, keys, access_log), inference))
    async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_a_stream_is_got_and_nothing_else(method):
    async with house() as at, served(at) as client:
        answer = await client.request(method, "/v1/requests/req_x/stream")
        assert answer.status_code == 405
        assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}
