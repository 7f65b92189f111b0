"""Redaction holds for any input: it never raises, hides every card, and takes linear time."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.redaction import redact, redact_dict, without_card_data
from orchestrator.redaction.card_numbers import has_check_digit

ISSUERS = [
    ("4", 16),
    ("51", 16),
    ("2221", 16),
    ("2720", 16),
    ("34", 15),
    ("37", 15),
    ("300", 14),
    ("36", 14),
    ("3528", 16),
    ("6011", 16),
    ("65", 16),
    ("62", 19),
    ("2200", 16),
]
SPICE = [
    "4242", "4242424242424242", " ", "-", "%20", "%", r"\u0034", "\\", "\uff14", "\u200b", "\xa0",
    "cvv", "cvv: 1", "card number ", "=2712101", "^A B^2712", "DE89", "1Z", "0x", "sk_live_",
    "Bearer ", "eyJ", "://a:b@", "password=", "id=", "{", '"', "\n", "\ud800", "İ", "\u017f",
]  # fmt: skip


@st.composite
def card_numbers(draw: st.DrawFn) -> str:
    prefix, length = draw(st.sampled_from(ISSUERS))
    missing = length - len(prefix) - 1
    body = prefix + "".join(
        draw(st.lists(st.sampled_from("0123456789"), min_size=missing, max_size=missing))
    )
    return next(body + last for last in "0123456789" if has_check_digit(body + last))


spiced = st.lists(st.one_of(st.sampled_from(SPICE), st.text(max_size=3)), max_size=30).map("".join)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.decimals(),
    st.binary(max_size=40),
    spiced,
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(st.one_of(spiced, st.integers(), st.binary(max_size=4)), inner, max_size=4),
    ),
    max_leaves=20,
)


@given(spiced)
def test_text_never_raises_and_a_second_time_changes_nothing(text: str) -> None:
    once = redact(text)

    assert redact(once) == once


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(values)
def test_values_never_raise_and_a_second_time_changes_nothing(value: Any) -> None:
    once = redact_dict(value)

    assert redact_dict(once) is once
    assert without_card_data(value) is not None


@given(spiced.filter(lambda text: "id" not in text.lower()), card_numbers(), spiced)
def test_a_card_number_is_hidden_in_any_text(before: str, number: str, behind: str) -> None:
    assert number not in redact(f"{before} {number} {behind}")


@given(card_numbers(), st.sampled_from([" ", "-", ".", "\xa0", "%20", "+", "\u2009\u200b"]))
def test_a_card_number_in_groups_is_hidden(number: str, gap: str) -> None:
    lengths = {14: (4, 6, 4), 15: (4, 6, 5), 16: (4, 4, 4, 4), 19: (4, 4, 4, 4, 3)}[len(number)]
    rest, groups = number, []
    for length in lengths:
        groups.append(rest[:length])
        rest = rest[length:]

    assert redact(f"<{gap.join(groups)}>") == f"<{'*' * (len(number) - 4)}{number[-4:]}>"


@given(card_numbers(), st.sampled_from(["note", "number", "order_id", "reference"]))
def test_fields_are_hidden_and_json_stays_json(number: str, name: str) -> None:
    if len(number) > 16:  # 64-bit ids look like these
        name = "note"
    event = {name: number, "as_number": [int(number)], "inside": json.dumps({name: number})}

    line = json.dumps(redact_dict(event))

    assert number not in line
    assert redact(line) == line
    assert json.loads(line)["inside"] == json.dumps({name: redact(number)})


@given(st.integers(min_value=10**15, max_value=10**19))
def test_a_number_without_a_check_digit_is_left_alone(number: int) -> None:
    text = str(number)
    if not has_check_digit(text):
        assert redact(text) is text


HOSTILE = [
    *(each for each in SPICE if each not in {"\n", "{", '"'}),
    "4242 4242 4242 4241 ", "4242   ", "4-", "%34", "4\u200b", "a4242424242424242", "4242\xa0",
    "card number 4", "cvv\"'\"'", "authorization:   ", "abcd4242-4242-", "DE89 3704 ", "4242_",
]  # fmt: skip


def seconds(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


@pytest.mark.parametrize("unit", HOSTILE, ids=ascii)
def test_the_time_is_linear_on_hostile_text(unit: str) -> None:
    short, long = unit * (30_000 // len(unit)), unit * (240_000 // len(unit))

    # Eight times the text; quadratic would be 64 times the time.
    shortest = min(seconds(lambda: redact(short)) for _ in range(3))
    longest = min(seconds(lambda: redact(long)) for _ in range(3))

    assert longest < 24 * max(shortest, 0.004)
