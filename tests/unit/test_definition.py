"""Wrong definitions are refused where they are written, with the fix in the message."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from orchestrator.definition import Kind, Retry, SagaDefinition, step
from orchestrator.definitions import Definitions
from orchestrator.errors import DefinitionError, UnknownDefinitionError
from orchestrator.saga_builder import Saga
from tests.histories import Order, doing, nothing, saga

PIVOT = doing("ship", pivot=True)

REFUSED_STEPS: dict[str, tuple[dict[str, Any], str]] = {
    "a name with capitals": ({"name": "Pay"}, "lower case letters"),
    "an empty name": ({"name": ""}, "1 to 60"),
    "a dotted name": ({"name": "a.b"}, "lower case letters"),
    "a name too long": ({"name": "a" * 61}, "1 to 60"),
    "pivot and retriable": ({"pivot": True, "retriable": True}, "either pivot or retriable"),
    "an undo and a reason for none": (
        {"compensation": nothing, "no_compensation": "none"},
        "compensation or no_compensation, not both",
    ),
    "an empty reason": ({"no_compensation": " "}, "must say why"),
    "transactional and read-only": (
        {"transactional": True, "read_only": True},
        "either transactional or read_only",
    ),
    "no time at all": ({"timeout": timedelta(0)}, "timeout must be positive"),
    "more than an hour": ({"timeout": timedelta(hours=2)}, "at most 1:00:00"),
    "no crash allowed": ({"max_crashes": 0}, "max_crashes must be 1 or more"),
    "an empty queue": ({"queue": " "}, "queue is empty"),
}


@pytest.mark.parametrize("case", REFUSED_STEPS)
def test_a_step_whose_parts_contradict_each_other_is_refused(case: str) -> None:
    options, message = REFUSED_STEPS[case]
    with pytest.raises(DefinitionError, match=message):
        step(**{"name": "pay", "run": nothing, **options})


REFUSED_SAGAS: dict[str, tuple[Callable[[], Any], str]] = {
    "a bad name": (lambda: saga(doing("a"), name="Shop"), "saga name 'Shop'"),
    "version zero": (lambda: saga(doing("a"), version=0), "versions count from 1"),
    "no steps": (saga, "has no steps"),
    "no model": (lambda: saga(doing("a"), payload=dict), "pydantic model class"),
    "an unknown attribute": (
        lambda: saga(doing("a"), attributes=["colour"]),
        r"\['colour'\] are not payload fields \(amount, gift\)",
    ),
    "the same name twice": (lambda: saga(doing("a"), doing("a")), "two steps named 'a'"),
    "after an unknown step": (lambda: saga(doing("a", after=["b"])), "comes after 'b'"),
    "after a later step": (
        lambda: saga(doing("a", after=["b"]), doing("b")),
        "not written before",
    ),
    "after itself": (lambda: saga(doing("a", after=["a"])), "not written before"),
    "two pivots": (lambda: saga(PIVOT, doing("b", pivot=True)), "keep one"),
    "retriable without a pivot": (
        lambda: saga(doing("a", retriable=True)),
        "not after a pivot",
    ),
    "retriable before the pivot": (
        lambda: saga(doing("a", retriable=True), PIVOT),
        "not after a pivot",
    ),
    "compensatable after the pivot": (
        lambda: saga(PIVOT, doing("a")),
        "order it before the pivot or declare it",
    ),
    "beside the pivot": (
        lambda: saga(doing("a"), doing("ship", pivot=True, after=())),
        "runs beside the pivot",
    ),
    "effects without an undo": (
        lambda: saga(step("a", nothing)),
        "has effects but no compensation",
    ),
    "an undo past the pivot": (
        lambda: saga(PIVOT, doing("a", retriable=True, compensation=nothing)),
        "never undone",
    ),
    "undone_by without an undo": (
        lambda: saga(doing("a", undone_by="b", no_compensation="none, because …"), doing("b")),
        "no compensation of its own",
    ),
    "undone_by an earlier step": (
        lambda: saga(doing("a"), doing("b", undone_by="a")),
        "not a later step",
    ),
    "undone_by nobody": (lambda: saga(doing("a", undone_by="x")), "not a later step"),
    "undone_by a step without an undo": (
        lambda: saga(doing("a", undone_by="b"), doing("b", read_only=True)),
        "has no compensation that could undo it",
    ),
    "no try at all": (lambda: Retry(max_attempts=0), "use 1 or more"),
    "no pause": (lambda: Retry(base=timedelta(0)), "0 < base <= cap"),
    "a cap below the base": (
        lambda: Retry(base=timedelta(seconds=2), cap=timedelta(seconds=1)),
        "0 < base <= cap",
    ),
}


@pytest.mark.parametrize("case", REFUSED_SAGAS)
def test_a_definition_that_cannot_keep_its_promises_is_refused(case: str) -> None:
    build, message = REFUSED_SAGAS[case]
    with pytest.raises(DefinitionError, match=message):
        build()


def test_a_step_after_nothing_starts_at_once() -> None:
    definition = saga(doing("a"), doing("b", after=()))
    assert definition.after == {"a": (), "b": ()}


def test_a_step_comes_after_the_one_written_before_it() -> None:
    definition = saga(doing("a"), doing("b"), doing("c"))
    assert definition.after["c"] == ("b",)
    assert definition.before["a"] == ("b",)


def test_the_builder_gives_the_same_definition_as_the_list() -> None:
    built = Saga("shop", payload=Order).add_step("pay", nothing, nothing).build()
    assert built.hash == saga(doing("pay")).hash


def test_the_builder_counts_retries_not_tries() -> None:
    built = Saga("shop", payload=Order).add_step("pay", nothing, nothing, compensation_retries=2)
    assert built.build().step("pay").undo_retry.max_attempts == 3


BASE = [doing("a"), doing("b"), PIVOT]

CHANGES: dict[str, SagaDefinition[Any]] = {
    "a step renamed": saga(doing("a"), doing("c"), PIVOT),
    "the order changed": saga(doing("b"), doing("a"), PIVOT),
    "a step became conditional": saga(doing("a", when=lambda order: order.gift), doing("b"), PIVOT),
    "an undo dropped": saga(doing("a", no_compensation="none, because …"), doing("b"), PIVOT),
    "the pivot moved": saga(doing("a"), doing("b", pivot=True), doing("ship", retriable=True)),
    "undone by another": saga(doing("a", undone_by="b"), doing("b"), PIVOT),
    "branches": saga(doing("a"), doing("b", after=()), doing("ship", pivot=True, after=["a", "b"])),
    "transactional": saga(doing("a", transactional=True), doing("b"), PIVOT),
    "a new version": saga(*BASE, version=2),
    "another name": saga(*BASE, name="store"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_hash_covers_what_the_meaning_of_a_log_depends_on(change: str) -> None:
    assert CHANGES[change].hash != saga(*BASE).hash


def test_the_hash_leaves_out_budgets_queues_and_bodies() -> None:
    def another(_context: object) -> int:
        return 1

    tuned = doing("a", queue="slow", timeout=timedelta(seconds=3), retry=Retry(max_attempts=9))
    retold = step("b", another, compensation=another)
    assert saga(tuned, retold, PIVOT, deadline=timedelta(days=1)).hash == saga(*BASE).hash


def test_two_definitions_of_one_version_are_refused() -> None:
    with pytest.raises(DefinitionError, match="defined twice"):
        Definitions([saga(doing("a")), saga(doing("b"))])


def test_the_same_definition_may_be_registered_twice() -> None:
    definition = saga(doing("a"))
    assert len(Definitions([definition, definition])) == 1


def test_a_start_by_name_takes_the_highest_version() -> None:
    definitions = Definitions([saga(doing("a"), version=2), saga(doing("a"), version=10)])
    assert definitions.latest("shop").version == 10


def test_an_unknown_name_is_answered_with_what_is_known() -> None:
    with pytest.raises(UnknownDefinitionError, match="registered: shop"):
        Definitions([saga(doing("a"))]).latest("store")


def test_a_foreign_hash_is_not_found() -> None:
    definition = saga(doing("a"))
    assert Definitions([definition]).by_hash("0" * 32) is None
    assert Definitions([definition]).by_hash(definition.hash) is definition
    assert definition.step("a").kind is Kind.COMPENSATABLE
