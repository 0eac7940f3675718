"""A deployment in which everything happens that it can be asked, and much that it cannot, with a
secret in each place for one.
"""

import base64
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx2
from confluent_kafka import Producer

from tests.acceptance.asking import CHAT, error_of
from tests.acceptance.leaks import Said, Secrets, records_of
from tests.acceptance.processes import until
from tests.acceptance.raw import connected, request
from tests.acceptance.reading import Clients, Reading
from tests.acceptance.services import Endpoint, Gateway, Upstream, Worker
from tests.acceptance.stack import SERVERS, Stack
from tests.nginx import free_port
from tests.numbered import tokens

# models: the one's upstream can continue a text, the other's cannot
GOES_ON, BREAKS_OFF = "sim", "other"
MOST = 20_000  # bytes of a body
LONG = 150  # tokens, of a stream that goes on until it is told to end
ELSEWHERE = {"x-forwarded-for": "192.0.2.7"}  # as a proxy on this machine says it


@dataclass
class Scene:
    stack: Stack
    clients: Clients
    hidden: Secrets
    said: Said
    upstream: Upstream
    gateway: Gateway
    front: Endpoint  # nginx, before the gateway
    redis: ExitStack  # closed: it is gone

    def chat(self, *, model: str = GOES_ON, **fields: Any) -> dict[str, Any]:
        """A body whose prompt is a secret of its own."""
        prompt = self.hidden.new(f"prompt {len(self.hidden.known)}", "prompt-")
        return {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": 4,
            **fields,
        }

    def ask(self, **fields: Any) -> Reading:
        return self.clients.post(self.front, self.chat(**fields))

    async def worker(self, model: str, **environment: str) -> tuple[Worker, int]:
        """With its admin port."""
        port = free_port()
        return await self.stack.worker(
            model, self.upstream, ADMIN_PORT=str(port), **environment
        ), port

    async def look_at_metrics(
        self, where: str, port: int, path: str = "/metrics", **headers: str
    ) -> None:
        async with httpx2.AsyncClient(verify=False) as http:
            response = await http.get(f"http://127.0.0.1:{port}{path}", headers=headers)
        assert response.status_code == 200, where
        self.said.add(f"{path} of {where}", response.content)


async def be_busy(scene: Scene) -> None:
    await lose_a_worker(scene)
    _, port = await scene.worker(BREAKS_OFF, OPENAI_CONTINUES="0")
    async with scene.front.http() as http:
        await ask_in_all_ways(scene, http)
        await ask_wrongly(scene, http)
        await try_to_get_in(scene, http)
    await meet_upstreams_that_fail(scene)
    await leave_early(scene)
    await send_what_is_no_http(scene)
    await put_a_bad_record(scene)
    await lose_redis(scene)
    await scene.look_at_metrics("the worker", port)


async def lose_a_worker(scene: Scene) -> None:
    """Killed while it streams; another goes on."""
    doomed, port = await scene.worker(GOES_ON)
    asked = scene.ask(stream=True, max_tokens=LONG, x_gap=1)
    await asked.tokens(3)
    await scene.look_at_metrics("the worker that is killed", port)
    _, port = await scene.worker(GOES_ON)
    doomed.kill()

    async def goes_on() -> bool:
        return (await scene.upstream.stats()).tries[asked.told.id] == 2

    await until(goes_on, "the stream to go on")
    await scene.upstream.release()
    assert (await asked.end()).text == tokens(LONG)
    await scene.look_at_metrics("the worker that takes over", port)


async def ask_in_all_ways(scene: Scene, http: httpx2.AsyncClient) -> None:
    for fields in (
        {},
        {"stream": True},
        {"stream": True, "stream_options": {"include_usage": True}},
    ):
        assert (await scene.ask(**fields).end()).status == 200
    text = scene.hidden.new("a text", "text-")
    for path, body in (
        ("completions", {"prompt": text}),
        ("embeddings", {"input": text}),
        ("rerank", {"query": text}),
    ):
        assert (
            await http.post(f"/v1/{path}", json={"model": GOES_ON, "documents": [text], **body})
        ).status_code == 200
    form = {
        "data": {"model": GOES_ON, "prompt": text},
        "files": {"file": (f"{text}.wav", text.encode())},
    }
    assert (await http.post("/v1/audio/transcriptions", **form)).status_code == 200
    query = f"?api_key={scene.hidden.new('a key in a query', 'sk-')}"
    assert (await http.post(CHAT + query, json=scene.chat())).status_code == 200
    assert (await http.get("/v1/models" + query)).status_code == 200
    again = {"idempotency-key": scene.hidden.new("an Idempotency-Key", "idem-")}
    body = scene.chat()
    answers = [
        await http.post(CHAT, json=each, headers=again) for each in (body, body, scene.chat())
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 409]


async def ask_wrongly(scene: Scene, http: httpx2.AsyncClient) -> None:
    said = scene.hidden.new("what is said wrongly", "wrong-")
    query = f"?secret={scene.hidden.new('what stands in a query')}"
    messages = [{"role": "user", "content": said}]
    bodies: dict[int, list[Any]] = {
        400: [
            said.encode(),
            b'{"model":"sim","messages":"%s' % said.encode(),
            {"model": GOES_ON, "messages": said},
        ],
        413: [{"model": GOES_ON, "messages": messages * (MOST // 50)}],
        404: [{"model": "nowhere", "messages": messages}],
    }
    bodies[400] += [
        {"model": GOES_ON, "messages": [{"role": {said: 1}}]},
        {"model": GOES_ON, "stream": said, "messages": messages},
    ]
    async with scene.gateway.http() as straight:
        for status, each in [(status, each) for status, many in bodies.items() for each in many]:
            content = {"content": each} if isinstance(each, bytes) else {"json": each}
            for way in (http, straight):
                refused = await way.post(CHAT + query, **content)
                assert (refused.status_code, bool(error_of(refused))) == (status, True)
    form = {"content-type": f"multipart/form-data; boundary={said}"}
    assert (await http.post(CHAT, content=said.encode(), headers=form)).status_code == 415
    assert (
        await http.post(CHAT, json=scene.chat(), headers={"x-request-timeout": said})
    ).status_code == 400
    assert (
        await http.post(CHAT, json=scene.chat(), headers={"traceparent": said, "cookie": said})
    ).status_code == 200


async def try_to_get_in(scene: Scene, http: httpx2.AsyncClient) -> None:
    hidden = scene.hidden
    wrong, limited = hidden.new("a wrong key", "sk-"), hidden.known["a limited key"]
    basic = base64.b64encode(f"user:{hidden.new('a wrong password')}".encode()).decode()
    for scheme in (
        f"Bearer {wrong}",
        wrong,
        f"Basic {basic}",
        f"Token {hidden.known['a key']}",
        f"Bearer{limited}",
    ):
        refused = await http.post(CHAT, json=scene.chat(), headers={"authorization": scheme})
        assert (refused.status_code, error_of(refused)["code"]) == (401, "invalid_api_key")
    bearer = {"authorization": f"Bearer {limited}"}
    found = {
        (await http.post(CHAT, json=scene.chat(), headers=bearer)).status_code for _ in range(3)
    }
    assert found == {200, 429}  # a minute may end in between, but not two
    async with scene.gateway.http() as straight:
        stranger = await straight.get(
            "/admin/overview", headers={**ELSEWHERE, "authorization": f"Bearer {wrong}"}
        )
        assert stranger.status_code == 404


async def meet_upstreams_that_fail(scene: Scene) -> None:
    echoed = scene.hidden.new("what an upstream says of an error", "echoed-")
    for status in (400, 429, 500):
        told = await scene.ask(x_status=status, x_message=f"wrong: {echoed}").end()
        assert (told.status, echoed in told.error["message"]) == (status, True)
    # the operator reads the reason in the log
    refused = await scene.ask(x_status=401, x_message="wrong token").end()
    assert (refused.status, refused.error["code"]) == (502, "upstream_auth_failed")
    for model in (GOES_ON, BREAKS_OFF):
        for fault in ("x_break_after", "x_error_after"):
            told = await scene.ask(
                model=model, stream=True, max_tokens=9, x_times=1, **{fault: 5}
            ).end()
            assert told.pieces[:5] == [f" tok{number}" for number in range(5)]


async def leave_early(scene: Scene) -> None:
    """One cancels by the request's id, one leaves a stream, one a whole reply, one its own body."""
    cancelled, streamed = (scene.ask(stream=True, max_tokens=LONG, x_gap=1) for _ in range(2))
    whole = scene.ask(x_ttft=60)
    for reading in (cancelled, streamed):
        await reading.tokens(2)
    await until(lambda: scene.upstream.has(active=3), "all three to run")
    await scene.clients.post(
        scene.front, {}, f"/v1/requests/{cancelled.told.public_id}/cancel"
    ).end()
    assert (await cancelled.end()).error["code"] == "request_cancelled"
    await streamed.leave()
    await whole.leave()
    await scene.upstream.idle()
    text = scene.hidden.new("half a body", "half-").encode()
    for port in (scene.front.port, scene.gateway.port):
        async with connected(port) as connection:
            await connection.send(
                request(body=text, length=5000, Authorization=f"Bearer {scene.gateway.key}")
            )


async def send_what_is_no_http(scene: Scene) -> None:
    text = scene.hidden.new("what is no HTTP", "raw-").encode()
    for port in (scene.front.port, scene.gateway.port):
        for data in (
            text + b"\r\n\r\n",
            b"GET /?%s HTTP/1.1\r\nno-header %s\r\n\r\n" % (text, text),
        ):
            async with connected(port) as connection:
                await connection.send(data)
                assert (await connection.answer()).status == 400


async def put_a_bad_record(scene: Scene) -> None:
    """On a request topic, by somebody who is not ours."""
    text = scene.hidden.new("an undecodable record", "junk-").encode()
    producer = Producer({"bootstrap.servers": SERVERS})
    for headers in ([("v", b"1")], [("v", b"1"), ("id", b"\xff")], []):
        producer.produce(f"{scene.stack.prefix}.requests.{GOES_ON}", text, None, 0, headers=headers)
    assert producer.flush(10) == 0

    async def put_aside() -> bool:
        letters = (await records_of(SERVERS, f"{scene.stack.prefix}.dlq"))[
            f"{scene.stack.prefix}.dlq"
        ]
        return len({letter.key() for letter in letters}) == 3

    await until(put_aside, "three dead letters")


async def lose_redis(scene: Scene) -> None:
    """Whose address, in the settings, has its password."""
    scene.redis.close()
    limited = {"authorization": f"Bearer {scene.hidden.known['a limited key']}"}
    again = {"idempotency-key": scene.hidden.new("an Idempotency-Key that nobody keeps", "idem-")}
    async with scene.front.http() as http:
        for headers in (limited, again):
            assert (await http.post(CHAT, json=scene.chat(), headers=headers)).status_code in (
                200,
                503,
            )
    await until(
        lambda: "limits cannot be counted" in scene.gateway.log,
        "the gateway to say that Redis is away",
    )
