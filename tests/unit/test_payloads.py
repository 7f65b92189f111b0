"""What may enter a log, and how it is compared: bounded, printable, the same everywhere."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, computed_field, field_validator

from orchestrator.errors import CardNumberError, InvalidKeyError, PayloadError
from orchestrator.payloads import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_INTEGER,
    canonical,
    checked_key,
    checked_trace,
    fingerprint,
    read_back,
    to_json,
    validated,
)
from tests.histories import Order, doing, saga

SHOP = saga(doing("pay"))

ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.decimals()
    | st.dates()
    | st.times()
    | st.datetimes()
    | st.uuids()
    | st.complex_numbers()
    | st.just(object()),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner)
        | st.sets(st.integers())
        | st.dictionaries(st.text() | st.integers(), inner)
    ),
    max_leaves=12,
)


class Colour(Enum):
    RED = "red"


@given(ANYTHING)
def test_any_value_is_either_plain_json_or_refused_with_one_error(value: Any) -> None:
    try:
        plain = to_json(value)
    except PayloadError:
        return
    written = json.dumps(plain, allow_nan=False)
    assert "\\u0000" not in written
    assert json.loads(written) == plain
    written.encode()


@given(st.dictionaries(st.text(max_size=5), ANYTHING, max_size=4))
def test_any_payload_is_either_accepted_or_refused_with_one_error(payload: dict[str, Any]) -> None:
    try:
        validated(SHOP, payload)
        fingerprint(payload)
    except PayloadError:
        return


@given(st.dictionaries(st.text("abc", max_size=3), st.integers() | st.text(max_size=3)))
def test_the_canonical_form_does_not_depend_on_order(payload: dict[str, Any]) -> None:
    shuffled = dict(reversed(payload.items()))
    assert canonical(shuffled) == canonical(payload)


@given(ANYTHING)
def test_making_plain_json_plain_again_changes_nothing(value: Any) -> None:
    try:
        plain = to_json(value)
    except PayloadError:
        return
    assert canonical(to_json(plain)) == canonical(plain)


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        -math.inf,
        Decimal("NaN"),
        Decimal("1e999999"),
        "a\x00b",
        "\ud800",
        {"a\x00": 1},
        {1: 2},
        b"bytes",
        {1, 2},
        object(),
        MAX_INTEGER + 1,
        10**5000,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_one_side_could_not_read_back_is_refused(value: Any) -> None:
    with pytest.raises(PayloadError):
        canonical(to_json({"x": value}))


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Decimal("1.10"), "1.1"),
        (Decimal(12345678901234567890123456789012345678901234567890), None),
        (date(2026, 1, 2), "2026-01-02"),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00+00:00"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Colour.RED, "red"),
        ((1, 2), [1, 2]),
        (True, True),
    ],
)
def test_common_values_have_one_faithful_form(value: Any, plain: Any) -> None:
    assert to_json(value) == (str(value) if plain is None else plain)


def test_nesting_is_bounded_without_exhausting_the_stack() -> None:
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(PayloadError, match=f"deeper than {MAX_DEPTH}"):
        to_json(deep)


def test_a_value_that_contains_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(PayloadError, match="deeper"):
        to_json(endless)


def test_a_payload_too_large_is_refused_with_advice() -> None:
    with pytest.raises(PayloadError, match="Store it elsewhere"):
        validated(SHOP, {"amount": 1, "note": "x" * MAX_BYTES})


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    order_id: str = Field(alias="order-id")
    prices: dict[str, int] = {}


@pytest.mark.parametrize(
    ("payload", "told", "hidden"),
    [
        ({"order-id": "A-1", "colour": 1}, "colour: ", "unknown"),
        ({"order-id": "A-1", "4111111111111112": 1}, "unknown field: ", "4111"),
        ({"order-id": "A-1", "x" * 65: 1}, "unknown field: ", "xxx"),
        (
            {"order-id": "A-1", "prices": {"4111111111111112": "?"}},
            "prices.unknown field: ",
            "4111",
        ),
        ({"order-id": 7}, "order-id: ", "unknown"),
    ],
)
def test_a_refusal_does_not_repeat_a_name_that_may_be_anything(
    payload: dict[str, Any], told: str, hidden: str
) -> None:
    with pytest.raises(PayloadError) as refused:
        validated(saga(doing("pay"), payload=Closed), payload)
    assert told in str(refused.value)
    assert hidden not in str(refused.value)


def test_a_refusal_names_the_field_and_never_repeats_the_value() -> None:
    with pytest.raises(PayloadError) as refused:
        validated(SHOP, {"amount": "4111111111111112x"})
    assert "amount" in str(refused.value)
    assert "4111" not in str(refused.value)


def test_many_problems_are_counted_not_listed() -> None:
    class Wide(BaseModel):
        model_config = ConfigDict(extra="forbid")

    definition = saga(doing("pay"), payload=Wide)
    with pytest.raises(PayloadError, match=r"and 3 more"):
        validated(definition, {f"x{n}": n for n in range(8)})


def test_the_fingerprint_is_of_what_was_given_before_defaults() -> None:
    assert fingerprint({"amount": 1}) != fingerprint({"amount": 1, "gift": False})
    assert fingerprint(Order(amount=1)) == fingerprint({"amount": 1})


def test_the_fingerprint_is_the_one_that_was_stored() -> None:
    """Changing it would refuse the repetition of every start made before."""
    assert (
        fingerprint({"amount": 1})
        == "c2b11e657e12fd177359627ca89412018e2274d0873cfbfcf1fc50f685582e9e"
    )


def test_a_model_with_aliases_goes_into_the_log_and_comes_back() -> None:
    class Shipment(BaseModel):
        order_id: int = Field(alias="orderId")

    definition = saga(doing("pay"), payload=Shipment)
    stored = validated(definition, {"orderId": 7})
    assert read_back(definition, stored) == Shipment(orderId=7)
    assert validated(definition, Shipment(orderId=7)) == stored


def test_a_computed_field_does_not_stand_in_the_way_of_a_strict_model() -> None:
    class Basket(BaseModel):
        model_config = ConfigDict(extra="forbid")
        price: int

        @computed_field  # type: ignore[prop-decorator]
        @property
        def doubled(self) -> int:
            return 2 * self.price

    definition = saga(doing("pay"), payload=Basket)
    stored = validated(definition, Basket(price=2))
    assert read_back(definition, stored) == Basket(price=2)


@pytest.mark.parametrize("key", ["order-1", "Bestellung 7: größer", "x" * 200])
def test_the_businesss_own_key_is_taken_as_it_is(key: str) -> None:
    assert checked_key(key) == key


@pytest.mark.parametrize("key", ["", "  ", "x" * 201, "a\nb", "a\x00", "\ud800", None, 7])
def test_a_key_that_cannot_be_stored_or_printed_is_refused(key: Any) -> None:
    with pytest.raises(InvalidKeyError):
        checked_key(key)


@given(st.text())
def test_any_key_is_taken_or_refused_with_one_error(key: str) -> None:
    try:
        checked_key(key).encode()
    except InvalidKeyError:
        return


# Card data is refused at the door.

CARD = "4242424242424242"


class Note(BaseModel):
    note: str = ""
    number: int = 0
    lines: list[dict[str, Any]] = Field(default_factory=list)

    @field_validator("note")
    @classmethod
    def _repeats_what_it_refuses(cls, note: str) -> str:
        if note.startswith("bad"):
            raise ValueError(f"what is {note}?")
        return note.replace("|", "")


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({"note": f"card {CARD}"}, "payload.note"),
        ({"note": "4242 4242 4242 4242"}, "payload.note"),
        ({"note": "CVV 123"}, "payload.note"),
        ({"number": int(CARD)}, "payload.number"),
        ({"lines": [{}, {"cvc": "123"}]}, "payload.lines.1.cvc"),
        ({"lines": [{CARD: 1}]}, "payload.lines.0.(name)"),
        ({"note": f"bad {CARD}"}, "payload.note"),
        ({"note": "4242|4242|4242|4242"}, "payload.note"),  # one once the model has read it
        (Note(note=CARD), "payload.note"),
    ],
)
def test_a_payload_with_card_data_is_refused_and_not_repeated(payload: Any, field: str) -> None:
    with pytest.raises(CardNumberError) as refused:
        validated(saga(doing("pay"), payload=Note), payload)

    assert refused.value.field == field
    assert str(refused.value).startswith(f"{field} holds ")
    assert "4242" not in f"{refused.value!r} {refused.value.__cause__!r}"


def test_a_key_and_a_trace_with_a_card_number_are_refused() -> None:
    with pytest.raises(CardNumberError, match=r"^key holds"):
        checked_key(f"order-{CARD}")
    with pytest.raises(CardNumberError, match=r"^trace\.baggage holds"):
        checked_trace({"baggage": f"card={CARD}"})


def test_what_only_looks_long_is_accepted() -> None:
    payload = {
        "note": "order 20261124081233 of DE89370400440532013000",
        "number": 1764000000000000000,
    }

    assert validated(saga(doing("pay"), payload=Note), payload) == {**payload, "lines": []}
    assert checked_key("019ab0c1-4242-7242-8242-424242424242")
    assert checked_trace({"traceparent": "00-fb76690bbb7979310ebdeebd463f095f-4242424242424242-01"})
