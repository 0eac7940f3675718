"""A Kafka broker with TLS: listeners for users with a password (SCRAM), for clients with a
certificate, and for the tests.
"""

import subprocess
from pathlib import Path

from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from tests.chaos.broker import Broker
from tests.nginx import free_port

# As docs/operating/kafka-security.md says.
_NEEDED = {
    ResourceType.TOPIC: "READ WRITE DESCRIBE DESCRIBE_CONFIGS CREATE",
    ResourceType.GROUP: "READ DESCRIBE ALTER_CONFIGS",
    ResourceType.BROKER: "DESCRIBE_CONFIGS",  # the cluster
}
# Of each role, what docs/operating/kafka-security.md says. {} is TOPIC_PREFIX; a name that ends in
# a star is a prefix.
ROLES: dict[str, dict[ResourceType, dict[str, str]]] = {
    "gateway": {
        ResourceType.TOPIC: {
            "{}.requests.*": "READ WRITE",
            "{}.replies": "READ WRITE",
            "{}.control": "WRITE",
            "{}.workers": "READ WRITE",
            "{}.models": "READ",
            "{}.dlq": "READ",
            "{}.*": "CREATE DESCRIBE_CONFIGS",
        },
        ResourceType.GROUP: {"{}.*": "DESCRIBE"},
        ResourceType.BROKER: {"kafka-cluster": "DESCRIBE_CONFIGS"},
    },
    "worker": {
        ResourceType.TOPIC: {
            "{}.requests.*": "READ",
            "{}.replies": "READ WRITE",
            "{}.control": "READ WRITE",
            "{}.workers": "READ WRITE",
            "{}.models": "WRITE",
            "{}.dlq": "WRITE",
            "{}.*": "CREATE DESCRIBE_CONFIGS",
        },
        ResourceType.GROUP: {"{}.*": "READ ALTER_CONFIGS"},
        ResourceType.BROKER: {"kafka-cluster": "DESCRIBE_CONFIGS"},
    },
}
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")


class Authority:
    """A certificate authority in a directory of its own; `certificate` is what its clients are to
    believe.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory
        self.certificate = self._made("ca")

    def signed(self, name: str) -> tuple[Path, Path]:
        """A certificate for 127.0.0.1 and its key."""
        key = self._directory / "ca.key"
        return self._made(
            name,
            "-CA",
            str(self.certificate),
            "-CAkey",
            str(key),
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ), self._directory / f"{name}.key"

    def _made(self, name: str, *more: str) -> Path:
        made = self._directory / f"{name}.pem"
        files = ("-keyout", str(made.with_suffix(".key")), "-out", str(made))
        command = ["openssl", "req", "-x509", *_NEW_KEY, "-subj", f"/CN={name}", *files, *more]
        subprocess.run(command, check=True, capture_output=True)
        return made


class SecureBroker(Broker):
    """`servers` is the tests' own listener, without TLS."""

    def __init__(self, directory: Path) -> None:
        self.authority = Authority(directory / "ca")
        certificate, key = self.authority.signed("broker")
        both = directory / "broker.pem"
        both.write_text(key.read_text() + certificate.read_text())
        self.for_passwords, self.for_certificates = (
            f"127.0.0.1:{free_port()}",
            f"127.0.0.1:{free_port()}",
        )
        super().__init__(
            directory,
            "ssl.keystore.type=PEM",
            f"ssl.keystore.location={both}",
            "ssl.truststore.type=PEM",
            f"ssl.truststore.location={self.authority.certificate}",
            "sasl.enabled.mechanisms=SCRAM-SHA-512",
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config="
            "org.apache.kafka.common.security.scram.ScramLoginModule required;",
            "listener.name.ssl.ssl.client.auth=required",
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users=User:ANONYMOUS",
            listeners=(f"SASL_SSL://{self.for_passwords}", f"SSL://{self.for_certificates}"),
        )

    def allow(self, principal: str, prefix: str) -> None:
        """What a deployment needs whose topics and groups begin so: User:name, User:CN=name."""
        self._create(
            [
                _binding(principal, prefix, kind, name)
                for kind, names in _NEEDED.items()
                for name in names.split()
            ]
        )

    def allow_role(self, principal: str, prefix: str, role: str) -> None:
        """Give a user what its role needs in the deployment with that prefix, and nothing else."""
        rules = [
            (kind, pattern.format(prefix), operation)
            for kind, patterns in ROLES[role].items()
            for pattern, operations in patterns.items()
            for operation in operations.split()
        ]
        self._create([_rule(principal, *rule) for rule in rules])

    def _create(self, bindings: list[AclBinding]) -> None:
        client = AdminClient({"bootstrap.servers": self.servers})
        for future in client.create_acls(bindings).values():
            future.result(30)

    def set_password(self, user: str, password: str) -> None:
        """Makes the user, or gives it another password."""
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        change = UserScramCredentialUpsertion(user, info, password.encode())
        client = AdminClient({"bootstrap.servers": self.servers})
        client.alter_user_scram_credentials([change])[user].result(30)


def _rule(principal: str, kind: ResourceType, name: str, operation: str) -> AclBinding:
    pattern = ResourcePatternType.PREFIXED if name.endswith("*") else ResourcePatternType.LITERAL
    return AclBinding(
        kind,
        name.removesuffix("*"),
        pattern,
        principal,
        "*",
        AclOperation[operation],
        AclPermissionType.ALLOW,
    )


def _binding(principal: str, prefix: str, kind: ResourceType, operation: str) -> AclBinding:
    whole = kind is ResourceType.BROKER
    name, pattern = (
        ("kafka-cluster", ResourcePatternType.LITERAL)
        if whole
        else (prefix, ResourcePatternType.PREFIXED)
    )
    return AclBinding(
        kind, name, pattern, principal, "*", AclOperation[operation], AclPermissionType.ALLOW
    )
