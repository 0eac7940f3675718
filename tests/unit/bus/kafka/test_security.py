"""Security settings that no Kafka client can be made with stop the start, by name and without their
secrets.
"""

from pathlib import Path

import pytest

from app.bus.factory import make_bus
from app.bus.kafka.client import properties
from app.config.settings import load_settings
from app.errors import SettingsError

PASSWORD = "hunter-3; and = odd"
SCRAM = {
    "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
    "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
    "KAFKA_SASL_USERNAME": "gateway",
    "KAFKA_SASL_PASSWORD": PASSWORD,
}


def refused(**environment: str) -> str:
    with pytest.raises(SettingsError) as error:
        make_bus(load_settings({"BOOTSTRAP_SERVERS": "nowhere:9093", **environment}).bus)
    assert PASSWORD not in str(error.value)
    return str(error.value)


def test_each_setting_reaches_every_client_under_librdkafkas_name() -> None:
    found = properties(load_settings({**SCRAM, "KAFKA_SSL_CA_LOCATION": "ca.pem"}).bus)
    assert found["security.protocol"] == "sasl_ssl"
    assert found["sasl.mechanism"] == "SCRAM-SHA-512"
    assert (found["sasl.username"], found["sasl.password"]) == ("gateway", PASSWORD)
    assert found["ssl.ca.location"] == "ca.pem"
    assert "ssl.key.password" not in found


def test_what_stands_in_the_properties_wins() -> None:
    found = properties(load_settings({**SCRAM, "KAFKA_PROPERTIES": "sasl.username=another"}).bus)
    assert found["sasl.username"] == "another"


def test_what_fits_together_is_taken() -> None:
    make_bus(load_settings({"BOOTSTRAP_SERVERS": "nowhere:9093", **SCRAM}).bus)


def test_secrets_are_in_no_repr() -> None:
    settings = load_settings({**SCRAM, "KAFKA_SSL_KEY_PASSWORD": "of-the-key"})
    assert PASSWORD not in repr(settings)
    assert "of-the-key" not in repr(settings)


def test_a_user_without_a_protocol_is_refused_for_it_would_go_unencrypted() -> None:
    assert refused(KAFKA_SASL_USERNAME="gateway").startswith(
        "KAFKA_SECURITY_PROTOCOL: is not set, though KAFKA_SASL_USERNAME is"
    )


def test_a_protocol_with_users_needs_a_mechanism() -> None:
    assert refused(KAFKA_SECURITY_PROTOCOL="SASL_SSL").startswith(
        "KAFKA_SASL_MECHANISM: is not set"
    )


@pytest.mark.parametrize("missing", ["KAFKA_SASL_USERNAME", "KAFKA_SASL_PASSWORD"])
def test_a_mechanism_needs_a_user_and_a_password(missing: str) -> None:
    assert missing in refused(**{**SCRAM, missing: ""})


@pytest.mark.parametrize(
    "name", ["KAFKA_SSL_CA_LOCATION", "KAFKA_SSL_CERTIFICATE_LOCATION", "KAFKA_SSL_KEY_LOCATION"]
)
def test_a_file_that_is_not_there_is_named(name: str) -> None:
    assert refused(**{**SCRAM, name: "missing.pem"}).startswith(
        f"{name}: there is no file 'missing.pem'"
    )


def test_a_file_that_holds_no_certificate_is_named(tmp_path: Path) -> None:
    odd = tmp_path / "odd.pem"
    odd.write_text("no certificate")
    assert refused(**SCRAM, KAFKA_SSL_CA_LOCATION=str(odd)).startswith("KAFKA_SSL_CA_LOCATION: ")


def test_a_property_that_librdkafka_does_not_know_is_named() -> None:
    assert 'KAFKA_PROPERTIES: No such configuration property: "sasl.usrname"' in refused(
        KAFKA_PROPERTIES="sasl.usrname=x"
    )
