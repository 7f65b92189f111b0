"""Given a saga that is taken back, expect its undos in order, and whatever reopens it later."""

from __future__ import annotations

from datetime import timedelta

import pytest

from orchestrator.entries import SagaCompleted, StepSkipped, UndoRequested, UnwindingStarted
from orchestrator.keys import forward_key, key_of
from orchestrator.keys import undo_key as undo_key_on
from orchestrator.state import State
from tests.histories import COMPENSATE, MORNING, History, doing, saga

RESERVE, PAY, SHIP = doing("reserve"), doing("pay"), doing("ship", pivot=True)
SHOP = saga(RESERVE, PAY, SHIP)
PLAIN = saga(RESERVE, PAY)
THREE = saga(RESERVE, PAY, doing("thank"))
FAN_OUT = saga(
    doing("a"), doing("b", after=["a"]), doing("c", after=["a"]), doing("d", after=["b", "c"])
)
HELD = saga(doing("authorize", undone_by="capture"), doing("capture"), doing("thank"))


def undo_key(history: History, step: str = "pay") -> str:
    return key_of(history.state, "shop", "k", step, COMPENSATE)


def causes(history: History) -> list[str]:
    return [each.entry.cause for each in history.log if isinstance(each.entry, UnwindingStarted)]


def asked_back() -> UndoRequested:
    return UndoRequested(reason="the parent is taken back", actor="parent")


# -- waits in a compensation -----------------------------------------------------------------------


def test_an_undo_that_waits_holds_no_worker_and_nothing_before_it_is_undone_meanwhile() -> None:
    history = History(THREE).succeeds("reserve", "pay").cancelled()
    history.waits("pay", "refunded", COMPENSATE, minutes=30)
    assert (history.wants, history.visible) == ([], State.COMPENSATING)
    assert history.decision.wake_at == MORNING + timedelta(minutes=30, milliseconds=2)
    assert history.hears("refunded").wants == ["undo pay#2"]
    assert history.undoes("pay").wants == ["undo reserve#1"]


def test_an_undo_whose_wait_is_over_runs_again_without_spending_its_budget() -> None:
    history = History(THREE).succeeds("reserve", "pay").cancelled()
    for number in range(6):
        history.waits("pay", "refunded", COMPENSATE, minutes=30).later(minutes=31)
        assert history.wants == [f"undo pay#{number + 2}"]


def test_an_undo_that_waits_does_not_hold_up_an_independent_one() -> None:
    history = History(FAN_OUT).succeeds("a", "b", "c").cancelled()
    history.waits("b", "refunded", COMPENSATE, minutes=30)
    assert history.wants == ["undo c#1"]
    assert history.undoes("c").wants == []
    assert history.hears("refunded").undoes("b").wants == ["undo a#1"]


# -- a parked child --------------------------------------------------------------------------------


def told(history: History, state: str, step: str = "pay") -> History:
    return history.hears(f"child.{step}", {"state": state, "saga_id": "c-1"})


def test_a_child_that_cannot_be_undone_parks_its_parent_until_it_can() -> None:
    history = History(THREE).succeeds("reserve", "pay").cancelled()
    told(history.waits("pay", "child.pay", COMPENSATE, hours=6), "failed_compensation")
    assert history.visible is State.FAILED_COMPENSATION
    assert history.state.parked is not None
    assert history.state.parked.question == (
        "The child saga of pay is parked (failed_compensation: c-1): answer its question, and "
        "this saga goes on by itself."
    )
    assert told(history, "compensating").wants == ["undo pay#2"]
    assert history.kinds[-1] == "SagaUnparked"


def test_a_parked_child_lets_independent_undos_end_first() -> None:
    history = History(FAN_OUT).succeeds("a", "b", "c").cancelled()
    told(history.waits("b", "child.b", COMPENSATE, hours=6), "stuck", "b")
    assert (history.wants, history.visible) == (["undo c#1"], State.COMPENSATING)
    assert history.undoes("c").visible is State.FAILED_COMPENSATION


# -- a second effect -------------------------------------------------------------------------------


def completed() -> History:
    history = History(SHOP).succeeds("reserve").crashes("pay").succeeds("pay", reference="pay-1")
    return history.succeeds("ship")


def test_a_second_effect_of_a_completed_saga_is_taken_back_alone() -> None:
    history = completed().reported("pay", "pay-2")
    assert (history.wants, history.visible) == (["undo pay#1"], State.COMPENSATING)
    effect = history.state.effect_to_undo("pay")
    assert effect is not None
    assert effect.reference == "pay-2"
    assert history.undoes("pay").visible is State.COMPLETED
    assert causes(history) == ["second_effect"]
    assert history.kinds.count("SagaCompleted") == 2
    counts = history.state.step("pay").effect
    assert counts is not None
    assert counts.reference == "pay-1"


def test_the_steps_own_effect_heard_of_again_changes_nothing() -> None:
    history = completed().late("pay", attempt=1, reference="pay-1")
    assert history.visible is State.COMPLETED
    assert causes(history) == []


def test_each_further_effect_is_taken_back_under_a_key_of_its_own() -> None:
    history = completed().reported("pay", "pay-2")
    first = undo_key(history)
    history.undoes("pay").reported("pay", "pay-3")
    assert history.wants == ["undo pay#2"]
    assert undo_key(history) != first
    assert history.undoes("pay").visible is State.COMPLETED


def test_a_second_effect_that_nothing_undoes_asks_a_person() -> None:
    history = completed().reported("ship", "parcel-2")
    assert history.visible is State.FAILED_COMPENSATION
    assert history.state.parked is not None
    assert history.state.parked.steps == ["ship"]
    skipped = StepSkipped(step="ship", direction=COMPENSATE, by="ada")
    assert history.records(skipped).unparked().visible is State.COMPLETED


def test_a_second_effect_whose_undo_fails_is_parked_and_completes_after_another_try() -> None:
    history = completed().reported("pay", "pay-2").declined("pay", COMPENSATE)
    assert history.visible is State.FAILED_COMPENSATION
    assert history.unparked("pay").undoes("pay").visible is State.COMPLETED


def test_a_second_effect_is_undone_by_its_own_step_and_not_spared() -> None:
    history = History(HELD).crashes("authorize").succeeds("authorize", reference="a-1")
    history.succeeds("capture", reference="c-1").succeeds("thank").reported("authorize", "a-2")
    assert history.wants == ["undo authorize#1"]
    assert history.undoes("authorize").visible is State.COMPLETED


def test_a_second_effect_while_the_saga_runs_is_taken_back_when_it_has_completed() -> None:
    history = History(SHOP).succeeds("reserve").crashes("pay").succeeds("pay", reference="pay-1")
    assert history.reported("pay", "pay-2").wants == ["ship#1"]
    assert history.succeeds("ship").wants == ["undo pay#1"]
    assert history.undoes("pay").visible is State.COMPLETED


# -- an undo that failed later ---------------------------------------------------------------------


def compensated() -> History:
    history = History(THREE).succeeds("reserve", reference="r-1").succeeds("pay", reference="p-1")
    history.cancelled().succeeds("pay", direction=COMPENSATE, reference="refund-1")
    return history.undoes("reserve")


@pytest.mark.parametrize("reference", ["refund-1", "p-1"])
def test_an_undo_that_proves_undone_reopens_the_saga_under_a_new_key(reference: str) -> None:
    history = compensated()
    assert history.visible is State.COMPENSATED
    before = key_of(history.state, "shop", "k", "pay", COMPENSATE)
    assert history.undo_failed("pay", reference).wants == ["undo pay#2"]
    assert undo_key(history) != before
    assert history.undoes("pay").visible is State.COMPENSATED


def test_what_failed_under_another_name_changes_nothing() -> None:
    history = compensated().undo_failed("pay", "refund-of-somebody-else")
    assert history.visible is State.COMPENSATED


def test_the_undo_of_an_undo_that_failed_can_fail_too() -> None:
    history = compensated().undo_failed("pay", "refund-1")
    history.succeeds("pay", direction=COMPENSATE, reference="refund-2")
    assert history.undo_failed("pay", "refund-1").visible is State.COMPENSATED
    assert history.undo_failed("pay", "refund-2").wants == ["undo pay#3"]


def test_an_undo_that_fails_while_the_others_run_is_tried_again() -> None:
    history = History(THREE).succeeds("reserve").succeeds("pay", reference="p-1").cancelled()
    history.succeeds("pay", direction=COMPENSATE, reference="refund-1").claims(
        "reserve", COMPENSATE
    )
    assert history.undo_failed("pay", "refund-1").wants == ["undo pay#2"]
    history.undoes("reserve")
    assert history.visible is State.COMPENSATING
    assert history.undoes("pay").visible is State.COMPENSATED


def test_an_undo_that_found_its_effect_itself_and_failed_later_is_tried_again() -> None:
    history = History(THREE).succeeds("reserve").declined("pay")
    history.succeeds("pay", direction=COMPENSATE, reference="refund-1").undoes("reserve")
    assert history.visible is State.COMPENSATED
    assert history.undo_failed("pay", "refund-1").wants == ["undo pay#2"]


def test_the_undo_of_a_second_effect_that_failed_reopens_the_completed_saga() -> None:
    history = completed().reported("pay", "pay-2")
    history.succeeds("pay", direction=COMPENSATE, reference="refund-1")
    assert history.visible is State.COMPLETED
    assert history.undo_failed("pay", "refund-1").wants == ["undo pay#2"]
    assert history.undoes("pay").visible is State.COMPLETED


def undoing_the_second_of_two() -> History:
    history = compensated().reported("pay", "p-2").claims("pay", COMPENSATE)
    return history.undo_failed("pay", "refund-1")


def test_an_undo_under_way_accounts_for_its_own_effect_when_an_older_one_proves_undone() -> None:
    history = undoing_the_second_of_two()
    history.succeeds("pay", direction=COMPENSATE, reference="refund-2")
    effect = history.state.effect_to_undo("pay")
    assert effect is not None
    assert effect.reference == "p-1"
    assert history.undoes("pay").visible is State.COMPENSATED


def test_an_undo_of_unknown_outcome_is_repeated_under_its_key_before_an_older_one_is() -> None:
    history = undoing_the_second_of_two()
    key = key_of(history.state, "shop", "k", "pay", COMPENSATE)
    assert key == undo_key_of("p-2")
    history.unknown("pay", COMPENSATE)
    assert key_of(history.state, "shop", "k", "pay", COMPENSATE) == key
    history.succeeds("pay", direction=COMPENSATE, reference="refund-2")
    assert key_of(history.state, "shop", "k", "pay", COMPENSATE) == undo_key_of("p-1", 2)


def undo_key_of(reference: str, generation: int = 1) -> str:
    return undo_key_on(forward_key("shop", "k", "pay"), reference, generation)


def test_an_undo_that_failed_and_cannot_be_repeated_asks_a_person() -> None:
    history = compensated().undo_failed("pay", "refund-1").declined("pay", COMPENSATE)
    assert history.visible is State.FAILED_COMPENSATION
    assert history.state.parked is not None
    assert history.state.parked.steps == ["pay"]


# -- asked by the parent ---------------------------------------------------------------------------


def test_a_completed_saga_without_a_pivot_is_taken_back_for_its_parent() -> None:
    history = History(PLAIN).succeeds("reserve", "pay")
    assert history.log[-1].entry == SagaCompleted()
    assert history.records(asked_back()).wants == ["undo pay#1"]
    assert history.undoes("pay", "reserve").visible is State.COMPENSATED
    assert causes(history) == ["undo_requested"]


def test_a_completed_saga_past_its_pivot_refuses() -> None:
    history = completed().records(asked_back())
    assert history.visible is State.COMPLETED
    assert history.kinds[-1] == "CancelRefused"


def test_a_running_saga_is_taken_back_for_its_parent_as_for_a_cancel() -> None:
    history = History(PLAIN).succeeds("reserve").records(asked_back())
    assert history.wants == ["undo reserve#1"]


def test_a_saga_that_takes_back_a_second_effect_takes_back_all_when_its_parent_asks() -> None:
    history = History(PLAIN).succeeds("reserve").crashes("pay").succeeds("pay", reference="pay-1")
    history.reported("pay", "pay-2").records(asked_back())
    assert history.undoes("pay").wants == ["undo pay#2"]
    history.undoes("pay", "reserve")
    assert history.visible is State.COMPENSATED
