"""POST /v1/<anything> with a JSON body that names a model: to that model's worker, and the reply back."""

import asyncio
from typing import Any

from app.contracts.openai import check_body
from app.errors import BadRequest, UnsupportedMedia
from app.gateway.asgi import Receive, Scope, Send, header, read_body, until_gone
from app.gateway.call import Call
from app.gateway.dispatch import Submission
from app.gateway.gateway import Gateway
from app.gateway.responses import EventStream, send_reply

HOPS_HEADER = b"x-llm-gateway-hops"

# Headers of the client that change what an upstream does; all others stay here.
_PASSED_ON = frozenset({b"openai-beta", b"anthropic-version", b"anthropic-beta"})


class Inference:
    """An ASGI application, on the hot path: no request object, no validation model."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        submission = await self._submission(scope, receive)
        line = scope["state"]["line"]
        line["model"], line["tenant"] = submission.model, submission.tenant
        call = await self._gateway.dispatcher.open(submission)
        line["request_id"] = call.public_id
        watch = asyncio.create_task(until_gone(receive))
        watch.add_done_callback(lambda _: call.leave())
        try:
            await self._answer(call, send, line)
        finally:
            self._gateway.dispatcher.close(call)
            watch.cancel()

    async def _submission(self, scope: Scope, receive: Receive) -> Submission:
        if header(scope, b"content-type").startswith("multipart/"):
            raise UnsupportedMedia("multipart bodies are not taken; send JSON")
        body = await read_body(scope, receive, self._gateway.max_body)
        path = scope["path"].removeprefix("/v1")
        checked = check_body(path, body)
        query = scope.get("query_string", b"").decode("latin-1")
        return Submission(
            path=f"{path}?{query}" if query else path,
            body=body,
            model=checked.model,
            stream=checked.stream,
            tenant=scope["state"]["tenant"],
            timeout=self._timeout(header(scope, b"x-request-timeout")),
            hops=header(scope, HOPS_HEADER),
            head=tuple(
                (name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"] if name in _PASSED_ON
            ),
            traceparent=header(scope, b"traceparent"),
        )

    def _timeout(self, wanted: str) -> float:
        """X-Request-Timeout, seconds: it may shorten the deadline, not lengthen it."""
        longest = self._gateway.settings.request_timeout
        if not wanted:
            return longest
        try:
            seconds = float(wanted)
        except ValueError:
            seconds = -1.0
        if not seconds > 0:
            raise BadRequest("X-Request-Timeout: expected a number of seconds above 0", param="X-Request-Timeout")
        return min(seconds, longest)

    async def _answer(self, call: Call, send: Send, line: dict[str, Any]) -> None:
        if call.request.stream:
            final = await EventStream(call, send, self._gateway.settings).run()
        else:
            final = await send_reply(call, send)
        line["outcome"] = final.outcome
        line.update(final.notes)
