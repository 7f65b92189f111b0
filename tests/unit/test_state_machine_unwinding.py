"""Given a history, expect what happens next: taking a saga back, and effects that come late."""

from __future__ import annotations

from datetime import timedelta

import pytest

from orchestrator.entries import UnwindingStarted
from orchestrator.keys import key_of
from orchestrator.state import State
from tests.histories import COMPENSATE, History, doing, saga

RESERVE, PAY, SHIP = doing("reserve"), doing("pay"), doing("ship", pivot=True)
SHOP = saga(RESERVE, PAY, SHIP)
FAN = saga(doing("a"), doing("b", after=()), doing("c", after=("a", "b")))


# -- unwinding -------------------------------------------------------------------------------------


def test_the_failing_step_is_undone_too_and_then_those_before_it_in_reverse_order() -> None:
    history = History(SHOP).succeeds("reserve").declined("pay")
    assert history.wants == ["undo pay#1"]
    assert history.finds_nothing("pay").wants == ["undo reserve#1"]
    assert history.undoes("reserve").visible is State.COMPENSATED


def test_steps_that_never_ran_are_not_undone() -> None:
    history = History(SHOP).declined("reserve").finds_nothing("reserve")
    assert history.visible is State.COMPENSATED


def test_a_step_that_was_only_handed_back_is_not_undone() -> None:
    assert History(SHOP).released("reserve").cancelled().visible is State.COMPENSATED


def test_a_transactional_step_without_an_effect_needs_no_undo() -> None:
    definition = saga(doing("reserve", transactional=True), PAY)
    assert History(definition).declined("reserve").visible is State.COMPENSATED


def test_no_undo_starts_while_a_sibling_is_open() -> None:
    history = History(FAN).claims("a").claims("b").declined("a")
    assert history.wants == []
    assert history.succeeds("b").wants == ["undo a#1", "undo b#1"]


def test_one_unwinding_starts_however_many_reasons_there_are() -> None:
    history = History(FAN).claims("a").claims("b").declined("a").cancelled().declined("b")
    causes = [e.entry.cause for e in history.log if isinstance(e.entry, UnwindingStarted)]
    assert causes == ["step_failed"]


def test_a_scheduled_sibling_is_withdrawn_when_a_step_failed() -> None:
    assert History(FAN).declined("a").wants == ["undo a#1"]


def test_a_branch_is_undone_only_after_what_was_built_on_it() -> None:
    definition = saga(
        doing("a"), doing("b", after=["a"]), doing("c", after=["a"]), doing("d", after=["b", "c"])
    )
    history = History(definition).succeeds("a", "b", "c").declined("d")
    assert history.wants == ["undo d#1"]
    assert history.finds_nothing("d").wants == ["undo b#1", "undo c#1"]
    assert history.undoes("c").wants == ["undo b#1"]
    assert history.undoes("b").wants == ["undo a#1"]


def test_there_was_nothing_is_no_answer_while_an_effect_is_known() -> None:
    history = History(SHOP).succeeds("reserve").cancelled()
    assert history.finds_nothing("reserve").wants == ["undo reserve#2"]
    history.finds_nothing("reserve").finds_nothing("reserve")
    assert history.visible is State.FAILED_COMPENSATION


def test_an_unknown_undo_is_repeated_under_the_same_key() -> None:
    history = History(SHOP).succeeds("reserve", reference="r").cancelled()
    before = key_of(history.state, "shop", "k", "reserve", COMPENSATE)
    history.unknown("reserve", COMPENSATE)
    assert history.wants == ["undo reserve#2"]
    assert key_of(history.state, "shop", "k", "reserve", COMPENSATE) == before


def test_an_exhausted_compensation_does_not_stop_independent_ones() -> None:
    history = History(FAN).claims("a").succeeds("b").declined("a")
    history.fails("a", COMPENSATE, terminal=True, decisive=True)
    assert history.wants == ["undo b#1"]
    assert history.undoes("b").visible is State.FAILED_COMPENSATION
    assert history.state.parked is not None
    assert history.state.parked.steps == ["a"]


def test_an_exhausted_compensation_stops_those_it_was_built_on() -> None:
    definition = saga(doing("a"), doing("b", after=["a"]))
    history = History(definition).succeeds("a").declined("b").declined("b", COMPENSATE)
    assert history.visible is State.FAILED_COMPENSATION
    assert history.state.parked is not None
    assert history.state.parked.steps == ["b", "a"]


def test_an_undone_by_step_is_not_undone_twice() -> None:
    definition = saga(doing("authorize", undone_by="capture"), doing("capture"), PAY)
    history = History(definition).succeeds("authorize", "capture").declined("pay")
    history.finds_nothing("pay").undoes("capture")
    assert history.visible is State.COMPENSATED
    assert "UndoSkipped" in history.kinds


def test_undone_by_does_not_count_when_there_was_nothing_to_undo() -> None:
    definition = saga(doing("authorize", undone_by="capture"), doing("capture"))
    history = History(definition).succeeds("authorize").declined("capture").finds_nothing("capture")
    assert history.wants == ["undo authorize#1"]


def test_undone_by_does_not_count_when_no_effect_was_known() -> None:
    """A compensation that merely returned has not proved that it gave money back."""
    definition = saga(doing("authorize", undone_by="capture"), doing("capture"))
    history = History(definition).succeeds("authorize").declined("capture").undoes("capture")
    assert history.wants == ["undo authorize#1"]


def test_undone_by_counts_when_the_compensation_found_an_effect_itself() -> None:
    definition = saga(doing("authorize", undone_by="capture"), doing("capture"))
    history = History(definition).succeeds("authorize").declined("capture")
    history.succeeds("capture", direction=COMPENSATE, reference="refund-1")
    assert history.visible is State.COMPENSATED


# -- cancel and deadline ---------------------------------------------------------------------------


def test_cancel_lets_the_running_step_finish_and_then_turns_round() -> None:
    history = History(SHOP).claims("reserve").cancelled()
    assert history.wants == []
    assert history.succeeds("reserve").wants == ["undo reserve#1"]


def test_cancel_before_anything_ran_ends_the_saga_at_once() -> None:
    assert History(SHOP).cancelled().visible is State.COMPENSATED


@pytest.mark.parametrize("trouble", ["cancel", "deadline"])
def test_cancel_and_deadline_wait_while_the_pivot_is_in_play(trouble: str) -> None:
    definition = saga(RESERVE, PAY, SHIP, deadline=timedelta(minutes=1))
    history = History(definition).succeeds("reserve", "pay").claims("ship")
    history = history.cancelled() if trouble == "cancel" else history.later(minutes=2)
    assert history.visible is State.RUNNING
    assert history.unknown("ship").wants == ["ship#2"]
    assert history.declined("ship").wants == ["undo pay#1"]


def test_a_pivot_that_succeeded_after_all_makes_cancel_too_late() -> None:
    history = History(SHOP).succeeds("reserve", "pay").claims("ship").cancelled()
    assert history.succeeds("ship").visible is State.COMPLETED


def test_the_deadline_turns_a_saga_round() -> None:
    definition = saga(RESERVE, PAY, deadline=timedelta(minutes=1))
    history = History(definition).succeeds("reserve").later(seconds=61)
    assert history.wants == ["undo reserve#1"]


def test_the_deadline_is_when_the_saga_wakes() -> None:
    history = History(saga(RESERVE, PAY, deadline=timedelta(minutes=1))).claims("reserve")
    assert history.decision.wake_at == history.state.deadline_at


def test_a_deadline_that_has_passed_wakes_nobody_again() -> None:
    history = History(saga(RESERVE, PAY, deadline=timedelta(minutes=1))).claims("reserve")
    assert history.later(minutes=2).decision.wake_at is None


# -- late effects ----------------------------------------------------------------------------------


def taken_back_without_the_late_effect() -> History:
    """The second try was refused for the key, and the undo found nothing."""
    history = History(SHOP).succeeds("reserve").crashes("pay").declined("pay")
    return history.finds_nothing("pay").undoes("reserve")


def test_a_late_effect_reopens_a_compensated_saga_and_is_undone() -> None:
    history = taken_back_without_the_late_effect()
    assert history.visible is State.COMPENSATED
    assert history.late("pay", attempt=1, reference="pay-1").wants == ["undo pay#2"]
    assert history.undoes("pay").visible is State.COMPENSATED


def test_a_late_effect_that_is_already_accounted_for_changes_nothing() -> None:
    history = History(SHOP).succeeds("reserve").crashes("pay")
    history.succeeds("pay", reference="pay-1").cancelled().undoes("pay", "reserve")
    assert history.late("pay", attempt=1, reference="pay-1").visible is State.COMPENSATED


def test_an_effect_logged_after_an_undo_was_claimed_is_not_settled_by_it() -> None:
    history = History(SHOP).succeeds("reserve").crashes("pay").declined("pay")
    history.claims("pay", COMPENSATE).late("pay", attempt=1, reference="pay-1")
    assert history.undoes("pay").wants == ["undo pay#2"]


def test_each_of_two_effects_is_undone_under_a_key_of_its_own() -> None:
    history = History(SHOP).succeeds("reserve").crashes("pay")
    history.succeeds("pay", reference="pay-2").cancelled()
    first = key_of(history.state, "shop", "k", "pay", COMPENSATE)
    history.late("pay", attempt=1, reference="pay-1").undoes("pay")
    assert history.wants == ["undo pay#2"]
    assert key_of(history.state, "shop", "k", "pay", COMPENSATE) != first
    assert history.undoes("pay").wants == ["undo reserve#1"]


def test_an_undo_keeps_its_effect_and_key_when_another_effect_appears() -> None:
    history = History(SHOP).succeeds("reserve").crashes("pay")
    history.succeeds("pay", reference="pay-2").cancelled().unknown("pay", COMPENSATE)
    before = key_of(history.state, "shop", "k", "pay", COMPENSATE)
    history.late("pay", attempt=1, reference="pay-1")
    assert key_of(history.state, "shop", "k", "pay", COMPENSATE) == before


def test_the_undo_of_a_second_effect_can_be_exhausted() -> None:
    history = History(SHOP).succeeds("reserve").crashes("pay").declined("pay")
    history.claims("pay", COMPENSATE).late("pay", attempt=1, reference="pay-1").undoes("pay")
    for _ in range(3):
        history.fails("pay", COMPENSATE)
    history.undoes("reserve")
    assert history.visible is State.FAILED_COMPENSATION


@pytest.mark.parametrize("trouble", ["fails", "unknown", "crashes"])
def test_the_undo_of_a_second_effect_has_a_budget_of_its_own(trouble: str) -> None:
    history = History(SHOP).succeeds("reserve").crashes("pay")
    history.succeeds("pay", reference="pay-2").cancelled()
    history.late("pay", attempt=1, reference="pay-1")
    for _ in range(2):
        for _ in range(2):
            getattr(history, trouble)("pay", COMPENSATE)
        history.undoes("pay")
    assert history.wants == ["undo reserve#1"]


def test_the_effect_a_step_was_done_with_stays_its_own() -> None:
    history = History(SHOP).succeeds("reserve").crashes("pay")
    history.succeeds("pay", reference="pay-2", result="second").claims("ship")
    history.late("pay", attempt=1, reference="pay-1")
    counts = history.state.step("pay").effect
    assert counts is not None
    assert (counts.reference, counts.result) == ("pay-2", "second")


def test_an_effect_that_was_heard_of_before_its_step_was_done_gives_way_to_the_steps_own() -> None:
    history = History(SHOP).succeeds("reserve").crashes("pay").claims("pay")
    history.late("pay", attempt=1, reference="pay-1").succeeds("pay", reference="pay-2")
    counts = history.state.step("pay").effect
    assert counts is not None
    assert counts.reference == "pay-2"


def test_a_late_effect_settles_a_step_that_is_still_wanted() -> None:
    history = History(SHOP).crashes("reserve").late("reserve", attempt=1, reference="r")
    assert history.wants == ["pay#1"]


def test_a_late_authorization_is_undone_although_an_earlier_refund_undid_the_first() -> None:
    definition = saga(doing("authorize", undone_by="capture"), doing("capture"), PAY)
    history = History(definition).crashes("authorize")
    history.succeeds("authorize", reference="a-2").succeeds("capture", reference="c")
    history.declined("pay").finds_nothing("pay").undoes("capture")
    assert history.visible is State.COMPENSATED
    assert history.late("authorize", attempt=1, reference="a-1").wants == ["undo authorize#1"]


def test_a_pivot_that_succeeded_too_late_parks_instead_of_being_forgotten() -> None:
    history = History(SHOP).succeeds("reserve", "pay").crashes("ship").declined("ship")
    history.undoes("pay", "reserve")
    history.late("ship", attempt=1, reference="parcel-1")
    assert history.visible is State.FAILED_COMPENSATION
    assert history.state.parked is not None
    assert history.state.parked.steps == ["ship"]
