"""A Kafka user for gateways and one for workers, each with the rights of its role alone."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from tests import numbered
from tests.acceptance.asking import HELLO, text_of
from tests.acceptance.stack import Stack
from tests.secure_broker import ROLES, SecureBroker

pytestmark = [pytest.mark.servers, pytest.mark.brokers]

PASSWORD = "of-both"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SecureBroker]:
    broker = SecureBroker(tmp_path_factory.mktemp("roles"))
    try:
        await broker.start()
        for role in ROLES:
            broker.set_password(role, PASSWORD)
        yield broker
    finally:
        broker.clear_away()


@pytest.fixture
async def stack(broker: SecureBroker) -> AsyncIterator[Stack]:
    async with Stack("roles", BOOTSTRAP_SERVERS=broker.servers) as stack:
        for role in ROLES:
            broker.allow_role(f"User:{role}", stack.prefix, role)
        yield stack


def as_role(broker: SecureBroker, role: str) -> dict[str, str]:
    return {
        "BOOTSTRAP_SERVERS": broker.for_passwords,
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
        "KAFKA_SASL_USERNAME": role,
        "KAFKA_SASL_PASSWORD": PASSWORD,
        "KAFKA_SSL_CA_LOCATION": str(broker.authority.certificate),
    }


def refusal(broker: SecureBroker, role: str, topic: str) -> int | None:
    """The code of the error that a role gets for a record of its own in a topic; None if it is
    taken.
    """
    errors: list[KafkaError | None] = []

    def on_delivery(error: KafkaError | None, _message: Message) -> None:
        errors.append(error)

    secured = as_role(broker, role)
    names = {
        name.removeprefix("KAFKA_").lower().replace("_", "."): value
        for name, value in secured.items()
    }
    producer = Producer(names | {"message.timeout.ms": 20000})
    producer.produce(topic, b"x", on_delivery=on_delivery)
    try:
        producer.flush(30)
    except KafkaException as error:
        return int(error.args[0].code())
    (error,) = errors
    return None if error is None else int(error.code())


async def test_a_role_serves_with_its_own_rights_and_has_no_others(
    stack: Stack, broker: SecureBroker
) -> None:
    worker = await stack.worker("sim", await stack.upstream(), **as_role(broker, "worker"))
    gateway = await stack.gateway(**as_role(broker, "gateway"))
    assert "group protocol consumer" in worker.log
    assert "keeps the broker's session timeout" not in worker.log
    async with gateway.openai() as sdk:
        reply = await sdk.chat.completions.with_raw_response.create(
            model="sim", messages=HELLO, max_tokens=5
        )
        stream = await sdk.chat.completions.create(
            model="sim", messages=HELLO, max_tokens=5, stream=True
        )
        assert await text_of(stream) == numbered.tokens(5)
        again = await sdk.get(f"/requests/{reply.headers['x-request-id']}/result", cast_to=object)
        assert "choices" in str(again)
    for process in stack.processes:
        assert "authorization failed" not in process.log.lower()
    assert (
        refusal(broker, "worker", f"{stack.prefix}.requests.sim")
        == KafkaError.TOPIC_AUTHORIZATION_FAILED
    )
    assert (
        refusal(broker, "gateway", f"{stack.prefix}.models")
        == KafkaError.TOPIC_AUTHORIZATION_FAILED
    )
    assert (
        refusal(broker, "gateway", f"{stack.prefix}.dlq") == KafkaError.TOPIC_AUTHORIZATION_FAILED
    )
