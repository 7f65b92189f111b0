"""The hash of a payload: one for every way to say the same, in every process and version."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from orchestrator.errors import PayloadError
from orchestrator.idempotency import hash_payload
from orchestrator.payloads import fingerprint, to_json

ROOT = Path(__file__).parents[2]

TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)


class Colour(Enum):
    RED = "red"


class Line(BaseModel):
    sku: str
    count: int = 1


class Order(BaseModel):
    id: str
    total: Decimal
    lines: list[Line] = []


@dataclass(frozen=True)
class Address:
    street: str
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Customer:
    name: str
    address: Address = field(default_factory=lambda: Address("Main St"))


def reordered(value: Any) -> Any:
    """The same value with the keys of every mapping the other way round."""
    match value:
        case dict():
            return {name: reordered(value[name]) for name in reversed(value)}
        case list():
            return [reordered(each) for each in value]
        case _:
            return value


@given(JSON)
def test_the_order_of_keys_makes_no_difference(value: Any) -> None:
    assert hash_payload(reordered(value)) == hash_payload(value)


@given(JSON)
def test_what_went_through_json_is_the_same(value: Any) -> None:
    assert hash_payload(json.loads(json.dumps(value))) == hash_payload(value)


@given(JSON, JSON)
def test_two_hashes_are_equal_only_for_what_json_writes_alike(one: Any, other: Any) -> None:
    written = [json.dumps(each, sort_keys=True) for each in (one, other)]
    assert (hash_payload(one) == hash_payload(other)) == (written[0] == written[1])


@given(st.dictionaries(TEXT, JSON))
def test_it_is_the_fingerprint_of_a_start(value: dict[str, Any]) -> None:
    assert hash_payload(value) == fingerprint(value)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=4), st.integers(0, 6))
def test_a_decimal_is_its_value_however_it_is_written(value: Decimal, zeros: int) -> None:
    rescaled = Decimal(f"{value:f}" + "0" * zeros)
    assert hash_payload({"total": rescaled}) == hash_payload({"total": value})


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_is_the_number_that_reads_back_as_itself(value: float) -> None:
    assert hash_payload(float(repr(value))) == hash_payload(value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Order(id="1", total=Decimal("1.50")), {"id": "1", "total": Decimal("1.5")}),
        (Order(id="1", total=Decimal(1)), {"id": "1", "total": "1"}),
        ([Line(sku="a")], [{"sku": "a"}]),
        (Customer("Ann"), {"name": "Ann", "address": {"street": "Main St", "tags": []}}),
        ({"to": Customer("Ann")}, {"to": Customer("Ann", Address("Main St"))}),
        ({"x": Colour.RED}, {"x": "red"}),
        ((1, 2), [1, 2]),
        ({"on": date(2026, 11, 24)}, {"on": "2026-11-24"}),
        ({"at": datetime(2026, 11, 24, tzinfo=UTC)}, {"at": "2026-11-24T00:00:00+00:00"}),
        ({"id": UUID(int=7)}, {"id": str(UUID(int=7))}),
        (Decimal("1E+3"), Decimal(1000)),
        (Decimal("-0.0"), Decimal("-0")),
    ],
)
def test_two_ways_to_say_the_same(one: Any, other: Any) -> None:
    assert hash_payload(one) == hash_payload(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, "1"),
        (1, 1.0),
        (1, True),
        (0, None),
        (0.0, -0.0),
        (0.1 + 0.2, 0.3),
        (Decimal("0.1"), 0.1),
        ([], {}),
        ([1, 2], [2, 1]),
        ({"a": None}, {}),
        ("a", " a"),
        ("a", "A"),
        (Order(id="1", total=Decimal(1)), Order(id="1", total=Decimal(1), lines=[])),
        ({"a": {"b": 1}}, {"a": 1, "b": 1}),
        ({"ab": "c"}, {"a": "bc"}),
    ],
)
def test_two_different_payloads(one: Any, other: Any) -> None:
    assert hash_payload(one) != hash_payload(other)


@pytest.mark.parametrize("text", ["é", "Å", "ﬁ", "한"])
def test_two_spellings_in_unicode_are_two_payloads(text: str) -> None:
    """A conflict is safe, and merging is a guess: compatibility forms may differ in meaning."""
    forms = {unicodedata.normalize(form, text) for form in ("NFC", "NFD", "NFKC", "NFKD")}
    assert len({hash_payload({"name": each}) for each in forms}) == len(forms) > 1


def test_a_megabyte_has_a_hash_of_its_own() -> None:
    lines = [
        {"sku": f"{number:06}", "name": "Stühle", "price": "12.50"} for number in range(20_000)
    ]
    other = [*lines[:-1], {**lines[-1], "price": "12.51"}]
    assert len(json.dumps(lines)) > 1_000_000
    assert hash_payload(reordered(lines)) == hash_payload(lines) != hash_payload(other)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def endless() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


class Endless(BaseModel):
    inner: Any = None


def endless_model() -> Any:
    value = Endless()
    value.inner = value
    return value


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        Decimal("NaN"),
        b"bytes",
        {1, 2},
        {1: "a"},
        object(),
        "a\x00",
        "\ud800",
        2**64,
        Customer,
        nested(40),
        nested(100_000),
        endless(),
        endless_model(),
        lambda: None,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_faithful_json_form_is_refused(value: Any) -> None:
    with pytest.raises(PayloadError):
        hash_payload({"x": value})


SAMPLES: list[Any] = [
    {"amount": 1},
    {"total": Decimal("12.50"), "name": "Zoë ☕", "lines": [{"b": 1, "a": [None, True, 1.5]}]},
    [0.1 + 0.2, 1e16, 1e-7, -0.0, 2**63 - 1],
    Customer("Ann", Address("Main St", ("x", "y"))),
]
STORED = [
    "c2b11e657e12fd177359627ca89412018e2274d0873cfbfcf1fc50f685582e9e",
    "d28a12fcc788ad7120cd31f099131be4b3f53987695847f9418281a7a2a1baac",
    "f89f63f5ad2a1836daa174f852097ab405b29110f8b35c6f60eea01515c8449a",
    "def15e3140d3875c1924aa853d2b785d9a1b724ff2e6b6361683cfa58702b893",
]


def test_the_hash_is_the_one_that_was_stored() -> None:
    """Changing it would refuse, as a conflict, the repetition of every call made before."""
    assert [hash_payload(each) for each in SAMPLES] == STORED


def test_every_process_has_the_same_hash() -> None:
    program = (
        "from tests.unit.test_hash_payload import SAMPLES, hash_payload\n"
        "print(*map(hash_payload, SAMPLES))"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONUTF8": utf8},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed, utf8 in (("0", "1"), ("1", "0"))
    }
    assert answers == {" ".join(STORED) + "\n"}


@given(JSON)
def test_it_hashes_what_a_log_would_hold(value: Any) -> None:
    assert hash_payload(to_json(value)) == hash_payload(value)
