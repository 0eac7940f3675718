"""Settings of the bus."""

from dataclasses import dataclass

from app.config import parsers as parse
from app.config.variables import var
from app.protocol.names import validate_topic_name, validate_topic_prefix


@dataclass(frozen=True)
class BusSettings:
    kind: str = var(
        "BUS",
        "",
        "kafka or memory; empty: kafka if BOOTSTRAP_SERVERS is set",
        parse.one_of("", "kafka", "memory"),
    )
    servers: str = var("BOOTSTRAP_SERVERS", "", "Kafka's brokers, host:port with commas between")
    prefix: str = var(
        "TOPIC_PREFIX", "llm", "how the names of our topics and groups begin", validate_topic_prefix
    )
    reply_topic: str = var(
        "KAFKA_RESPONSE_TOPIC",
        "",
        "the reply topic of the deployment; empty: <prefix>.replies",
        validate_topic_name,
    )
    request_partitions: int = var(
        "KAFKA_REQUEST_PARTITIONS",
        "16",
        "partitions of a model's topic, at its making",
        parse.positive_int,
    )
    reply_partitions: int = var(
        "KAFKA_RESPONSE_PARTITIONS",
        "8",
        "partitions of the reply topic, at its making",
        parse.positive_int,
    )
    replication_factor: int = var(
        "KAFKA_REPLICATION", "-1", "copies of each topic we make; -1: the broker's default", int
    )
    group_protocol: str = var(
        "KAFKA_GROUP_PROTOCOL",
        "auto",
        "auto, consumer (KIP-848) or classic",
        parse.one_of("auto", "consumer", "classic"),
    )
    security_protocol: str = var(
        *(
            "KAFKA_SECURITY_PROTOCOL",
            "",
            "how to reach the brokers: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL",
        ),
        parse.one_of("", "plaintext", "ssl", "sasl_plaintext", "sasl_ssl"),
    )
    sasl_mechanism: str = var(
        *("KAFKA_SASL_MECHANISM", "", "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"),
        parse.one_of("", "plain", "scram-sha-256", "scram-sha-512"),
    )
    sasl_username: str = var("KAFKA_SASL_USERNAME", "", "who we are at the brokers")
    sasl_password: str = var("KAFKA_SASL_PASSWORD", "", "the password for it", secret=True)
    ssl_ca_location: str = var(
        "KAFKA_SSL_CA_LOCATION",
        "",
        "authorities of the brokers' certificates (PEM); empty: the system's",
    )
    ssl_certificate_location: str = var(
        "KAFKA_SSL_CERTIFICATE_LOCATION", "", "our own certificate (PEM), where one is wanted"
    )
    ssl_key_location: str = var("KAFKA_SSL_KEY_LOCATION", "", "its private key (PEM)")
    ssl_key_password: str = var(
        "KAFKA_SSL_KEY_PASSWORD", "", "the password of that key", secret=True
    )
    properties: dict[str, str] = var(
        "KAFKA_PROPERTIES",
        "",
        "any other librdkafka property, name=value;name=value",
        parse.properties,
        secret=True,
    )
    admit_timeout_seconds: float = var(
        "BUS_ADMIT_TIMEOUT_SECONDS",
        "3",
        "longest wait for a broker's acknowledgement",
        parse.positive_seconds,
    )
    max_body_bytes: int = var(
        "MAX_BODY_BYTES", "16777216", "largest request body, bytes", parse.positive_int
    )
    max_queue_depth: int = var(
        "MAX_QUEUE_DEPTH",
        "1000",
        "waiting (not running) requests a model may have",
        parse.positive_int,
    )
    request_timeout_seconds: float = var(
        "REQUEST_TIMEOUT_SECONDS", "540", "deadline of a request", parse.positive_seconds
    )

    @property
    def is_kafka(self) -> bool:
        return self.kind == "kafka" or (self.kind == "" and bool(self.servers))

    @property
    def messaging_system(self) -> str:
        return "kafka" if self.is_kafka else "memory"
