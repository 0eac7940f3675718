"""Keys: whose request it is, and that nobody else's key, or something like it, opens anything."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidApiKey
from app.gateway.auth import ANONYMOUS, Keys


def sent(text: str) -> str:
    """A header's value as the server has it: the bytes that were sent, each a character."""
    return text.encode().decode("latin-1")


def test_without_keys_everybody_is_the_same_tenant():
    assert {Keys([]).tenant(value) for value in ("", "Bearer a", "Basic b")} == {ANONYMOUS}


def test_each_key_is_a_tenant_of_its_own_and_stays_the_same():
    keys = Keys(["sk-one", "sk-two"])
    one, two = keys.tenant("Bearer sk-one"), keys.tenant("bearer  sk-two ")
    assert one != two
    assert Keys(["sk-two", "sk-one"]).tenant("BEARER sk-one") == one
    assert "sk-one" not in one


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", "sk-one", "Basic sk-one", "Bearer\tsk-one"])
def test_a_header_without_a_key_says_where_to_put_it(value):
    with pytest.raises(InvalidApiKey, match="Authorization: Bearer"):
        Keys(["sk-one"]).tenant(value)


@pytest.mark.parametrize("value", ["sk-On", "sk-onee", "sk one", "??????", "\xff"])
def test_a_wrong_key_is_refused_and_not_repeated(value):
    with pytest.raises(InvalidApiKey) as refused:
        Keys(["sk-one"]).tenant(f"Bearer {value}")
    assert value not in str(refused.value)


@given(st.text(st.characters(exclude_categories=["Cs", "Z", "Cc"]), min_size=1), st.text(min_size=1))
def test_a_key_of_any_characters_opens_and_nothing_else_does(key, other):
    keys = Keys([key])
    assert keys.tenant(f"Bearer {sent(key)}").startswith("key-")
    if other.encode("utf-8", "replace").strip() != key.encode():
        with pytest.raises(InvalidApiKey):
            keys.tenant("Bearer " + other.encode("utf-8", "replace").decode("latin-1"))


def test_question_marks_stand_for_no_other_character():
    with pytest.raises(InvalidApiKey):
        Keys(["\u043f\u0430\u0440\u043e\u043b\u044c"]).tenant("Bearer ??????")
