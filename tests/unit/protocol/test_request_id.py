"""Public ids are addresses: there and back, and nothing else is taken for one."""

import re
import string

from hypothesis import assume, example, given
from hypothesis import strategies as st

from app.protocol.request_id import PUBLIC_ID_PREFIX, Address, fingerprint_topic, new_id

ADDRESSES = st.builds(
    Address,
    id=st.binary(min_size=16, max_size=16).map(bytes.hex),
    topic=st.binary(min_size=4, max_size=4),
    partition=st.integers(0, 2**16 - 1),
    offset=st.integers(0, 2**48 - 1),
    reply_partition=st.integers(0, 2**16 - 1),
    reply_offset=st.integers(0, 2**48 - 1),
)
ANY_TEXT = st.text(st.characters() | st.characters(categories=["Cs"]))


@given(ADDRESSES)
def test_an_address_goes_there_and_back(address):
    text = address.encode()
    assert Address.decode(text) == address
    assert re.fullmatch(r"req_[A-Za-z0-9_-]{48}", text), "it goes into headers and URLs as it is"


def test_the_layout_stays_the_same_from_release_to_release():
    address = Address("00112233445566778899aabbccddeeff", b"\x01\x02\x03\x04", 5, 6, 7, 8)
    assert address.encode() == "req_ABEiM0RVZneImaq7zN3u_wECAwQABQAAAAAABgAHAAAAAAAI"


@given(ADDRESSES, st.integers(0, 51), st.sampled_from(string.printable) | st.characters())
@example(Address("fb" * 16, b"\xfb\xfb\xfb\xfb", 0, 0, 0, 0), 4, "+")
def test_a_tampered_id_is_none_of_ours_or_another_address(address, place, character):
    text = address.encode()
    tampered = text[:place] + character + text[place + 1 :]
    if tampered != text:
        assert Address.decode(tampered) != address


@given(ANY_TEXT | ANY_TEXT.map(PUBLIC_ID_PREFIX.__add__))
@example("")
@example(PUBLIC_ID_PREFIX)
@example(PUBLIC_ID_PREFIX + "\ud800" * 48)
@example(PUBLIC_ID_PREFIX + "A" * 48 + "\n")
@example(PUBLIC_ID_PREFIX + "A" * 48 + "====")
@example("A" * 48)
def test_any_other_text_is_none_of_ours(text):
    # hypothesis also tries the strings that stand in our code
    assume(not re.fullmatch(r"req_[A-Za-z0-9_-]{48}", text))
    assert Address.decode(text) is None


@given(
    st.text(string.ascii_letters + string.digits + "-_+/=", min_size=48, max_size=48).map(
        PUBLIC_ID_PREFIX.__add__
    )
)
def test_each_address_has_one_text(text):
    address = Address.decode(text)
    assert address is None or address.encode() == text


@given(ADDRESSES, st.integers(0, 51))
def test_a_cut_id_is_none_of_ours(address, length):
    assert Address.decode(address.encode()[:length]) is None


def test_new_ids_are_128_bits_and_differ():
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(re.fullmatch(r"[0-9a-f]{32}", text) for text in ids)


def test_fingerprints_tell_topics_apart():
    assert len(fingerprint_topic("llm.requests.a")) == 4
    assert (
        fingerprint_topic("llm.requests.a")
        == fingerprint_topic("llm.requests.a")
        != fingerprint_topic("llm.requests.b")
    )
