"""How the header Idempotency-Key is read."""

from __future__ import annotations

import re

import pytest

from workers.http.idempotency_key import PATTERN, idempotency_key


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ('"8e03978e-40d5-43e8-bc93-6894a57f9324"', "8e03978e-40d5-43e8-bc93-6894a57f9324"),
        ("8e03978e-40d5-43e8-bc93-6894a57f9324", "8e03978e-40d5-43e8-bc93-6894a57f9324"),
        ('"a b;c, d"', "a b;c, d"),
        (r'"a\"b\\c"', r'a"b\c'),
        ("order:A-1/2~3+4=5@shop.x_y", "order:A-1/2~3+4=5@shop.x_y"),
        (' \t"a" ', "a"),
        ('"' + "x" * 200 + '"', "x" * 200),
    ],
)
def test_a_key_is_read(value: str, key: str) -> None:
    assert idempotency_key([value]) == key
    assert re.fullmatch(PATTERN.strip("^$"), value.strip())


@pytest.mark.parametrize(
    "value",
    [
        *("", " ", '""', '"', "a b", '"a', 'a"', '"a"b"', '"a";b', '"a", "b"', "a,b", "a;b", "(a)"),
        *('"é"', "é", '"a\tb"', '"a\x7f"', r'"a\b"', "x" * 201, '"' + "x" * 201 + '"'),
    ],
)
def test_what_cannot_be_read_is_no_key(value: str) -> None:
    assert idempotency_key([value]) is None
    assert not re.fullmatch(PATTERN.strip("^$"), value)


@pytest.mark.parametrize("values", [[], ["a", "a"], ['"a"', '"b"']])
def test_there_must_be_one(values: list[str]) -> None:
    assert idempotency_key(values) is None
