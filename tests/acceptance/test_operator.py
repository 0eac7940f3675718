"""The operator's views over HTTP: who sees them at the gateway's own port, and what is at
ADMIN_PORT.
"""

import asyncio
from contextlib import AsyncExitStack, suppress

import httpx2
import pytest
from confluent_kafka import Producer

from app.operator_port import MAX_CONNECTIONS
from tests.acceptance.asking import CHAT, chat, error_of
from tests.acceptance.processes import until
from tests.acceptance.services import Gateway
from tests.acceptance.stack import SERVERS, Stack
from tests.nginx import free_port

VIEWS = ["/metrics", "/admin/overview"]
# at ADMIN_PORT
NOTHING = ["/", "/v1/models", "/v1/chat/completions", "/admin", "/docs", "/ui/../main.py", "/%00"]
CLIENT, OPERATOR = "sk-of-a-client-0123", "op-of-an-operator-0123"
SECRET = "what nobody but the model is told"
ELSEWHERE = {"x-forwarded-for": "203.0.113.7"}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def asked(port: int, path: str, **headers: str) -> httpx2.Response:
    async with httpx2.AsyncClient(verify=False, headers=headers) as http:
        return await http.get(f"http://127.0.0.1:{port}{path}")


async def test_the_views_are_for_this_machine_and_for_operators_keys(memory_stack: Stack) -> None:
    gateway = await memory_stack.gateway(API_KEYS=CLIENT, OPERATOR_KEYS=OPERATOR)
    for path in VIEWS:
        assert (await asked(gateway.port, path)).status_code == 200
        assert (await asked(gateway.port, path, **ELSEWHERE, **bearer(OPERATOR))).status_code == 200
        for headers in (
            ELSEWHERE,
            {**ELSEWHERE, **bearer(CLIENT)},
            {"origin": "https://elsewhere.example"},
        ):
            refused = await asked(gateway.port, path, **headers)
            assert (refused.status_code, error_of(refused)["code"]) == (404, "unknown_url")
    # it opens no model
    assert (await asked(gateway.port, "/v1/models", **bearer(OPERATOR))).status_code == 401
    assert (await asked(gateway.port, "/admin/else")).status_code == 404


async def test_a_page_that_may_call_the_api_may_not_look_at_the_operators_view(
    memory_stack: Stack,
) -> None:
    gateway = await memory_stack.gateway(CORS_ORIGINS="*")
    origin = {"origin": "https://elsewhere.example"}
    assert (await asked(gateway.port, "/v1/models", **origin)).status_code == 200
    assert (await asked(gateway.port, "/admin/overview", **origin)).status_code == 404


async def test_the_view_shows_a_request_and_none_of_its_secrets(memory_stack: Stack) -> None:
    upstream = await memory_stack.upstream()
    gateway = await memory_stack.gateway(
        **{
            "FIRST_OPENAI_MODEL_NAME": "sim",
            "FIRST_OPENAI_HOST": upstream.url,
            "FIRST_OPENAI_TOKEN": "sk-upstream-secret",
        },
        **{"API_KEYS": CLIENT, "OPERATOR_KEYS": OPERATOR, "HEARTBEAT_SECONDS": "0.2"},
    )
    await until(lambda: _serves(gateway.port), "the model's worker")
    body = chat(messages=[{"role": "user", "content": SECRET}], max_tokens=4)
    async with gateway.http() as http:
        reply = await http.post(CHAT, json=body, headers={"x-client-request-id": SECRET})
    assert reply.status_code == 200
    found = await asked(gateway.port, "/admin/overview")
    assert found.headers["cache-control"] == "no-store"
    (recent,) = found.json()["recent"]
    assert (recent["id"], recent["model"]) == (reply.headers["x-request-id"], "sim")
    assert (recent["status"], recent["outcome"], recent["completion_tokens"]) == (
        200,
        "completed",
        4,
    )
    assert 0 <= recent["queue_ms"] <= recent["total_ms"]
    for secret in (
        SECRET,
        CLIENT,
        OPERATOR,
        "sk-upstream-secret",
        reply.json()["choices"][0]["message"]["content"],
    ):
        assert secret not in found.text
    assert "/admin/overview" not in gateway.log  # it is asked every two seconds


async def _serves(port: int) -> bool:
    models = (await asked(port, "/admin/overview")).json()["models"]
    return bool(models and models[0]["workers"] and models[0]["workers"][0]["ready"])


async def test_the_page_is_anybodys(memory_stack: Stack) -> None:
    gateway = await memory_stack.gateway(API_KEYS=CLIENT)
    page = await asked(gateway.port, "/ui", **ELSEWHERE)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.headers["x-content-type-options"] == "nosniff"
    assert CLIENT not in page.text


async def test_the_admin_port_has_the_page_and_the_view_and_the_gateways_own_has_no_view(
    memory_stack: Stack,
) -> None:
    port = free_port()
    gateway = await memory_stack.gateway(
        ADMIN_PORT=str(port), OPERATOR_KEYS=OPERATOR, API_KEYS=CLIENT
    )
    for path in VIEWS:
        assert (await asked(port, path)).status_code == 200
        assert (await asked(gateway.port, path, **bearer(OPERATOR))).status_code == 404
    view = await asked(port, "/admin/overview")
    assert [model["id"] for model in view.json()["models"]] == ["echo"]
    for foreign in ({"origin": "https://elsewhere.example"}, {"host": f"elsewhere.example:{port}"}):
        for path in (*VIEWS, "/ui"):
            assert (await asked(port, path, **foreign)).status_code == 403
    page = await asked(port, "/ui")
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.content == (await asked(gateway.port, "/ui")).content
    again = await asked(
        port, "/ui/main.js", **{"if-none-match": (await asked(port, "/ui/main.js")).headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")


async def test_the_admin_port_has_nothing_else(memory_stack: Stack) -> None:
    port = free_port()
    await memory_stack.gateway(ADMIN_PORT=str(port))
    found = {path: (await asked(port, path)).status_code for path in NOTHING}
    assert found == dict.fromkeys(NOTHING, 404)


async def test_on_an_address_of_the_network_the_admin_port_is_asked_by_the_names_that_are_listed(
    memory_stack: Stack,
) -> None:
    port = free_port()
    await memory_stack.gateway(ADMIN_PORT=str(port), ADMIN_HOST="0.0.0.0", ADMIN_HOSTS="main")
    assert (await asked(port, "/metrics", host=f"main:{port}")).status_code == 200
    refused = await asked(port, "/metrics", host=f"elsewhere.example:{port}")
    assert (refused.status_code, "ADMIN_HOSTS" in refused.text) == (403, True)
    assert (await asked(port, "/metrics", origin="https://elsewhere.example")).status_code == 403


async def test_connections_beyond_the_admin_ports_limit_are_closed_and_the_others_are_served(
    memory_stack: Stack,
) -> None:
    port = free_port()
    await memory_stack.gateway(ADMIN_PORT=str(port))
    async with AsyncExitStack() as stack:
        for _ in range(MAX_CONNECTIONS):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(writer.close)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        stack.callback(writer.close)
        assert await asyncio.wait_for(reader.read(), 20) == b""

    async def served() -> bool:
        with suppress(httpx2.TransportError):
            return (await asked(port, "/metrics")).status_code == 200
        return False

    await until(served, "a connection that is free again")


@pytest.mark.servers
async def test_on_kafka_dead_letters_are_counted_as_they_come(stack: Stack) -> None:
    upstream = await stack.upstream()
    gateway = await stack.gateway()
    await stack.worker("sim", upstream)
    assert (await asked(gateway.port, "/admin/overview")).json()["dead_letters"] == {
        "count": 0,
        "last": [],
        "error": None,
    }
    producer = Producer({"bootstrap.servers": SERVERS})
    for number in range(3):
        producer.produce(
            f"{stack.prefix}.requests.sim",
            SECRET.encode(),
            b"key",
            number,
            headers=[("model", b"sim")],
        )
    assert producer.flush(10) == 0

    async def three() -> bool:
        """A worker that fell out of its group may have written one of them again."""
        found = await asked(gateway.port, "/admin/overview")
        assert SECRET not in found.text
        letters = found.json()["dead_letters"]
        told = {(letter["model"], letter["offset"]) for letter in letters["last"]}
        return letters["count"] >= 3 and told == {("sim", 0), ("sim", 1), ("sim", 2)}

    await until(three, "the dead letters")


@pytest.mark.servers
async def test_each_gateway_shows_the_requests_of_all(stack: Stack) -> None:
    upstream = await stack.upstream()
    await stack.worker("sim", upstream)
    gateways = [await stack.gateway() for _ in range(2)]
    ended = await accepted_by(gateways[0])
    runs = await accepted_by(gateways[1], x_ttft=60)

    async def shown(gateway: Gateway) -> bool:
        found = (await asked(gateway.port, "/admin/overview")).json()
        finished = {one["id"]: one["outcome"] for one in found["recent"]}
        return finished == {ended: "completed"} and {
            one["id"]: one["state"] for one in found["running"]
        } == {runs: "running"}

    for gateway in gateways:
        await until(lambda one=gateway: shown(one), f"{gateway.name} to show both")
    await upstream.release()


async def accepted_by(gateway: Gateway, **fields: float) -> str:
    async with gateway.http() as http:
        response = await http.post(CHAT, json=chat(**fields), headers={"prefer": "respond-async"})
    assert response.status_code == 202
    return str(response.headers["x-request-id"])
