"""A gateway behind a published proxy: open on loopback, refused beyond it without a key."""

import pytest

from app.config.settings import load_settings
from app.errors import SettingsError
from app.gateway.access.published_host import apply_published_host

KEYS = [{"API_KEYS": "sk-0a1b2c3d4e5f67"}, {"API_KEYS_FILE": "keys/keys.yaml"}]


def is_open(published: str, **environment: str) -> bool:
    settings = apply_published_host(load_settings({"PUBLISHED_HOST": published, **environment}))
    return settings.gateway.allow_anonymous


@pytest.mark.parametrize("published", ["127.0.0.1", "127.0.0.2", "[::1]", "localhost"])
def test_on_loopback_clients_need_no_key(published: str) -> None:
    assert is_open(published)


@pytest.mark.parametrize("published", ["0.0.0.0", "192.0.2.7", "[::]", "gateway.example.com"])
def test_beyond_loopback_it_does_not_start_without_a_key(published: str) -> None:
    with pytest.raises(SettingsError, match=r"^GATEWAY_HOST: .*API_KEYS_FILE"):
        is_open(published)


@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize("published", ["127.0.0.1", "0.0.0.0"])
def test_with_keys_it_starts_anywhere_and_asks_for_them(
    published: str, keys: dict[str, str]
) -> None:
    assert not is_open(published, **keys)


def test_beyond_loopback_it_serves_everybody_only_if_that_is_set_by_hand() -> None:
    assert is_open("0.0.0.0", ALLOW_ANONYMOUS="1")


def test_without_a_published_address_nothing_changes() -> None:
    assert not is_open("")
