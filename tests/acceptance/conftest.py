"""Deployments for the acceptance tests, and the processes' logs in the report of a test that
fails.
"""

from collections.abc import AsyncIterator, Generator
from dataclasses import dataclass

import httpx2
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from tests.acceptance.processes import until
from tests.acceptance.raw import exchange, request
from tests.acceptance.services import Gateway, Upstream
from tests.acceptance.stack import Stack

MOST = 100_000  # bytes that a body may have at the gateway of `echo`
BUSES = ["memory", pytest.param("kafka", marks=pytest.mark.servers)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: "pytest.CallInfo[None]"
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        report.sections += [
            (f"last lines of {name}", tail) for stack in Stack.open for name, tail in stack.logs()
        ]
    return report


@pytest.fixture
async def stack() -> AsyncIterator[Stack]:
    """An empty deployment on Kafka, for one test."""
    async with Stack() as stack:
        yield stack


@pytest.fixture
async def memory_stack() -> AsyncIterator[Stack]:
    """An empty deployment on the memory bus, for one test."""
    async with Stack(bus="memory") as stack:
        yield stack


@dataclass(frozen=True)
class Site:
    """A gateway in front of one simulated upstream, by four models; see `site`."""

    gateway: Gateway
    # one more, which sends a stream's head before anything is known of it; a slow machine would
    # make any so
    early: Gateway
    upstream: Upstream


@pytest_asyncio.fixture(params=BUSES, scope="session", loop_scope="session")
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    """The same deployment on each bus, shared by all tests that change nothing in it."""
    async with Stack("site", bus=request.param, UPSTREAM_TOKEN="sk-upstream") as stack:
        upstream = await stack.upstream("sim", "other")
        stack.models(
            {"id": "sim", "host": upstream.url},
            {"id": "other", "host": upstream.url, "token": "UPSTREAM_TOKEN"},
            {
                "id": "team/sim-1.5",
                "host": upstream.url,
                "upstream_model": "sim",
                "aliases": ["nickname", "nick/name"],
            },
        )
        if request.param == "kafka":
            await stack.worker()
        gateway = await stack.gateway(MAX_BODY_BYTES="1000000")
        early = await stack.gateway(SSE_HEAD_AFTER_SECONDS="0.3", SSE_KEEPALIVE_SECONDS="0.2")
        yield Site(gateway, early, upstream)


@pytest.fixture
async def sdk(site: Site) -> AsyncIterator[AsyncOpenAI]:
    """The SDK, pointed at the site."""
    async with site.gateway.openai() as client:
        yield client


@pytest.fixture
async def http(site: Site) -> AsyncIterator[httpx2.AsyncClient]:
    """A plain HTTP client, pointed at the site."""
    async with site.gateway.http() as client:
        yield client


@pytest.fixture
async def early(site: Site) -> AsyncIterator[httpx2.AsyncClient]:
    """The same, pointed at the gateway with the early head."""
    async with site.early.http() as client:
        yield client


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def _echo_gateway() -> AsyncIterator[Gateway]:
    async with Stack("echo", bus="memory") as stack:
        # some say they are elsewhere
        gateway = await stack.gateway(MAX_BODY_BYTES=str(MOST), ALLOW_ANONYMOUS="1")
        await until(lambda: lists_echo(gateway), "the echo model")
        yield gateway


async def lists_echo(gateway: Gateway) -> bool:
    return "echo" in await gateway.models()


@pytest.fixture
async def echo(_echo_gateway: Gateway) -> AsyncIterator[Gateway]:
    """A gateway on the memory bus with the built-in model; whatever a test does to it, it serves
    afterwards.
    """
    yield _echo_gateway
    assert (await exchange(_echo_gateway.port, request())).status == 200
    assert "Traceback" not in _echo_gateway.log
