"""What of a query string goes on to the upstream."""

import pytest

from app.gateway.query import without_keys


@pytest.mark.parametrize("query", ["", "api-version=2&x=a%20b", "beta", "a=1&a=2&&b=", "monkey=1&tokens=3&a=key"])
def test_a_query_without_keys_is_not_changed(query: str) -> None:
    assert without_keys(query) == query


@pytest.mark.parametrize("name", ["key", "api_key", "API-Key", "api%5Fkey", "access_token", "token", "sig", "+key", "password"])
def test_a_key_is_left_out_wherever_it_stands(name: str) -> None:
    for value in ("=sk-1", "=a%26b", "=", ""):
        secret = name + value
        assert without_keys(secret) == ""
        assert without_keys(f"a=1&{secret}&b=2&{secret}") == "a=1&b=2"
