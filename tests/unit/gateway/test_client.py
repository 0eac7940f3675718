"""Where a request comes from: nothing that a client writes makes it local."""

import pytest

from app.gateway.client import client_of, is_local, is_trusted
from app.settings import load

DEFAULT = load({}).gateway.trusted_proxies
NOBODY = load({"TRUSTED_PROXIES": "192.0.2.1"}).gateway.trusted_proxies


def local(client: str | None, *head: tuple[str, str], trusted=DEFAULT) -> bool:
    headers = [(name.encode(), value.encode("latin-1")) for name, value in head]
    return is_local({"client": (client, 1) if client is not None else None, "headers": headers}, trusted)


@pytest.mark.parametrize("client", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_a_client_on_this_machine_is_local(client):
    assert local(client)


@pytest.mark.parametrize(
    "client", ["192.0.2.7", "10.0.0.1", "2001:db8::1", "::ffff:192.0.2.7", "localhost", "", None, "1" * 5000]
)
def test_one_elsewhere_or_nowhere_is_not(client):
    assert not local(client)


@pytest.mark.parametrize("client", ["192.0.2.7", "10.0.0.1"])
def test_one_elsewhere_cannot_say_that_it_is_local(client):
    assert not local(client, ("x-forwarded-for", "127.0.0.1"))
    assert not local(client, ("x-forwarded-for", "127.0.0.1"), trusted=load({"TRUSTED_PROXIES": client}).gateway.trusted_proxies)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (["127.0.0.1"], True),
        (["::1, 127.0.0.1"], True),
        (["192.0.2.7"], False),
        (["127.0.0.1, 192.0.2.7"], False),  # the last is whom the proxy saw
        (["192.0.2.7, 127.0.0.1"], False),
        (["127.0.0.1", "192.0.2.7"], False),
        (["192.0.2.7", "127.0.0.1"], False),
        ([""], False),
        (["unknown"], False),
        (["127.0.0.1:80"], False),
    ],
)
def test_behind_a_proxy_on_this_machine_the_last_hop_that_is_no_proxy_counts(said, expected):
    assert local("127.0.0.1", *(("x-forwarded-for", value) for value in said)) is expected


@pytest.mark.parametrize("name", ["forwarded", "x-real-ip"])
def test_a_proxy_that_names_its_client_in_other_words_has_one_that_is_elsewhere(name):
    assert not local("127.0.0.1", (name, "for=127.0.0.1"))


def test_a_program_on_this_machine_that_is_no_trusted_proxy_speaks_for_itself_only():
    assert local("127.0.0.1", ("x-forwarded-for", "192.0.2.7"), trusted=NOBODY)


def test_behind_two_trusted_hops_the_one_that_is_not_trusted_counts():
    only_one = load({"TRUSTED_PROXIES": "127.0.0.1"}).gateway.trusted_proxies
    assert local("127.0.0.1", ("x-forwarded-for", "192.0.2.7, 127.0.0.2, 127.0.0.1"), trusted=only_one)


def test_trusted_proxies_are_addresses_or_networks():
    trusted = load({"TRUSTED_PROXIES": "10.0.0.0/8,2001:db8::1"}).gateway.trusted_proxies
    assert [is_trusted(host, trusted) for host in ("10.1.2.3", "2001:db8::1", "11.0.0.1", "x", "")] == [
        True,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("peer", "said", "expected"),
    [
        ("192.0.2.7", [], "192.0.2.7"),
        ("192.0.2.7", ["203.0.113.9"], "192.0.2.7"),  # it is no proxy of ours
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["198.51.100.1, 203.0.113.9"], "203.0.113.9"),  # the proxy saw the last; the client wrote the rest
        ("10.0.0.1", ["198.51.100.1", "203.0.113.9 , 10.0.0.2"], "203.0.113.9"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["unknown"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9, a\nb"], "10.0.0.1"),
        ("10.0.0.1", ["2001:db8::7"], "2001:db8::7"),
        (None, ["203.0.113.9"], ""),
    ],
)
def test_the_client_is_whom_the_last_trusted_proxy_has_seen(peer, said, expected):
    trusted = load({"TRUSTED_PROXIES": "10.0.0.0/8"}).gateway.trusted_proxies
    head = [(b"x-forwarded-for", value.encode()) for value in said]
    assert client_of({"client": peer and (peer, 1), "headers": head}, trusted) == expected
