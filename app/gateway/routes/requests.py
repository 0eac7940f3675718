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
from app.gateway.http.asgi import watch_disconnect
from app.gateway.http.reply_body import (
    assemble_body,
    build_reply_headers,
    parse_event_number,
    refuse_binary,
)
from app.gateway.http.response_writer import EventStream
from app.inference.request_view import RequestView
from app.protocol.reply_state import CANCELLED, EXPIRED

_END_WAIT_SECONDS = 3.0  # how long a cancel is given to show in the log
_POLL_SECONDS = 0.05
_RETRY_AFTER_HEADERS = {"retry-after": "1"}


class RequestEndpoints:
    """The handlers, on one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def routes(self) -> list[BaseRoute]:
        """All that is below /v1/requests: what is not here is 404, and no POST goes on from it to a
        model.
        """
        subroutes = [
            Route("/{id}", self.get_state),
            Route("/{id}/result", self.get_result),
            Route("/{id}/stream", _StreamEndpoint(self), methods=["GET"]),
            Route("/{id}/cancel", self.cancel_request, methods=["POST"]),
        ]
        return [
            Mount("/v1/requests", Router(subroutes, redirect_slashes=False)),
            Route("/v1/requests", Router()),
        ]

    async def find_request(self, scope: Scope) -> RequestView:
        """Find the request that the path names, and end it if its deadline has passed unseen.

        Raises RequestNotFound, RateLimited, BusUnavailable.
        """
        self._gateway.admission.refuse_if_unready()
        public_id, tenant = scope["path_params"]["id"], scope["state"]["tenant"]
        if scope["method"] != "POST":  # a cancel makes room, so it is never refused for a rate
            await self._gateway.limiter.admit_lookup(
                scope["state"], self._gateway.request_views.find_model_id(public_id)
            )
        request_view = await self._gateway.request_views.find_request(public_id, tenant)
        scope["state"]["line"]["request_id"] = public_id
        if request_view.final:
            model = request_view.model_state.card.model
            await self._gateway.limiter.release_kept_lease(
                scope["state"]["caller"], model, request_view.address.id
            )
        return (
            await self._end_request(request_view, EXPIRED)
            if request_view.is_overdue
            else request_view
        )

    async def _end_request(self, request_view: RequestView, outcome: str) -> RequestView:
        """Writes the end and waits until the log says how the request ended. Raises
        BusUnavailable.
        """
        self._gateway.dispatcher.end_request(request_view.make_pending_request(), outcome)
        public_id, tenant = request_view.address.encode(), request_view.request.tenant
        try:
            async with asyncio.timeout(_END_WAIT_SECONDS):
                while not request_view.final:
                    await asyncio.sleep(_POLL_SECONDS)
                    request_view = await self._gateway.request_views.find_request(public_id, tenant)
        except TimeoutError:
            raise BusUnavailable(
                "the log does not say yet how the request has ended", retry_after_seconds=1
            ) from None
        return request_view

    async def get_state(self, request: Request) -> Response:
        return JSONResponse((await self.find_request(request.scope)).describe())

    async def cancel_request(self, request: Request) -> Response:
        request_view = await self.find_request(request.scope)
        if not request_view.final:
            request_view = await self._end_request(request_view, CANCELLED)
        return JSONResponse(request_view.describe())

    async def get_result(self, request: Request) -> Response:
        """What the waiting client would have got; 202 with the resource while that is not known."""
        request_view = await self.find_request(request.scope)
        if not request_view.final:
            id_headers = {"x-request-id": request_view.address.encode()}
            return JSONResponse(
                request_view.describe(),
                status_code=202,
                headers={**_RETRY_AFTER_HEADERS, **id_headers},
            )
        parts = request_view.reply_view.parts
        body = assemble_body(
            parts, stream=request_view.request.stream, path=request_view.request.path
        )
        response = Response(body.value, body.status)
        response.raw_headers += build_reply_headers(request_view.address.encode(), body.head)
        return response

    async def stream_reply(self, scope: Scope, receive: Receive, send: Send) -> None:
        last_seen_number = _parse_last_seen_number(Request(scope))
        request_view = await self.find_request(scope)
        refuse_binary(request_view.head, request_view.address.encode())
        async with self._gateway.reply_reader.follow_reply(
            request_view.make_pending_request()
        ) as pending:
            with watch_disconnect(scope, receive, pending.mark_client_left):
                await EventStream(
                    pending,
                    send,
                    self._gateway.settings,
                    has_event_ids=True,
                    last_seen_number=last_seen_number,
                    sends_head_at_once=True,
                ).run()


class _StreamEndpoint:
    """As an ASGI application: it writes its events itself."""

    def __init__(self, request_endpoints: RequestEndpoints) -> None:
        self._request_endpoints = request_endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._request_endpoints.stream_reply(scope, receive, send)


def _parse_last_seen_number(request: Request) -> int:
    """The number of the last event that the client has: `starting_after`, else the header
    Last-Event-ID.
    """
    starting_after, last_event_id = (
        request.query_params.get("starting_after", ""),
        request.headers.get("last-event-id", ""),
    )
    return (
        parse_event_number(starting_after, "starting_after")
        if starting_after
        else parse_event_number(last_event_id, "Last-Event-ID")
    )
