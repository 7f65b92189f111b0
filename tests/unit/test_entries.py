"""What goes into the log comes out of it."""

from __future__ import annotations

import json
import types
import typing
from dataclasses import MISSING, fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import entries
from orchestrator.entries import ENTRY_TYPES, Entry, StepSucceeded, decode, encode
from orchestrator.errors import HistoryError

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXT,
    int: st.integers(1, 10**6),
    bool: st.booleans(),
    float: st.floats(0, 1e6),
    type(None): st.none(),
    Any: JSON,
}


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    if kind in VALUES:
        return VALUES[kind]
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*(values_of(each) for each in inner))
    if origin is list:
        return st.lists(values_of(inner[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(TEXT, values_of(inner[1]), max_size=3)
    raise AssertionError(f"no strategy for {kind}")


@st.composite
def any_entry(draw: st.DrawFn) -> Entry:
    kind = draw(st.sampled_from(sorted(ENTRY_TYPES.values(), key=lambda each: each.__name__)))
    hints = typing.get_type_hints(kind)
    return kind(**{each.name: draw(values_of(hints[each.name])) for each in fields(kind)})


@given(any_entry())
def test_every_entry_is_read_back_as_it_was_written(entry: Entry) -> None:
    kind, written = encode(entry)
    assert decode(kind, json.loads(json.dumps(written))) == entry


@pytest.mark.parametrize("kind", ENTRY_TYPES)
def test_fields_that_hold_their_default_take_no_room(kind: str) -> None:
    needed: dict[str, Any] = {
        each.name: "x"
        for each in fields(ENTRY_TYPES[kind])
        if each.default is MISSING and each.default_factory is MISSING
    }
    assert encode(ENTRY_TYPES[kind](**needed)) == (kind, needed)


def test_every_entry_of_the_union_is_registered() -> None:
    assert set(typing.get_args(Entry)) == set(ENTRY_TYPES.values())


def test_defaults_are_not_shared_between_entries() -> None:
    one = entries.SagaStarted(payload={})
    one.skipped.append("a")
    assert encode(entries.SagaStarted(payload={}))[1] == {"payload": {}}


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("FromTheFuture", {}),
        ("StepSucceeded", {"step": "a"}),
        ("SagaCompleted", {"unheard_of": 1}),
    ],
)
def test_an_entry_of_a_newer_version_is_refused_with_the_fix(
    kind: str, values: dict[str, Any]
) -> None:
    with pytest.raises(HistoryError, match="upgrade the workers"):
        decode(kind, values)


def test_a_result_of_none_and_no_reference_are_not_written() -> None:
    entry = StepSucceeded(step="a", direction="forward", attempt=1)
    assert encode(entry)[1] == {"step": "a", "direction": "forward", "attempt": 1}
