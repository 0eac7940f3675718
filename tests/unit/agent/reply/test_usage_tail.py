"""What the end of a reply says of itself."""

import pytest

from app.agent.reply.usage_tail import usage, usage_note


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        (
            b'{"usage": {"prompt_tokens": 1, "a": {"b": {"c": 2}}}}',
            {"prompt_tokens": 1, "a": {"b": {"c": 2}}},
        ),
        (b'{"usage":{"note":"a}\\"{"},"id":1}', {"note": 'a}"{'}),
        (
            b'{"usage":{"prompt_tokens":1},"logprobs":[' + b"0," * 5000 + b"0]}",
            {"prompt_tokens": 1},
        ),
        (b'{"usage":{"prompt_tokens":1}}\n{"usage":null}', {"prompt_tokens": 1}),
        (b'{"usage":{"prompt_tokens":3,"tps":NaN}}', {}),
        (b'{"usage":{"prompt_tokens":Infinity}}', {}),
        (b'{"usage": {nonsense}}', {}),
        (b'{"usage": [1]}', {}),
        (b'{"usage":{"a":' + b"[" * 4000, {}),
        (b'{"usage":{"a":1', {}),
        (b'{"text":"\\"usage\\":{\\"a\\":1}"}', {}),
        (b'"usage":' * 100_000, {}),
        (b"", {}),
    ],
)
def test_the_last_usage_that_is_one_is_found(reply, found):
    assert usage(reply) == found


@pytest.mark.parametrize(
    ("used", "note"),
    [
        ({}, ""),
        (
            {"prompt_tokens": 9_007_199_254_740_991, "cost": 0.00012345678901234567},
            '{"prompt_tokens":9007199254740991,"cost":0.00012345678901234567}',
        ),
        ({"prompt_tokens": 10**16}, ""),
        ({"prompt_tokens": 2**64}, ""),
        ({"a": {"b": -(2**64)}}, ""),
        ({"a": "\ud800"}, ""),
    ],
)
def test_a_usage_is_noted_where_its_numbers_can_be(used, note):
    assert usage_note(used) == note
