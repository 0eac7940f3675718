"""How our clients get in at the brokers: TLS and SASL. What does not work is said at the start, not
at the first connection.
"""

from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from app.config.bus_settings import BusSettings
from app.errors import SettingsError

# librdkafka's names; each is a setting of ours: sasl.username is KAFKA_SASL_USERNAME.
# https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md
_PROTOCOL, _MECHANISM = "security.protocol", "sasl.mechanism"
_FILES = ("ssl.ca.location", "ssl.certificate.location", "ssl.key.location")
_NAMES = (_PROTOCOL, _MECHANISM, "sasl.username", "sasl.password", *_FILES, "ssl.key.password")
_EXAMPLE = "for example KAFKA_SECURITY_PROTOCOL=SASL_SSL KAFKA_SASL_MECHANISM=SCRAM-SHA-512"


def security_properties(settings: BusSettings) -> dict[str, str]:
    """Those of our settings that are set, as librdkafka calls them."""
    found = {name: str(getattr(settings, name.replace(".", "_"))) for name in _NAMES}
    found[_MECHANISM] = found[_MECHANISM].upper()
    return {name: value for name, value in found.items() if value}


def check_security(settings: BusSettings) -> None:
    """Raises SettingsError, without a secret in it, for what no client can be made with. No
    connection is made.
    """
    ours = security_properties(settings)
    asked = {**ours, **settings.properties}
    if ours and _PROTOCOL not in asked:
        raise SettingsError(
            f"{_variable(_PROTOCOL)}: is not set, though {_variable(next(iter(ours)))} is; "
            f"{_EXAMPLE}"
        )
    if asked.get(_PROTOCOL, "").lower().startswith("sasl") and not {
        _MECHANISM,
        "sasl.mechanisms",
    } & set(asked):
        raise SettingsError(
            f"{_variable(_MECHANISM)}: is not set, and {asked[_PROTOCOL]} needs one; {_EXAMPLE}"
        )
    for name in _FILES:
        if name in ours and not Path(ours[name]).is_file():
            raise SettingsError(
                f"{_variable(name)}: there is no file {ours[name]!r}; a file in PEM "
                f"format is wanted"
            )
    _try(asked)


def _try(asked: dict[str, str]) -> None:
    """librdkafka knows best what fits together: it is given all of it, and no broker. It takes some
    milliseconds.
    """
    try:
        AdminClient({**asked, "bootstrap.servers": "", "log_level": 0})
    except KafkaException as error:
        why = error.args[0].str().removeprefix("Failed to create admin client: ")
        named = [_variable(name) for name in _NAMES if name in why] or ["KAFKA_PROPERTIES"]
        raise SettingsError(f"{', '.join(named)}: {why}") from None


def _variable(name: str) -> str:
    return f"KAFKA_{name.upper().replace('.', '_')}"
