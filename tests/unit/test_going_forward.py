"""Given a running saga, expect what it needs: its lock, its steps, its child, or to be turned."""

from __future__ import annotations

from datetime import timedelta

import pytest

from orchestrator.definition import Lock
from orchestrator.entries import (
    CancelRefused,
    CancelRequested,
    Entry,
    SagaLockGranted,
    SignalReceived,
    StepStarted,
    UndoRequested,
    UnwindingStarted,
)
from orchestrator.state import State
from tests.histories import COMPENSATE, FORWARD, History, doing, saga

RESERVE, PAY, SHIP = doing("reserve"), doing("pay"), doing("ship", pivot=True)
MAIL = doing("mail", retriable=True)
LONG = saga(RESERVE, PAY, SHIP, MAIL)
FAN = saga(
    doing("a"),
    doing("b", after=[]),
    doing("ship", pivot=True, after=["a", "b"]),
    doing("mail", retriable=True, after=["ship"]),
    doing("invoice", retriable=True, after=["ship"]),
)
LOCKED = saga(
    RESERVE, PAY, lock=Lock(on=lambda order: f"cart/{order.amount}"), deadline=timedelta(minutes=5)
)
PARENT = saga(PAY, doing("parcel"), doing("thank"))
BESIDE = saga(doing("parcel"), doing("invoice", after=[]), doing("thank", after=["parcel"]))


def count(history: History, kind: type[Entry]) -> int:
    return history.kinds.count(kind.__name__)


# -- the lock --------------------------------------------------------------------------------------


def test_a_saga_in_line_begins_when_its_lock_is_granted() -> None:
    history = History(LOCKED)
    assert (history.wants, history.visible) == ([], State.WAITING)
    assert history.records(SagaLockGranted()).wants == ["reserve#1"]


def test_a_saga_in_line_is_woken_by_its_deadline_and_ends_without_a_turn() -> None:
    history = History(LOCKED)
    assert history.decision.wake_at == history.state.deadline_at
    assert history.later(minutes=6).visible is State.COMPENSATED


def test_a_saga_in_line_that_is_cancelled_ends_at_once() -> None:
    assert History(LOCKED).cancelled().visible is State.COMPENSATED


# -- cancel ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [
        CancelRequested(reason="no", actor="ada"),
        UndoRequested(reason="the parent is taken back", actor="parent"),
    ],
)
def test_past_the_pivot_being_taken_back_is_refused_once_and_the_saga_goes_on(asked: Entry) -> None:
    history = History(LONG).succeeds("reserve", "pay", "ship").records(asked)
    assert history.wants == ["mail#1"]
    history.fails("mail").succeeds("mail")
    assert history.visible is State.COMPLETED
    assert count(history, CancelRefused) == 1
    assert count(history, UnwindingStarted) == 0


def test_a_cancel_that_waited_for_the_pivot_is_refused_with_its_success() -> None:
    history = History(LONG).succeeds("reserve", "pay").claims("ship").cancelled()
    assert count(history, CancelRefused) == 0
    history.succeeds("ship")
    assert count(history, CancelRefused) == 1
    assert history.wants == ["mail#1"]


def test_a_cancel_that_waited_for_the_pivot_is_accepted_with_its_failure() -> None:
    history = History(LONG).succeeds("reserve", "pay").claims("ship").cancelled()
    assert history.fails("ship").wants == ["undo pay#1"]
    assert count(history, CancelRefused) == 0


def test_a_cancel_waits_for_a_pivot_that_waits() -> None:
    history = History(LONG).succeeds("reserve", "pay").waits("ship", "left", hours=1).cancelled()
    assert (history.wants, count(history, UnwindingStarted)) == ([], 0)
    assert history.hears("left").wants == ["ship#2"]


def test_a_pivot_of_unknown_outcome_asks_before_anything_is_taken_back() -> None:
    history = History(LONG).succeeds("reserve", "pay").claims("ship").cancelled()
    history.unknown("ship").unknown("ship").unknown("ship")
    assert history.visible is State.STUCK
    assert history.settles("ship", landed=False).unparked().wants == ["undo pay#1"]


# -- side by side ----------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["declined", "cancelled"])
def test_the_pivot_does_not_begin_while_trouble_waits_for_a_sibling(trouble: str) -> None:
    history = History(FAN).claims("b")
    history = history.declined("a") if trouble == "declined" else history.succeeds("a").cancelled()
    assert history.wants == []
    assert history.succeeds("b").wants == ["undo a#1", "undo b#1"]


def test_a_sibling_of_unknown_outcome_is_settled_while_others_run() -> None:
    history = History(FAN).claims("a").claims("b").crashes("b").declined("a")
    assert history.wants == ["b#2"]
    assert history.succeeds("b").wants == ["undo a#1", "undo b#1"]


def test_while_the_pivot_is_claimed_trouble_lets_nothing_else_begin() -> None:
    history = History(FAN).succeeds("a", "b").claims("ship").cancelled()
    assert history.wants == []
    assert history.crashes("ship").wants == ["ship#2"]
    assert history.succeeds("ship").wants == ["invoice#1", "mail#1"]


def test_a_branch_that_waits_does_not_hold_up_the_other() -> None:
    history = History(FAN).waits("a", "answer", hours=1)
    assert (history.wants, history.visible) == (["b#1"], State.RUNNING)
    assert history.succeeds("b").visible is State.WAITING
    assert history.hears("answer").wants == ["a#2"]


def test_a_question_is_asked_only_when_no_branch_moves_any_more() -> None:
    history = History(FAN).unknown("a").unknown("a").unknown("a")
    assert (history.wants, history.visible) == (["b#1"], State.RUNNING)
    assert history.succeeds("b").visible is State.STUCK


# -- a child ---------------------------------------------------------------------------------------


def told(history: History, state: str) -> History:
    return history.hears("child.parcel", {"state": state, "saga_id": "c-1"})


def with_child(history: History) -> History:
    return history.waits("parcel", "child.parcel", decisive=True, hours=6)


def test_a_parked_child_parks_its_parent_with_the_childs_name_in_the_question() -> None:
    history = told(with_child(History(PARENT).succeeds("pay")), "failed_compensation")
    assert history.visible is State.STUCK
    assert history.state.parked is not None
    assert history.state.parked.reason == "child_parked"
    assert history.state.parked.question == (
        "The child saga of parcel is parked (failed_compensation: c-1): answer its question, and "
        "this saga goes on by itself."
    )


def test_a_parent_goes_on_by_itself_when_its_child_does() -> None:
    history = told(with_child(History(PARENT).succeeds("pay")), "stuck")
    assert told(history, "running").wants == ["parcel#2"]
    assert "SagaUnparked" in history.kinds
    with_child(history)
    assert history.wants == ["parcel#3"]  # for the second thing it was told
    with_child(history)
    assert history.visible is State.WAITING
    assert told(history, "completed").succeeds("parcel").wants == ["thank#1"]


def test_a_child_that_parks_again_parks_its_parent_again() -> None:
    history = told(told(with_child(History(PARENT).succeeds("pay")), "stuck"), "running")
    history.claims("parcel")
    told(history, "stuck")
    assert with_child(history).visible is State.STUCK


def test_a_parent_whose_attempt_was_claimed_as_its_child_parked_still_sees_it() -> None:
    """The attempt took the news with it and was handed back: nobody wanted it any more."""
    history = with_child(History(PARENT).succeeds("pay")).later(hours=7)
    number = history.run("parcel").attempt
    news = SignalReceived(
        name="child.parcel", dedup_id="1", payload={"state": "stuck", "saga_id": "c-1"}
    )
    start = StepStarted(step="parcel", direction=FORWARD, attempt=number, owner="me")
    history.appends(news, start)
    history.released("parcel")
    assert with_child(history).visible is State.STUCK


def test_a_parked_child_does_not_hold_up_another_branch() -> None:
    history = told(with_child(History(BESIDE)), "stuck")
    assert (history.wants, history.visible) == (["invoice#1"], State.RUNNING)
    assert history.succeeds("invoice").visible is State.STUCK


def test_a_failed_branch_takes_back_what_waits_for_a_parked_child() -> None:
    history = told(with_child(History(BESIDE)), "stuck").declined("invoice")
    assert history.wants == ["undo invoice#1", "undo parcel#1"]


# -- a question beside a wait ----------------------------------------------------------------------

BRANCHES = saga(doing("pay"), doing("approve", after=[]), doing("ship", after=["pay", "approve"]))


def unknown_beside_a_wait() -> History:
    history = History(BRANCHES).waits("approve", "approved", days=14)
    return history.unknown("pay").unknown("pay").unknown("pay")


def test_an_unknown_with_nothing_left_to_try_asks_at_once_beside_a_long_wait() -> None:
    history = unknown_beside_a_wait()
    assert history.visible is State.STUCK
    assert history.state.parked is not None
    assert history.state.parked.steps == ["pay"]


def test_a_saga_that_asks_beside_a_wait_hears_its_signal_and_goes_on_when_answered() -> None:
    history = unknown_beside_a_wait().hears("approved", {"by": "ada"})
    assert (history.wants, history.visible) == ([], State.STUCK)
    assert history.reported("pay", "p-1").wants == ["approve#2"]
    history.claims("approve")
    heard = history.state.step("approve").signal
    assert heard is not None
    assert heard.payload == {"by": "ada"}


def test_a_question_waits_for_what_still_runs() -> None:
    history = History(BRANCHES).claims("approve").unknown("pay").unknown("pay").unknown("pay")
    assert history.visible is State.RUNNING
    assert history.fails("approve").wants == ["approve#2"]
    assert history.waits("approve", "approved", days=14).visible is State.STUCK


def test_an_undo_that_is_exhausted_asks_at_once_beside_one_that_waits() -> None:
    history = History(BRANCHES).succeeds("pay", "approve").cancelled()
    history.waits("approve", "withdrawn", COMPENSATE, days=14).declined("pay", COMPENSATE)
    assert history.state.parked is not None
    assert (history.state.parked.state, history.state.parked.steps) == (
        State.FAILED_COMPENSATION,
        ["pay"],
    )
    history.unparked("pay").undoes("pay").hears("withdrawn").undoes("approve")
    assert history.visible is State.COMPENSATED
