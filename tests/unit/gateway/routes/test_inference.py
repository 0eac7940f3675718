"""POST /v1/<anything>: what the access line says of a reply."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from app.config.settings import load_settings
from app.errors import BadRequest, BusUnavailable, ClientGone, UnknownUrl
from app.gateway.access.authentication import Authenticator
from app.gateway.accounting.access_log import final_reply_fields
from app.gateway.gateway import Gateway
from app.gateway.routes.inference import InferenceEndpoint
from app.openai_api.endpoints import ENDPOINTS
from app.protocol.heartbeats import ModelRegistration, WorkerHeartbeat
from app.protocol.records import ReplyRecord
from app.protocol.reply_state import CANCELLED, COMPLETED, FINAL
from tests.unit.gateway.house import CARD, house
from tests.unit.gateway.wire import Client
from tests.unit.scene import MODEL, REQUESTS, TOPICS, body, until

NOTES = (
    ("worker", "w"),
    ("queue-ms", "1.5"),
    ("upstream-ms", "20.0"),
    ("usage", '{"completion_tokens":2}'),
)


def test_a_final_records_notes_are_members_of_the_access_line():
    line = {"outcome": COMPLETED, "queue_ms": 1.5, "upstream_ms": 20.0, "completion_tokens": 2}
    assert (
        final_reply_fields(ReplyRecord("i", "w", FINAL, 0, outcome=COMPLETED, notes=NOTES)) == line
    )
    assert final_reply_fields(ReplyRecord("i", "g", FINAL, 0, outcome=COMPLETED)) == {
        "outcome": COMPLETED
    }


def test_what_a_later_version_notes_beside_them_is_left_alone():
    known = ReplyRecord("i", "w", FINAL, 0, outcome=COMPLETED, notes=NOTES)
    later = ReplyRecord(
        "i",
        "w",
        FINAL,
        0,
        outcome=COMPLETED,
        notes=(*NOTES, ("engine", "vllm"), ("cached-ms", "3")),
    )
    assert final_reply_fields(later) == final_reply_fields(known)


class Asking:
    """One request at a gateway, and its access line."""

    def __init__(self, gateway: Gateway, *, stream: bool, sent: bytes = b"", **asked: Any) -> None:
        self.line: dict[str, Any] = {}
        self.client = Client()
        self._body = [{"type": "http.request", "body": sent or body(stream=stream)}]
        self._left = asyncio.Event()
        keys = Authenticator(load_settings({}).gateway)
        scope: dict[str, Any] = {
            "type": "http",
            "method": "POST",
            "path": "/v1/chat/completions",
            "client": ("127.0.0.1", 1),
        }
        scope["headers"] = [(b"host", b"localhost")]
        scope.update(asked)
        scope["state"] = {
            "line": self.line,
            "began": time.monotonic(),
            "tenant": "t",
            "caller": keys.authenticate(scope),
        }
        self._task = asyncio.create_task(
            InferenceEndpoint(gateway)(scope, self._receive, self.client.send)
        )

    async def _receive(self) -> Any:
        if self._body:
            return self._body.pop()
        await self._left.wait()
        return {"type": "http.disconnect"}

    @property
    def unread(self) -> bool:
        """Whether the gateway has not read the request's body."""
        return bool(self._body)

    async def leaves(self) -> dict[str, Any]:
        self._left.set()
        with pytest.raises(ClientGone):
            await self._task
        return self.line

    async def ends(self) -> dict[str, Any]:
        await self._task
        return self.line


async def test_a_client_that_leaves_while_it_waits_has_neither_worker_nor_times() -> None:
    async with house() as at:
        asking = Asking(await at.gateway(), stream=True)
        await at.arrived(1)
        line = await asking.leaves()
    assert (line["attempts"], line["worker"], "ttft_ms" in line) == (0, "", False)


async def test_one_that_leaves_in_the_middle_of_a_stream_has_what_was_known_by_then() -> None:
    async with house() as at:
        asking = Asking(await at.gateway(), stream=True)
        await at.begin(await at.arrived(1))
        await until(lambda: asking.client.got)
        line = await asking.leaves()
    assert (line["attempts"], line["worker"]) == (1, "w")
    assert line["ttft_ms"] > 0


async def test_a_client_that_leaves_early_is_logged_with_the_worker_that_runs_its_request() -> None:
    async with house() as at:
        gateway = await at.gateway()
        asking = Asking(gateway, stream=False)
        running = ((await at.arrived(1)).id,)
        gateway.model_registry.heard(
            WorkerHeartbeat(
                "w", MODEL, REQUESTS, "llm.m", TOPICS.replies, time.time(), 1.0, running=running
            )
        )
        line = await asking.leaves()
    assert (line["attempts"], line["worker"]) == (0, "w")


async def test_what_a_gateway_has_cancelled_names_the_worker_that_had_begun_it() -> None:
    async with house() as at:
        gateway = await at.gateway()
        asking = Asking(gateway, stream=True)
        await at.begin(await at.arrived(1))
        await until(lambda: asking.client.got)
        [call] = gateway.pending_requests()
        gateway.dispatcher.end_request(call, CANCELLED)
        line = await asking.ends()
    assert (line["outcome"], line["worker"]) == (CANCELLED, "w")


async def test_a_model_in_the_query_is_refused_and_nothing_is_written() -> None:
    async with house() as at:
        asking = Asking(await at.gateway(), stream=False, query_string=b"a=1&Model=other")
        with pytest.raises(BadRequest) as refused:
            await asking.ends()
        assert refused.value.param == "model"
        assert at.requests == []


NOT_SERVED = (
    "/load_lora_adapter",
    "/unload_lora_adapter",
    "/organization/projects",
    "/realtime/client_secrets",
    "/Files",
    "/files",
    "/Chat/Completions",
    "/chat/completions/",
    "//chat/completions",
    "/chat/../load_lora_adapter",
    "/responses/resp_1/cancel",
    "/messages/batches",
    "/MODELS",
    "/",
    "/x\r\ny",
)


@pytest.mark.parametrize("path", NOT_SERVED)
async def test_a_path_that_no_table_has_reaches_no_model_and_its_body_is_not_read(
    path: str,
) -> None:
    async with house() as at:
        asking = Asking(await at.gateway(), stream=False, path=f"/v1{path}")
        with pytest.raises(UnknownUrl):
            await asking.ends()
        assert asking.unread
        assert at.requests == []


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_a_path_of_the_table_reaches_the_model(path: str) -> None:
    async with house() as at:
        text = {"prompt": "a", "input": "a"}
        asking = Asking(
            await at.gateway(), stream=True, path=f"/v1{path}", sent=body(stream=True, **text)
        )
        assert (await at.arrived(1)).path == path
        await asking.leaves()


async def test_a_path_that_a_models_card_adds_is_that_models_alone() -> None:
    async with house() as at:
        gateway = await at.gateway()
        await at.announce(replace(CARD, paths=("/own/path",)))
        await at.announce(ModelRegistration("other", "llm.requests.other", "llm.other"))
        await until(lambda: gateway.model_registry.find("other") is not None)
        asking = Asking(gateway, stream=True, path="/v1/own/path")
        assert (await at.arrived(1)).path == "/own/path"
        await asking.leaves()
        for path, model in (("/own/path", "other"), ("/own/path/x", MODEL), ("/Own/path", MODEL)):
            with pytest.raises(UnknownUrl):
                await Asking(
                    gateway, stream=False, path=f"/v1{path}", sent=body(model=model)
                ).ends()
        assert len(at.requests) == 1


async def test_while_the_models_are_not_known_an_added_path_is_not_said_to_be_unknown() -> None:
    async with house() as at:
        gateway = await at.gateway()
        gateway.admission.unready_reason = "starting"
        with pytest.raises(BusUnavailable):
            await Asking(gateway, stream=False, path="/v1/own/path").ends()
