"""/v1/requests/{id}: any request by its id alone, from any gateway: its state, its result, its
stream, its cancel.
"""

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route, Router
from starlette.types import Receive, Scope, Send

from app.errors import BusUnavailable
from app.gateway.gateway import Gateway
from app.gateway.http.asgi import watched
from app.gateway.http.response_writer import (
    EventStream,
    event_number,
    headers_of,
    refuse_binary,
    whole_body,
)
from app.inference.request_view import RequestView
from app.protocol.reply_state import CANCELLED, EXPIRED

_ENDED_SECONDS = 3.0  # how long a cancel is given to show in the log
_LOOK_SECONDS = 0.05
_RETRY_AFTER = {"retry-after": "1"}


class Requests:
    """The handlers, on one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def routes(self) -> list[BaseRoute]:
        """All that is below /v1/requests: what is not here is 404, and no POST goes on from it to a
        model.
        """
        below = [
            Route("/{id}", self.state),
            Route("/{id}/result", self.result),
            Route("/{id}/stream", _Stream(self), methods=["GET"]),
            Route("/{id}/cancel", self.cancel, methods=["POST"]),
        ]
        return [
            Mount("/v1/requests", Router(below, redirect_slashes=False)),
            Route("/v1/requests", Router()),
        ]

    async def find(self, scope: Scope) -> RequestView:
        """Find the request that the path names, and end it if its deadline has passed unseen.

        Raises RequestNotFound, RateLimited, BusUnavailable.
        """
        self._gateway.admission.refuse_if_unready()
        public_id, tenant = scope["path_params"]["id"], scope["state"]["tenant"]
        if scope["method"] != "POST":  # a cancel makes room, so it is never refused for a rate
            await self._gateway.limiter.admit_lookup(
                scope["state"], self._gateway.request_views.model_of(public_id)
            )
        resource = await self._gateway.request_views.find(public_id, tenant)
        scope["state"]["line"]["request_id"] = public_id
        if resource.final:
            model = resource.known.card.model
            await self._gateway.limiter.give_back(
                scope["state"]["caller"], model, resource.address.id
            )
        return await self._end(resource, EXPIRED) if resource.overdue else resource

    async def _end(self, resource: RequestView, outcome: str) -> RequestView:
        """Writes the end and waits until the log says how the request ended. Raises
        BusUnavailable.
        """
        self._gateway.dispatcher.end(resource.call(), outcome)
        public_id, tenant = resource.address.encode(), resource.request.tenant
        try:
            async with asyncio.timeout(_ENDED_SECONDS):
                while not resource.final:
                    await asyncio.sleep(_LOOK_SECONDS)
                    resource = await self._gateway.request_views.find(public_id, tenant)
        except TimeoutError:
            raise BusUnavailable(
                "the log does not say yet how the request has ended", retry_after_seconds=1
            ) from None
        return resource

    async def state(self, request: Request) -> Response:
        return JSONResponse((await self.find(request.scope)).described())

    async def cancel(self, request: Request) -> Response:
        resource = await self.find(request.scope)
        if not resource.final:
            resource = await self._end(resource, CANCELLED)
        return JSONResponse(resource.described())

    async def result(self, request: Request) -> Response:
        """What the waiting client would have got; 202 with the resource while that is not known."""
        resource = await self.find(request.scope)
        if not resource.final:
            known_by = {"x-request-id": resource.address.encode()}
            return JSONResponse(
                resource.described(), status_code=202, headers={**_RETRY_AFTER, **known_by}
            )
        parts = resource.seen.parts
        body = whole_body(parts, stream=resource.request.stream, path=resource.request.path)
        response = Response(body.value, body.status)
        response.raw_headers += headers_of(resource.address.encode(), body.head)
        return response

    async def stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        seen = _starting_after(Request(scope))
        resource = await self.find(scope)
        refuse_binary(resource.head, resource.address.encode())
        async with self._gateway.reply_reader.reading(resource.call()) as call:
            with watched(scope, receive, call.leave):
                await EventStream(
                    call, send, self._gateway.settings, ids=True, seen=seen, at_once=True
                ).run()


class _Stream:
    """As an ASGI application: it writes its events itself."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._requests.stream(scope, receive, send)


def _starting_after(request: Request) -> int:
    """The number of the last event that the client has: `starting_after`, else the header
    Last-Event-ID.
    """
    asked, known = (
        request.query_params.get("starting_after", ""),
        request.headers.get("last-event-id", ""),
    )
    return event_number(asked, "starting_after") if asked else event_number(known, "Last-Event-ID")
