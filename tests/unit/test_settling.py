"""Given an unknown, expect a replay, a probe, or the exact question in front of an operator."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from orchestrator.definition import PROBE_RETRY, Retry
from orchestrator.entries import CancelRequested, SagaUnparked, StepStarted, UnknownReason
from orchestrator.keys import key_of
from orchestrator.settling import believed_since
from orchestrator.state import State
from tests.histories import COMPENSATE, FORWARD, PROBE, QUICK, History, doing, nothing, saga

TIMEOUT, LAG = timedelta(seconds=30), timedelta(seconds=10)


def paying(**options: Any) -> History:
    """A saga whose payment is asked for with a timeout of 30 s and a lag of 10 s."""
    step = doing("pay", timeout=TIMEOUT, **{"probe": nothing, "lag": LAG, **options})
    return History(saga(step, doing("ship", pivot=True)))


def forward_key(history: History) -> str:
    return key_of(history.state, "shop", "k", "pay", FORWARD)


def question(history: History) -> str:
    assert history.visible is State.STUCK
    assert history.state.parked is not None
    assert history.state.parked.steps == ["pay"]
    return history.state.parked.question


# -- replay or probe -------------------------------------------------------------------------------


def test_within_half_the_keys_life_an_unknown_is_replayed() -> None:
    history = paying(key_life=timedelta(hours=1)).unknown("pay").later(minutes=29)
    assert history.wants == ["pay#2"]


def test_after_half_the_keys_life_it_is_probed_and_never_replayed() -> None:
    history = paying(key_life=timedelta(hours=1)).unknown("pay").later(minutes=31)
    assert history.wants == ["probe pay#1"]


def test_the_keys_life_begins_with_the_first_attempt_not_the_last() -> None:
    history = paying(key_life=timedelta(hours=1)).unknown("pay").later(minutes=20)
    history.unknown("pay").later(minutes=11)
    assert history.wants == ["probe pay#1"]


def test_a_replay_that_would_be_due_too_late_is_not_waited_for() -> None:
    patient = Retry(max_attempts=9, base=timedelta(hours=9), cap=timedelta(hours=9))
    history = paying(retry=patient, key_life=timedelta(minutes=2)).unknown("pay")
    assert history.wants == ["probe pay#1"]


def test_a_side_that_knows_no_keys_is_never_asked_again() -> None:
    assert paying(key_life=timedelta(0)).unknown("pay").wants == ["probe pay#1"]


def test_a_side_that_never_forgets_is_replayed_until_the_budget_is_spent() -> None:
    history = paying().unknown("pay").later(days=900)
    assert history.wants == ["pay#2"]
    assert history.unknown("pay").unknown("pay").wants == ["probe pay#1"]


def test_a_step_that_takes_workers_down_is_probed_when_its_crashes_are_spent() -> None:
    assert paying().crashes("pay").crashes("pay").crashes("pay").wants == ["probe pay#1"]


# -- what a probe says -----------------------------------------------------------------------------


def probing() -> History:
    return paying(key_life=timedelta(0)).unknown("pay")


def test_a_probe_that_finds_the_effect_is_believed_at_once() -> None:
    history = probing().probed("pay", landed=True, reference="pay-1")
    assert history.wants == ["ship#1"]
    assert history.cancelled().wants == ["undo pay#1"]
    effect = history.state.effect_to_undo("pay")
    assert effect is not None
    assert effect.reference == "pay-1"


def test_not_there_is_believed_when_said_twice_after_timeout_and_lag() -> None:
    history = probing().later(seconds=41)
    before = forward_key(history)
    history.probed("pay", landed=False)
    assert history.wants == ["probe pay#2"]
    history.probed("pay", landed=False)
    assert history.wants == ["pay#2"]
    assert "StepSettled" in history.kinds
    assert forward_key(history) != before


def test_not_there_is_not_believed_of_a_probe_that_began_too_early() -> None:
    history = probing().later(seconds=39)
    for _ in range(3):
        history.probed("pay", landed=False)
    assert "StepSettled" in history.kinds
    believed = [each for each in _probes_began(history) if each >= timedelta(seconds=40)]
    assert len(believed) == 2


def _probes_began(history: History) -> list[timedelta]:
    """When each probe began, after the payment did."""
    [paid] = [each.at for each in history.log if _is_start(each, FORWARD)]
    return [each.at - paid for each in history.log if _is_start(each, PROBE)]


def _is_start(recorded: Any, direction: str) -> bool:
    entry = recorded.entry
    return type(entry).__name__ == "StepStarted" and entry.direction == direction


def test_after_an_early_denial_the_next_probe_waits_until_all_must_have_arrived() -> None:
    history = probing().probed("pay", landed=False)
    due = history.run("pay", PROBE).not_before
    began = history.state.step("pay").forward.started_at
    assert due is not None
    assert began is not None
    assert due - began >= TIMEOUT + LAG


def test_a_new_attempt_makes_earlier_denials_worthless() -> None:
    history = probing().later(seconds=41).probed("pay", landed=False)
    while history.visible is not State.STUCK:
        history.probed("pay", landed=None)
    history.settles("pay", landed=False).unparked("pay").claims("pay")
    assert history.state.step("pay").denials == ()


def test_a_probe_that_was_given_up_is_no_answer() -> None:
    history = probing().fails("pay", PROBE, crashed=True, spends_budget=False)
    assert history.wants == ["probe pay#2"]
    assert history.state.step("pay").denials == ()


def test_an_undo_that_is_told_not_there_asks_again_without_spending_its_budget() -> None:
    history = paying().declined("pay")
    for number in range(1, 20):
        assert history.wants == [f"undo pay#{number}"]
        denied(history)
    assert len(history.state.step("pay").denials) == 19
    assert history.finds_nothing("pay").visible is State.COMPENSATED


def test_an_undo_that_is_told_not_there_comes_due_when_it_must_be_shown() -> None:
    history = denied(paying().declined("pay"), retry_after_seconds=30.0)
    due = history.run("pay", COMPENSATE).not_before
    assert due is not None
    assert due - history.now >= timedelta(seconds=30)


def test_a_new_attempt_makes_denials_of_an_undo_worthless() -> None:
    history = denied(paying().declined("pay"))
    assert history.state.step("pay").denials != ()
    history.appends(StepStarted(step="pay", direction=FORWARD, attempt=2, owner="me"))
    assert history.state.step("pay").denials == ()


def test_an_undo_of_a_step_whose_budget_began_anew_counts_the_lag_from_its_first_look() -> None:
    history = probing()
    while history.visible is not State.STUCK:
        history.probed("pay", landed=None)
    history.settles("pay", landed=False).appends(
        CancelRequested(reason="looked at the bank", actor="ada"),
        SagaUnparked(by="ada", fresh=["pay"]),
    )
    first = history.looks().now
    asked = [first, first + LAG, first + LAG + timedelta(seconds=1)]

    assert history.wants == ["undo pay#1"]
    for number, moment in enumerate(asked[:2]):
        step = replace(history.state.step("pay"), denials=tuple(asked[:number]))
        assert believed_since(step, moment, LAG) == first + LAG
    last = replace(history.state.step("pay"), denials=tuple(asked[:2]))
    assert believed_since(last, asked[2], LAG) is None


def denied(history: History, **options: Any) -> History:
    """Let an undo be told that there is nothing."""
    return history.fails("pay", COMPENSATE, is_denial=True, spends_budget=False, **options)


def test_a_saga_that_is_to_be_taken_back_is_settled_by_its_probe_first() -> None:
    history = probing().cancelled().later(seconds=41)
    assert history.wants == ["probe pay#1"]
    history.probed("pay", landed=False).probed("pay", landed=False)
    assert history.wants == ["undo pay#1"]


def test_an_effect_heard_of_after_not_there_was_believed_is_the_steps() -> None:
    history = probing().later(seconds=41)
    history.probed("pay", landed=False).probed("pay", landed=False)
    assert history.late("pay", attempt=1, reference="pay-1").wants == ["ship#1"]


def test_when_both_keys_took_effect_one_is_taken_back() -> None:
    history = probing().later(seconds=41)
    history.probed("pay", landed=False).probed("pay", landed=False).claims("pay")
    history.late("pay", attempt=1, reference="pay-1").succeeds("pay", reference="pay-2")
    history.succeeds("ship")
    assert history.visible is State.COMPENSATING
    assert history.undoes("pay").visible is State.COMPLETED


# -- the question ----------------------------------------------------------------------------------


def test_a_probe_without_an_answer_has_a_budget_and_then_asks() -> None:
    history = probing()
    for _ in range(PROBE_RETRY.max_attempts):
        history.probed("pay", landed=None)
    assert question(history) == "Did pay take effect? 1 attempts and 10 probes, no answer."


def test_a_spent_budget_without_a_probe_asks() -> None:
    history = paying(probe=None).unknown("pay").unknown("pay").unknown("pay")
    assert question(history) == "Did pay take effect? 3 attempts, no answer."


def test_a_key_that_is_too_old_without_a_probe_asks() -> None:
    history = paying(probe=None, key_life=timedelta(hours=1)).unknown("pay").later(minutes=31)
    assert question(history) == (
        "Did pay take effect? its idempotency key is too old to be used again."
    )


def test_poison_asks_whether_it_is_safe() -> None:
    history = paying(probe=None).crashes("pay").crashes("pay").crashes("pay")
    assert question(history) == (
        "pay took 3 workers down: did it take effect, and is it safe to run?"
    )


def test_a_question_that_a_late_result_answers_is_not_left_standing() -> None:
    history = paying(probe=None).unknown("pay").unknown("pay").unknown("pay")
    assert history.late("pay", attempt=1, reference="pay-1").wants == ["ship#1"]


def test_another_try_after_the_question_has_a_budget_of_its_own() -> None:
    history = paying(probe=None).unknown("pay").unknown("pay").unknown("pay").unparked("pay")
    assert history.wants == ["pay#4"]
    assert history.unknown("pay").unknown("pay").wants == ["pay#6"]


# -- waiting beside an unknown ---------------------------------------------------------------------


def test_a_decisive_wait_settles_an_unknown_so_that_a_cancel_need_not_wait_for_its_end() -> None:
    history = paying().crashes("pay").waits("pay", "answer", decisive=True, hours=1)
    assert history.visible is State.WAITING
    assert history.cancelled().wants == ["undo pay#1"]


def test_a_wait_that_is_not_decisive_settles_nothing() -> None:
    history = paying().crashes("pay").waits("pay", "answer", hours=1).cancelled()
    assert history.wants == []
    assert history.hears("answer").wants == ["pay#3"]


def test_a_drained_unknown_is_replayed_however_often() -> None:
    history = paying()
    for _ in range(QUICK.max_attempts + 1):
        history.unknown("pay", reason=UnknownReason.DRAINED)
    assert history.wants == ["pay#5"]


@pytest.mark.parametrize("life", [timedelta(0), timedelta(hours=1)])
def test_an_unknown_undo_is_not_repeated_under_an_old_key(life: timedelta) -> None:
    history = paying(key_life=life).succeeds("pay", reference="pay-1").cancelled()
    history.unknown("pay", COMPENSATE).later(minutes=31)
    assert history.visible is State.FAILED_COMPENSATION


def test_an_attempt_that_dies_after_its_effect_was_proved_leaves_nothing_unknown() -> None:
    history = History(saga(doing("pay"), doing("ship"))).claims("pay").reported("pay", "r-1")
    history.crashes("pay")
    assert not history.state.step("pay").forward.unsettled
    assert history.wants == ["ship#1"]


def test_a_proved_step_whose_last_try_dies_while_the_saga_turns_round_is_undone() -> None:
    history = History(saga(doing("pay"), doing("ship"))).crashes("pay").crashes("pay")
    history.claims("pay").cancelled().reported("pay", "r-1")
    history.crashes("pay")
    assert history.wants == ["undo pay#1"]
