"""The address of a client, as far as it can be believed; whether it is local is in
tests/unit/test_locality.py.
"""

import pytest

from app.config.settings import load_settings
from app.gateway.http.client_address import get_client_address
from app.locality import is_trusted_proxy


def test_trusted_proxies_are_addresses_or_networks():
    trusted = load_settings({"TRUSTED_PROXIES": "10.0.0.0/8,2001:db8::1"}).gateway.trusted_proxies
    assert [
        is_trusted_proxy(host, trusted) for host in ("10.1.2.3", "2001:db8::1", "11.0.0.1", "x", "")
    ] == [
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
        # the proxy saw the last; the client wrote the rest
        ("10.0.0.1", ["198.51.100.1, 203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["198.51.100.1", "203.0.113.9 , 10.0.0.2"], "203.0.113.9"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["unknown"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9, a\nb"], "10.0.0.1"),
        ("10.0.0.1", ["2001:db8::7"], "2001:db8::7"),
        (None, ["203.0.113.9"], ""),
    ],
)
def test_the_client_is_whom_the_last_trusted_proxy_has_seen(peer, said, expected):
    trusted = load_settings({"TRUSTED_PROXIES": "10.0.0.0/8"}).gateway.trusted_proxies
    head = [(b"x-forwarded-for", value.encode()) for value in said]
    assert get_client_address({"client": peer and (peer, 1), "headers": head}, trusted) == expected
