"""Kafka with TLS, and with passwords (SCRAM) or certificates: who gets in, and what those are told
who do not.
"""

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests import numbered
from tests.acceptance.asking import HELLO, text_of
from tests.acceptance.processes import get_json, until
from tests.acceptance.services import Gateway, Process
from tests.acceptance.stack import ROOT, Stack
from tests.secure_broker import Authority, SecureBroker

pytestmark = [pytest.mark.servers, pytest.mark.brokers]

PREFIX = "secure"  # of topics and groups
USER, PASSWORD, WRONG = "gateway", "right; and = odd", "one-that-is-not-it"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SecureBroker]:
    broker = SecureBroker(tmp_path_factory.mktemp("secure"))
    try:
        await broker.start()
        broker.set_password(USER, PASSWORD)
        for principal in (f"User:{USER}", "User:CN=client", "User:other"):
            broker.allow(principal, PREFIX)
        yield broker
    finally:
        broker.clear_away()


@pytest.fixture
async def stack(broker: SecureBroker) -> AsyncIterator[Stack]:
    """An empty deployment on that broker; its processes are told how to get in one by one."""
    async with Stack(PREFIX, BOOTSTRAP_SERVERS=broker.servers) as stack:
        yield stack


def by_password(broker: SecureBroker, password: str = PASSWORD) -> dict[str, str]:
    return {
        "BOOTSTRAP_SERVERS": broker.for_passwords,
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
        "KAFKA_SASL_USERNAME": USER,
        "KAFKA_SASL_PASSWORD": password,
        "KAFKA_SSL_CA_LOCATION": str(broker.authority.certificate),
    }


def by_certificate(broker: SecureBroker) -> dict[str, str]:
    certificate, key = broker.authority.signed("client")
    return {
        "BOOTSTRAP_SERVERS": broker.for_certificates,
        "KAFKA_SECURITY_PROTOCOL": "SSL",
        "KAFKA_SSL_CA_LOCATION": str(broker.authority.certificate),
        "KAFKA_SSL_CERTIFICATE_LOCATION": str(certificate),
        "KAFKA_SSL_KEY_LOCATION": str(key),
    }


def check_no_secret(stack: Stack) -> None:
    for process in stack.processes:
        assert PASSWORD not in process.log
        assert WRONG not in process.log


async def says(gateway: Gateway, words: str) -> bool:
    """Whether /readyz names it as what is missing."""
    status, document = await get_json(f"{gateway.root}/readyz")
    return status == 503 and words in str(document)


async def check_told(stack: Stack, words: str, *processes: Process) -> None:
    """Each has said it in its log, no more than now and then, and nothing that it should not."""
    for process in processes:
        await until(lambda one=process: words in one.log, f"{process.name} to say {words!r}")
        assert process.running
        assert process.log.count(words) < 20
    check_no_secret(stack)


@pytest.mark.parametrize("way_in", [by_password, by_certificate])
async def test_a_chat_goes_through_a_broker_with_tls(
    stack: Stack, broker: SecureBroker, way_in
) -> None:
    secured = way_in(broker)
    worker = await stack.worker("sim", await stack.upstream(), **secured)
    gateway = await stack.gateway(**secured)
    assert "group protocol consumer" in worker.log  # so it may ask for the brokers' configuration
    assert "keeps the broker's session timeout" not in worker.log
    async with gateway.openai() as sdk:
        reply = await sdk.chat.completions.create(model="sim", messages=HELLO, max_tokens=5)
        assert reply.choices[0].message.content == numbered.tokens(5)
        stream = await sdk.chat.completions.create(
            model="sim", messages=HELLO, max_tokens=5, stream=True
        )
        assert await text_of(stream) == numbered.tokens(5)
    check_no_secret(stack)


async def test_a_wrong_password_is_said_and_once_it_is_right_all_goes_on(
    stack: Stack, broker: SecureBroker
) -> None:
    secured = {**by_password(broker, WRONG), "KAFKA_SASL_USERNAME": "other"}
    broker.set_password("other", PASSWORD)
    worker = await stack.worker("sim", await stack.upstream(), ready=False, **secured)
    gateway = await stack.gateway(ready=False, **secured)
    await check_told(stack, "invalid credentials", worker, gateway)
    await until(lambda: says(gateway, "invalid credentials"), "/readyz to say it")
    broker.set_password("other", WRONG)
    await worker.ready()
    await gateway.ready()
    async with gateway.openai() as sdk:
        await sdk.chat.completions.create(model="sim", messages=HELLO, max_tokens=1)


async def test_a_broker_of_an_unknown_authority_is_not_believed(
    stack: Stack, broker: SecureBroker, tmp_path: Path
) -> None:
    secured = {
        **by_password(broker),
        "KAFKA_SSL_CA_LOCATION": str(Authority(tmp_path / "another").certificate),
    }
    worker = await stack.worker("sim", await stack.upstream(), ready=False, **secured)
    gateway = await stack.gateway(ready=False, **secured)
    await check_told(stack, "certificate verify failed", worker, gateway)
    await until(lambda: says(gateway, "certificate verify failed"), "/readyz to say it")


@pytest.mark.parametrize(
    "command", [["app.agent"], ["uvicorn", "app.main:application"], ["app.admin", "models", "list"]]
)
def test_an_authority_that_is_not_there_stops_the_start_with_a_line(
    broker: SecureBroker, command: list[str], tmp_path: Path
) -> None:
    environment = {
        **by_password(broker),
        "KAFKA_SSL_CA_LOCATION": "missing.pem",
        "OPENAI_MODEL_NAME": "echo",
    }
    ended = subprocess.run(
        [sys.executable, "-m", *command],
        env={**environment, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert "KAFKA_SSL_CA_LOCATION: there is no file 'missing.pem'" in line
