"""JSON from strangers is read in one way or not at all."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import PayloadError
from orchestrator.strict_json import read_json_object


def test_an_object_is_read() -> None:
    body = '{"a": [1, 2.5, null, true, "é\\u00e9"], "b": {}}'.encode()

    assert read_json_object(body) == {"a": [1, 2.5, None, True, "éé"], "b": {}}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "no JSON"),
        (b"{} {}", "no JSON"),
        (b"[1]", "no JSON object"),
        (b"7", "no JSON object"),
        (b'{"a": "\xff"}', "UTF-8"),
        (b'{"a": 1, "a": 1}', "twice"),
        (b'{"a": {"b": 1, "b": 2}}', "twice"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "NaN"),
        (b'{"a": 1e999}', "NaN"),
        (b'{"a": "\\u0000"}', "NUL"),
        (b'{"\\u0000": 1}', "NUL"),
        (b'{"a": "\\ud83d"}', "surrogate"),
        (b'{"a": 9223372036854775808}', "64 bits"),
        (b'{"a": ' + b"9" * 5000 + b"}", "no JSON"),
        (b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}", "deeper"),
        (b'{"a": ' + b"[" * 100_000, "too deep"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_two_readers_would_read_in_two_ways_is_refused(body: bytes, words: str) -> None:
    with pytest.raises(PayloadError, match=words):
        read_json_object(body)


@given(st.binary(max_size=100))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    with suppress(PayloadError):
        assert isinstance(read_json_object(body), dict)
