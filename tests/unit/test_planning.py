"""From a decision to rows."""

from __future__ import annotations

from datetime import timedelta

import pytest

from orchestrator.planning import (
    MAX_LOOK_SECONDS,
    PARKED_LOOK_SECONDS,
    due_in,
    is_linear,
    runs_in_place,
    scheduled,
)
from orchestrator.state import State
from tests.histories import MORNING, History, doing, saga

SHOP = saga(doing("pay", queue="money"), doing("ship"))
STUCK = History(saga(doing("ship", pivot=True), doing("mail", retriable=True)))
STUCK.succeeds("ship").declined("mail")


@pytest.mark.parametrize(("looks", "seconds"), [(0, 900), (1, 1800), (2, 3600), (7, 86_400)])
def test_a_parked_saga_comes_due_again_and_ever_more_rarely(looks: int, seconds: float) -> None:
    assert due_in(STUCK.decision, MORNING, State.STUCK, looks) == seconds


def test_a_saga_parked_for_years_still_comes_due() -> None:
    assert due_in(STUCK.decision, MORNING, State.STUCK, 10**6) == MAX_LOOK_SECONDS
    assert MAX_LOOK_SECONDS > PARKED_LOOK_SECONDS


def test_a_saga_that_merely_moves_on_keeps_its_due_time() -> None:
    history = History(SHOP).succeeds("pay")
    assert due_in(history.decision, history.now, State.RUNNING) is None


def test_a_saga_that_begins_to_wait_is_due_when_the_wait_ends() -> None:
    history = History(SHOP).waits("pay", "answer", seconds=30)
    due = due_in(history.decision, history.now, State.RUNNING)
    assert due == pytest.approx(30, abs=0.1)


def test_a_saga_with_one_waiting_branch_is_due_when_that_wait_ends() -> None:
    history = History(saga(doing("a"), doing("b", after=()))).claims("a")
    history.waits("b", "answer", seconds=30)
    assert history.visible is State.RUNNING
    assert due_in(history.decision, history.now, State.RUNNING) == pytest.approx(30, abs=0.1)


def test_a_wait_is_looked_at_when_its_moment_has_come_and_a_long_one_once_a_day() -> None:
    history = History(SHOP).waits("pay", "answer", hours=3)
    due = due_in(history.decision, history.now, State.RUNNING)
    assert due == pytest.approx(3 * 3600, abs=1)
    history = History(SHOP).waits("pay", "answer", days=3)
    assert due_in(history.decision, history.now, State.RUNNING) == MAX_LOOK_SECONDS


def test_a_step_runs_in_place_only_where_its_queue_is_served() -> None:
    runs = History(SHOP).decision.runs
    assert runs_in_place(SHOP, runs, MORNING, lambda queue: queue == "money") is runs[0]
    assert runs_in_place(SHOP, runs, MORNING, lambda queue: queue == "amends") is None


def test_a_step_handed_off_by_the_broker_never_runs_in_place() -> None:
    definition = saga(doing("pay", hand_off="broker"))
    assert not runs_in_place(definition, History(definition).decision.runs, MORNING, lambda _: True)


def test_neither_a_step_that_is_not_due_nor_one_that_runs_alone_goes_on_in_place() -> None:
    later = History(SHOP).fails("pay", retry_after_seconds=60.0)
    assert runs_in_place(SHOP, later.decision.runs, later.now, lambda _: True) is None
    alone = History(SHOP).crashes("pay").crashes("pay")
    moment = alone.now + timedelta(hours=1)
    assert runs_in_place(SHOP, alone.decision.runs, moment, lambda _: True) is None


def test_an_attempt_that_is_not_due_is_not_rung() -> None:
    history = History(SHOP).fails("pay", retry_after_seconds=60.0)
    row = scheduled(SHOP, history.run("pay"), history.now)
    assert not row.rung
    assert row.delay_seconds > 59
    assert row.queue == "money"


def test_a_saga_is_linear_only_if_no_step_names_what_it_comes_after() -> None:
    assert is_linear(SHOP)
    assert not is_linear(saga(doing("a"), doing("b", after=["a"])))
