"""Who may ask without a key: peer x forwarding headers x Host x Origin x settings, for the API, the
operator's views and port.
"""

from itertools import product

import pytest

from app.config.settings import load_settings
from app.errors import AnonymousRefused
from app.gateway.access.authentication import Authenticator
from app.gateway.access.operator_access import OperatorAccess
from app.locality import AccessPolicy, is_local_client

LOOPBACK, MAPPED, ELSEWHERE = "127.0.0.1", "::ffff:127.0.0.1", "192.0.2.7"
FOR_LOCAL, FOR_OTHER = ("x-forwarded-for", "127.0.0.1"), ("x-forwarded-for", "203.0.113.9")
TRUSTED = load_settings({}).gateway.trusted_proxies
NOT_LOOPBACK = load_settings({"TRUSTED_PROXIES": "10.0.0.0/8"}).gateway.trusted_proxies

# What shows that somebody else is behind the peer; none of them is believed but a trusted proxy's
# X-Forwarded-For.
PROXY_WORDS = [
    ("forwarded", "for=127.0.0.1"),
    ("x-forwarded-host", "localhost"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-port", "443"),
    ("x-real-ip", "127.0.0.1"),
    ("via", "1.1 proxy"),
    ("cf-connecting-ip", "127.0.0.1"),
    ("true-client-ip", "127.0.0.1"),
    ("x-client-ip", "127.0.0.1"),
    ("x-cluster-client-ip", "127.0.0.1"),
    ("fastly-client-ip", "127.0.0.1"),
]
PEERS = [LOOPBACK, "::1", MAPPED, ELSEWHERE, "10.0.0.1", ""]
HEADS = [
    (),
    (FOR_LOCAL,),
    (FOR_OTHER,),
    *((word,) for word in PROXY_WORDS),
    (FOR_LOCAL, ("x-forwarded-proto", "https")),
]
OWN_HOSTS = ["", "localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000", "192.0.2.1:8000"]
FOREIGN_HOSTS = ["evil.example", "evil.example:8000", "localhost.evil.example", "[::1", "a b"]
OWN_ORIGINS = ["", "http://localhost:8000"]
FOREIGN_ORIGINS = ["https://evil.example", "null", "http://localhost:3000"]


def raw(
    *head: tuple[str, str], host: str = "localhost:8000", origin: str = ""
) -> list[tuple[bytes, bytes]]:
    pairs = [*head, ("host", host)] if host else [*head]
    return [
        (name.encode(), value.encode("latin-1"))
        for name, value in (*pairs, *([("origin", origin)] if origin else []))
    ]


def scope(peer: str, headers: list[tuple[bytes, bytes]]) -> dict[str, object]:
    return {"type": "http", "client": (peer, 1) if peer else None, "headers": headers}


def expected_local(peer: str, head: tuple[tuple[str, str], ...], trusts_loopback: bool) -> bool:
    if peer not in (LOOPBACK, "::1", MAPPED):
        return False
    if not head:
        return True
    return trusts_loopback and FOR_LOCAL in head


@pytest.mark.parametrize(("peer", "head"), list(product(PEERS, HEADS)))
def test_a_client_is_local_if_it_is_or_a_trusted_proxy_here_says_so(
    peer: str, head: tuple[tuple[str, str], ...]
) -> None:
    headers = raw(*head)
    assert is_local_client(peer, headers, TRUSTED) == expected_local(peer, head, True)
    assert is_local_client(peer, headers, NOT_LOOPBACK) == expected_local(peer, head, False)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (["127.0.0.1"], True),
        (["::1, 127.0.0.1"], True),
        (["127.0.0.1, 192.0.2.7"], False),
        (["192.0.2.7, 127.0.0.1"], False),
        (["192.0.2.7", "127.0.0.1"], False),
        ([""], False),
        (["unknown"], False),
        (["127.0.0.1:80"], False),
    ],
)
def test_behind_a_proxy_on_this_machine_the_last_hop_that_is_no_proxy_counts(
    said: list[str], expected: bool
) -> None:
    assert (
        is_local_client(LOOPBACK, raw(*(("x-forwarded-for", value) for value in said)), TRUSTED)
        is expected
    )
    assert not is_local_client(
        LOOPBACK,
        raw(*(("x-forwarded-for", value) for value in said), ("x-real-ip", "127.0.0.1")),
        TRUSTED,
    )


def admitted(environment: dict[str, str], peer: str, headers: list[tuple[bytes, bytes]]) -> bool:
    try:
        Authenticator(load_settings(environment).gateway).authenticate(scope(peer, headers))
    except AnonymousRefused:
        return False
    return True


def operator_admitted(
    environment: dict[str, str], peer: str, headers: list[tuple[bytes, bytes]]
) -> bool:
    return OperatorAccess(load_settings(environment).gateway).is_allowed(scope(peer, headers))


def port_admitted(
    environment: dict[str, str], peer: str, headers: list[tuple[bytes, bytes]]
) -> bool:
    policy = AccessPolicy(
        is_local_only=False, allowed_hosts=load_settings(environment).admin.allowed_hosts
    )
    return not policy.find_refusal_reason(peer, headers)


# face, its settings, whether other machines may ask, a name that is listed, an origin that is
# listed
FACES = [
    (admitted, {}, False, "", ""),
    (admitted, {"ALLOW_ANONYMOUS": "1"}, True, "", ""),
    (admitted, {"ALLOWED_HOSTS": "gpu-box.example"}, False, "gpu-box.example", ""),
    (
        admitted,
        {"ALLOW_ANONYMOUS": "1", "ALLOWED_HOSTS": "gpu-box.example"},
        True,
        "gpu-box.example",
        "",
    ),
    (admitted, {"CORS_ORIGINS": "https://app.example"}, False, "", "https://app.example"),
    (operator_admitted, {}, False, "", ""),
    (
        operator_admitted,
        {"ALLOW_ANONYMOUS": "1", "CORS_ORIGINS": "*", "ALLOWED_HOSTS": "gpu-box.example"},
        False,
        "",
        "",
    ),
    (port_admitted, {"ADMIN_HOST": "0.0.0.0"}, True, "", ""),
    (port_admitted, {"ADMIN_HOSTS": "gpu-box.example"}, True, "gpu-box.example", ""),
]


@pytest.mark.parametrize(("face", "environment", "is_for_others", "name", "page"), FACES)
@pytest.mark.parametrize("peer", PEERS)
def test_each_face_asks_the_same_questions(
    face, environment, is_for_others, name, page, peer
) -> None:
    reaches = is_for_others or peer in (LOOPBACK, "::1", MAPPED)
    for host, origin in product(
        [*OWN_HOSTS, *FOREIGN_HOSTS, "gpu-box.example:8000"],
        [*OWN_ORIGINS, *FOREIGN_ORIGINS, "https://app.example"],
    ):
        own_host = host in OWN_HOSTS or (bool(name) and host.startswith(name))
        own_page = not origin or origin == page or origin == f"http://{host}"
        found = face(environment, peer, raw(host=host, origin=origin))
        assert found == (reaches and own_host and own_page), (host, origin)


@pytest.mark.parametrize(
    "environment",
    [
        {"API_KEYS": "sk-of-a-client-0123"},
        {"API_KEYS": "sk-of-a-client-0123", "ALLOW_ANONYMOUS": "1"},
    ],
)
def test_with_keys_the_key_alone_decides(environment: dict[str, str]) -> None:
    keys = Authenticator(load_settings(environment).gateway)
    headers = [
        *raw(host="evil.example", origin="https://evil.example"),
        (b"authorization", b"Bearer sk-of-a-client-0123"),
    ]
    assert keys.authenticate(scope(ELSEWHERE, headers)).tenant.startswith("key-")


def test_a_host_that_cannot_be_one_is_not_kept() -> None:
    assert not admitted({}, LOOPBACK, raw(host="a" * 5000))
