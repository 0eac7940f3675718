"""A simulated OpenAI-compatible upstream whose tokens are numbered (tests/numbered.py), in a
process of its own:

    python -m tests.upstream --port 9300 --model sim --ttft 0.2 --gap 0.05

Under /v1: chat/completions, completions, embeddings, responses, audio/speech, audio/transcriptions
(a form), models. At the root, as vLLM has them: rerank, tokenize. A model that it does not serve is
a 404. A request may say in its body how it is to fare:

    x_ttft, x_gap        seconds to the first token and between tokens, instead of the server's
    x_status, x_headers  this error status, with these headers, instead of a first token
    x_message            what the error says
    x_error_after        stream: an error event after so many tokens, and no [DONE]
    x_break_after        stream: the connection is reset after so many tokens
    x_odd                each token's text ends with one that looks like the framing of a stream
    x_times              the failures above only for the first so many attempts of a request
                         (by its x-request-id)

POST /release: what has begun waits no more, so that a test may have long ones and end them when it
has seen enough; POST /hurry: nor does what begins from now on. GET /stats: started, completed,
aborted (the client left), failed (as scripted), tokens, active, peak (most at once); `tries` by
request id; `requests`, the last 100 as they came.
"""

import argparse
import asyncio
import base64
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from email import message_from_bytes
from email.message import Message
from typing import Any

import orjson
import uvloop
from aiohttp import web

from tests import numbered
from tests.numbered import Generation

_KEPT_REQUESTS = 100
_LARGEST_BODY = 64 * 1024 * 1024
_BROKEN = "broken as scripted"

Answer = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]


class SimulatedUpstream:
    """Times in seconds; `natural`: tokens of a reply without a limit."""

    def __init__(
        self, models: list[str], *, ttft: float, gap: float, natural: int, owned_by: str
    ) -> None:
        self._models = models
        self._ttft = ttft
        self._gap = gap
        self._natural = natural
        self._owned_by = owned_by
        self._counts: Counter[str] = Counter()
        self._released = asyncio.Event()  # of the generations that begin now
        self._peak = 0  # most generations at once
        self._tries: Counter[str] = Counter()
        self._requests: deque[dict[str, Any]] = deque(maxlen=_KEPT_REQUESTS)

    def application(self) -> web.Application:
        application = web.Application(client_max_size=_LARGEST_BODY)
        application.router.add_get("/v1/models", self._list_models)
        application.router.add_get("/stats", self._stats)
        application.router.add_post("/release", self._release)
        application.router.add_post("/hurry", self._hurry)
        for path, answer in (
            ("/v1/chat/completions", self._generate),
            ("/v1/completions", self._generate),
            ("/v1/responses", self._respond),
            ("/v1/audio/transcriptions", self._transcribe),
            ("/v1/audio/speech", _speak),
            ("/v1/embeddings", _whole(numbered.embeddings)),
            ("/rerank", _whole(numbered.rerank)),
            ("/tokenize", _whole(numbered.tokenize)),
        ):
            application.router.add_post(path, self._counted(answer))
        return application

    async def _list_models(self, _: web.Request) -> web.Response:
        cards = [
            {
                "id": model,
                "object": "model",
                "created": numbered.CREATED,
                "owned_by": self._owned_by,
            }
            for model in self._models
        ]
        return _json({"object": "list", "data": cards})

    async def _stats(self, _: web.Request) -> web.Response:
        names = ("started", "completed", "aborted", "failed", "tokens")
        counts = {name: self._counts[name] for name in names}
        return _json(
            {
                **counts,
                "active": self._active(),
                "peak": self._peak,
                "tries": self._tries,
                "requests": list(self._requests),
            }
        )

    async def _release(self, _: web.Request) -> web.Response:
        self._released.set()
        self._released = asyncio.Event()
        return _json({})

    async def _hurry(self, _: web.Request) -> web.Response:
        self._released.set()
        return _json({})

    def _active(self) -> int:
        ended = sum(self._counts[name] for name in ("completed", "aborted", "failed"))
        return self._counts["started"] - ended

    def _counted(self, answer: Answer) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handler(request: web.Request) -> web.StreamResponse:
            raw = await request.read()
            self._note(request, raw)
            self._counts["started"] += 1
            self._peak = max(self._peak, self._active())
            end = "failed"
            try:
                response = await self._answer(answer, request, _parsed(request, raw))
                end = (
                    "completed" if response.status == 200 and _BROKEN not in response else "failed"
                )
                return response
            except (asyncio.CancelledError, ConnectionError):
                end = "aborted"
                # of a ConnectionError aiohttp would log a trace
                raise asyncio.CancelledError from None
            finally:
                self._counts[end] += 1

        return handler

    def _note(self, request: web.Request, raw: bytes) -> None:
        self._tries[request.headers.get("x-request-id", "")] += 1
        headers = {name.lower(): value for name, value in request.headers.items()}
        body = base64.b64encode(raw).decode()
        self._requests.append({"path": request.path_qs, "headers": headers, "body": body})

    async def _answer(
        self, answer: Answer, request: web.Request, body: dict[str, Any]
    ) -> web.StreamResponse:
        if self._fails(request, body) and (status := body.get("x_status")):
            await _rest(body.get("x_ttft", self._ttft), self._released)
            return _json(
                _error(body.get("x_message", f"scripted {status}")), status, body.get("x_headers")
            )
        if body.get("model") not in self._models:
            return _json(_error(f"The model `{body.get('model')}` does not exist."), 404)
        return await answer(request, body)

    def _fails(self, request: web.Request, body: dict[str, Any]) -> bool:
        times = body.get("x_times")
        return times is None or self._tries[request.headers.get("x-request-id", "")] <= times

    async def _generate(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        id_ = request.headers.get("x-request-id", str(self._counts["started"]))
        generation = Generation.of(id_, request.path, body, self._natural)
        ttft, gap = body.get("x_ttft", self._ttft), body.get("x_gap", self._gap)
        if body.get("stream") is True:
            return await self._stream(request, body, generation, ttft, gap)
        await _rest(ttft + gap * (generation.count - 1), self._released)
        self._counts["tokens"] += generation.count
        return _json(generation.whole())

    async def _stream(
        self,
        request: web.Request,
        body: dict[str, Any],
        generation: Generation,
        ttft: float,
        gap: float,
    ) -> web.StreamResponse:
        """The head at once, role and first token after `ttft`, each further token `gap` after the
        one before.
        """
        released = self._released
        response = await _event_stream(request)
        loop = asyncio.get_running_loop()
        due = loop.time() + ttft
        for index in range(generation.count):
            await _rest(due - loop.time(), released)
            if self._fails(request, body) and await _breaks_off(request, response, body, index):
                return response
            await response.write(
                (generation.opening() if index == 0 else b"") + generation.token(index)
            )
            self._counts["tokens"] += 1
            due += gap
        options = body.get("stream_options") or {}
        await response.write(generation.closing(options.get("include_usage") is True))
        await response.write_eof()
        return response

    async def _respond(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = await _event_stream(request)
        for event in numbered.response_events(body, body.get("max_output_tokens") or self._natural):
            await response.write(event)
        await response.write_eof()
        return response

    async def _transcribe(self, request: web.Request, form: dict[str, Any]) -> web.StreamResponse:
        heard = f"{form['file']} of {form['model']}"
        if form.get("stream") != "true":
            return _json(
                {
                    "text": heard,
                    "usage": {
                        "type": "tokens",
                        "input_tokens": 2,
                        "output_tokens": 3,
                        "total_tokens": 5,
                    },
                }
            )
        response = await _event_stream(request)
        for event in (
            {"type": "transcript.text.delta", "delta": heard},
            {"type": "transcript.text.done", "text": heard},
        ):
            await response.write(numbered.sse(event))
        await response.write_eof()
        return response


async def _rest(seconds: float, released: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(max(0, seconds)):
            await released.wait()


async def _speak(_: web.Request, body: dict[str, Any]) -> web.Response:
    return web.Response(body=numbered.sound(body["input"]), content_type="audio/mpeg")


def _parsed(request: web.Request, raw: bytes) -> dict[str, Any]:
    """JSON, or a form: the text of each part, of a file its name, length and digest."""
    if request.content_type != "multipart/form-data":
        found: dict[str, Any] = orjson.loads(raw)
        return found
    form = message_from_bytes(
        b"Content-Type: " + request.headers["content-type"].encode() + b"\r\n\r\n" + raw
    )
    parts = {
        str(part.get_param("name", header="content-disposition")): part
        for part in form.get_payload()
    }
    return {name: _said(part) for name, part in parts.items()}


def _said(part: Message) -> str:
    value = part.get_payload(decode=True)
    assert isinstance(value, bytes)
    return numbered.file(part.get_filename(), value) if part.get_filename() else value.decode()


def _whole(make: Callable[[dict[str, Any]], dict[str, Any]]) -> Answer:
    async def answer(_: web.Request, body: dict[str, Any]) -> web.Response:
        return _json(make(body))

    return answer


async def _event_stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    return response


async def _breaks_off(
    request: web.Request, response: web.StreamResponse, body: dict[str, Any], sent: int
) -> bool:
    """Ends the stream if the request said that it should get `sent` tokens and no more."""
    if sent == body.get("x_error_after"):
        await response.write(numbered.sse(_error("scripted error")))
    elif sent == body.get("x_break_after"):
        assert request.transport is not None
        request.transport.abort()
    else:
        return False
    response[_BROKEN] = True
    return True


def _error(message: str) -> dict[str, Any]:
    return {
        "error": {"message": message, "type": "upstream_error", "param": None, "code": "scripted"}
    }


def _json(document: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=orjson.dumps(document), status=status, headers=headers, content_type="application/json"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description="A simulated OpenAI-compatible upstream with numbered tokens."
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument(
        "--model", action="append", help="a model it serves; may be repeated (default: sim)"
    )
    parser.add_argument("--ttft", type=float, default=0.0, help="seconds to the first token")
    parser.add_argument("--gap", type=float, default=0.0, help="seconds between tokens")
    parser.add_argument("--natural", type=int, default=16, help="tokens of a reply without a limit")
    parser.add_argument("--owned-by", default="vllm", help="what its list of models says")
    given = parser.parse_args()
    upstream = SimulatedUpstream(
        given.model or ["sim"],
        ttft=given.ttft,
        gap=given.gap,
        natural=given.natural,
        owned_by=given.owned_by,
    )
    uvloop.run(serve(upstream, given.port))


async def serve(upstream: SimulatedUpstream, port: int) -> None:
    """Serves on 127.0.0.1 until cancelled. A client that leaves cancels what it asked for."""
    runner = web.AppRunner(upstream.application(), handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    try:
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    main()
