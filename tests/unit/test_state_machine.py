"""Given a history, expect what happens next: the promises the pure core decides."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import pytest

from orchestrator.definition import Retry
from orchestrator.entries import SagaParked, UnknownReason, UnwindingStarted
from orchestrator.keys import key_of
from orchestrator.pauses import MAX_RETRY_AFTER_SECONDS, backoff
from orchestrator.state import State
from orchestrator.state_machine import decide
from tests.histories import COMPENSATE, FORWARD, MORNING, QUICK, History, doing, saga

RESERVE, PAY, SHIP = doing("reserve"), doing("pay"), doing("ship", pivot=True)
SHOP = saga(RESERVE, PAY, SHIP)
LONG = saga(RESERVE, PAY, SHIP, doing("mail", retriable=True))
FAN = saga(doing("a"), doing("b", after=()), doing("c", after=("a", "b")))


# -- going forward ---------------------------------------------------------------------------------


def test_steps_run_one_after_the_other_and_the_saga_completes() -> None:
    history = History(SHOP)
    assert history.wants == ["reserve#1"]
    assert history.succeeds("reserve").wants == ["pay#1"]
    assert history.succeeds("pay").wants == ["ship#1"]
    assert history.succeeds("ship").visible is State.COMPLETED
    assert history.wants == []


def test_nothing_is_asked_for_while_an_attempt_is_open() -> None:
    assert History(SHOP).claims("reserve").wants == []


def test_steps_without_a_common_past_run_side_by_side_and_join() -> None:
    history = History(FAN)
    assert history.wants == ["a#1", "b#1"]
    assert history.succeeds("a").wants == ["b#1"]
    assert history.succeeds("b").wants == ["c#1"]


def test_a_step_whose_condition_is_false_is_left_out() -> None:
    definition = saga(RESERVE, doing("wrap", when=lambda order: order.gift), PAY)
    assert History(definition).succeeds("reserve").wants == ["pay#1"]
    assert History(definition, gift=True).succeeds("reserve").wants == ["wrap#1"]


def test_a_skipped_step_does_not_let_the_next_one_start_before_those_before_it() -> None:
    definition = saga(RESERVE, doing("wrap", when=lambda order: order.gift), PAY)
    assert History(definition).wants == ["reserve#1"]


def test_a_saga_whose_pivot_is_skipped_can_still_be_taken_back_before_it() -> None:
    definition = saga(RESERVE, PAY, doing("ship", pivot=True, when=lambda order: order.gift))
    history = History(definition).succeeds("reserve").declined("pay")
    assert history.visible is State.COMPENSATING
    assert history.wants == ["undo pay#1"]


def test_a_saga_whose_pivot_is_skipped_is_past_it_once_all_before_is_done() -> None:
    definition = saga(
        RESERVE,
        doing("ship", pivot=True, when=lambda order: order.gift),
        doing("mail", retriable=True),
    )
    history = History(definition).succeeds("reserve").cancelled()
    assert history.wants == ["mail#1"]


# -- retriable failures ----------------------------------------------------------------------------


def test_a_retriable_failure_is_tried_again_after_a_pause_that_grows() -> None:
    retry = Retry(max_attempts=9, base=timedelta(seconds=1), cap=timedelta(seconds=60))
    ceilings = [
        max(backoff(retry, tries, "seed", attempt) for attempt in range(200)).total_seconds()
        for tries in (1, 2, 3, 7, 50)
    ]
    assert ceilings == pytest.approx([1, 2, 4, 60, 60], rel=0.05)


@pytest.mark.parametrize("trouble", ["fails", "unknown", "crashes"])
@pytest.mark.parametrize("direction", [FORWARD, COMPENSATE])
def test_the_next_try_is_put_off_further_the_more_tries_there_were(
    trouble: str, direction: str
) -> None:
    retry = Retry(max_attempts=99, base=timedelta(seconds=1), cap=timedelta(hours=9))
    step = doing("pay", retry=retry, undo_retry=retry, max_crashes=99)
    history = History(saga(step, SHIP))
    if direction == COMPENSATE:
        history.succeeds("pay").cancelled()
    pauses = []
    for _ in range(8):
        getattr(history, trouble)("pay", direction)
        pauses.append(mean_pause(history))
    assert all(later > 1.3 * earlier for earlier, later in pairwise(pauses[1:]))
    assert pauses[-1] > timedelta(seconds=40)


def mean_pause(history: History) -> timedelta:
    """How far ahead the one wanted try is, over many sagas: one alone has its luck."""
    due = [
        decide(history.definition, history.state, history.now, f"seed-{number}").runs[0].not_before
        for number in range(200)
    ]
    pauses = [timedelta() if each is None else each - history.now for each in due]
    return sum(pauses, timedelta()) / len(pauses)


def test_the_same_attempt_always_gets_the_same_pause_and_another_saga_another_one() -> None:
    assert backoff(QUICK, 2, "one", "pay", 1) == backoff(QUICK, 2, "one", "pay", 1)
    assert backoff(QUICK, 2, "one", "pay", 1) != backoff(QUICK, 2, "two", "pay", 1)


def test_the_pause_of_very_many_tries_does_not_overflow() -> None:
    patient = Retry(max_attempts=10**6, base=timedelta(days=1), cap=timedelta(days=2))
    assert backoff(patient, 10**6, "seed") <= timedelta(days=2)


def test_the_other_sides_wish_to_be_left_alone_is_honoured() -> None:
    history = History(SHOP).fails("reserve", retry_after_seconds=30.0)
    due = history.run("reserve").not_before
    assert due is not None
    assert due - history.now >= timedelta(seconds=30)


def test_an_absurd_wish_to_be_left_alone_is_cut_to_a_day() -> None:
    history = History(SHOP).fails("reserve", retry_after_seconds=1e30)
    due = history.run("reserve").not_before
    assert due is not None
    assert due - history.now <= timedelta(seconds=MAX_RETRY_AFTER_SECONDS + 2)


def test_spent_tries_count_as_final() -> None:
    history = History(SHOP).succeeds("reserve").fails("pay").fails("pay")
    assert history.wants == ["pay#3"]
    assert history.fails("pay").visible is State.COMPENSATING


def test_a_try_that_was_rate_limited_spends_no_budget() -> None:
    history = History(SHOP)
    for _ in range(QUICK.max_attempts + 2):
        history.fails("reserve", spends_budget=False)
    assert history.visible is State.RUNNING


def test_the_pause_after_tries_that_spend_no_budget_grows_too() -> None:
    """An open breaker without a hint must not fill the log at full speed."""
    patient = Retry(max_attempts=3, base=timedelta(seconds=1), cap=timedelta(hours=1))
    history = History(saga(doing("pay", retry=patient)))
    for _ in range(12):
        history.fails("pay", spends_budget=False)
    due = history.run("pay").not_before
    assert due is not None
    assert due - history.now > timedelta(minutes=1)


def test_an_attempt_handed_back_spends_no_budget_and_is_due_at_once() -> None:
    history = History(SHOP)
    for _ in range(QUICK.max_attempts + 2):
        history.released("reserve")
    assert history.run("reserve").not_before is None


# -- unknown is not "no" ---------------------------------------------------------------------------


def test_an_unknown_step_is_repeated_before_anything_is_compensated() -> None:
    history = History(SHOP).succeeds("reserve").unknown("pay").cancelled()
    assert history.visible is State.RUNNING
    assert history.wants == ["pay#2"]


def test_a_replay_that_finds_the_effect_settles_the_unknown() -> None:
    history = History(SHOP).succeeds("reserve").unknown("pay").cancelled()
    history.succeeds("pay", reference="pay-1")
    assert history.wants == ["undo pay#1"]


def test_a_refusal_that_did_not_come_from_the_other_side_settles_nothing() -> None:
    history = History(SHOP).succeeds("reserve").unknown("pay").fails("pay", terminal=True)
    assert history.wants == ["pay#3"]
    assert history.visible is State.RUNNING


def test_a_retriable_failure_does_not_settle_an_earlier_unknown() -> None:
    history = History(SHOP).succeeds("reserve").unknown("pay").fails("pay").cancelled()
    assert history.wants == ["pay#3"]


def test_a_decisive_refusal_settles_the_unknown_and_the_saga_turns_round() -> None:
    history = History(SHOP).succeeds("reserve").unknown("pay").declined("pay")
    assert history.visible is State.COMPENSATING


def test_an_unknown_that_nobody_answers_parks_and_names_the_question() -> None:
    history = History(SHOP).succeeds("reserve").unknown("pay").unknown("pay").unknown("pay")
    assert history.visible is State.STUCK
    parked = history.state.parked
    assert parked is not None
    assert (parked.reason, parked.steps) == ("unknown", ["pay"])
    assert "Did pay take effect?" in parked.question


def test_a_probe_that_says_not_landed_gives_the_step_a_new_key() -> None:
    history = History(SHOP).unknown("reserve")
    before = key_of(history.state, "shop", "k", "reserve", FORWARD)
    history.settles("reserve", landed=False)
    assert key_of(history.state, "shop", "k", "reserve", FORWARD) != before


def test_a_probe_that_says_landed_is_as_good_as_a_result() -> None:
    history = History(SHOP).unknown("reserve").settles("reserve", landed=True, reference="r")
    assert history.wants == ["pay#1"]


def test_a_drained_attempt_is_unknown_but_spends_nothing_and_is_repeated_at_once() -> None:
    history = History(SHOP)
    for _ in range(5):
        history.unknown("reserve", reason=UnknownReason.DRAINED)
    assert history.run("reserve").not_before is None


# -- crashes ---------------------------------------------------------------------------------------


def test_a_first_crash_is_repeated_at_once_and_the_next_after_a_pause() -> None:
    history = History(SHOP).crashes("reserve")
    assert history.run("reserve").not_before is None
    assert history.crashes("reserve").run("reserve").not_before is not None


def test_the_last_try_of_a_step_that_kills_workers_runs_alone() -> None:
    history = History(SHOP).crashes("reserve")
    assert not history.run("reserve").alone
    assert history.crashes("reserve").run("reserve").alone


def test_poison_parks_instead_of_taking_down_more_workers() -> None:
    history = History(SHOP).crashes("reserve").crashes("reserve").crashes("reserve")
    assert history.visible is State.STUCK
    assert history.state.parked is not None
    assert history.state.parked.reason == "poison"


def test_only_the_very_last_try_runs_alone() -> None:
    history = History(saga(doing("reserve", max_crashes=4)))
    alone = [history.crashes("reserve").run("reserve").alone for _ in range(3)]
    assert alone == [False, False, True]


def test_a_transactional_step_that_kills_workers_is_poison_too() -> None:
    history = History(saga(doing("reserve", transactional=True)))
    for _ in range(3):
        history.fails("reserve", crashed=True, spends_budget=False)
    assert history.visible is State.STUCK
    assert history.state.parked is not None
    assert history.state.parked.reason == "poison"


def test_a_single_allowed_crash_never_runs_alone_first() -> None:
    history = History(saga(doing("reserve", max_crashes=1)))
    assert not history.run("reserve").alone
    assert history.crashes("reserve").visible is State.STUCK


def test_crashes_and_failures_have_budgets_of_their_own() -> None:
    history = History(SHOP).crashes("reserve").crashes("reserve").unknown("reserve")
    assert history.visible is State.RUNNING


def test_a_compensation_that_kills_workers_is_exhausted() -> None:
    history = History(SHOP).succeeds("reserve").declined("pay").undoes("pay")
    for _ in range(3):
        history.crashes("reserve", COMPENSATE)
    assert history.visible is State.FAILED_COMPENSATION


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


# -- past the pivot --------------------------------------------------------------------------------


def test_past_the_pivot_nothing_is_taken_back() -> None:
    history = History(LONG).succeeds("reserve", "pay", "ship").cancelled()
    assert history.wants == ["mail#1"]
    assert history.succeeds("mail").visible is State.COMPLETED


def test_a_step_that_cannot_succeed_past_the_pivot_is_stuck() -> None:
    history = History(LONG).succeeds("reserve", "pay", "ship").declined("mail")
    assert history.visible is State.STUCK
    assert history.state.parked is not None
    assert history.state.parked.reason == "failed_after_pivot"


def test_a_saga_parks_only_when_nothing_of_it_moves() -> None:
    definition = saga(
        SHIP,
        doing("mail", retriable=True, after=["ship"]),
        doing("invoice", retriable=True, after=["ship"]),
    )
    history = History(definition).succeeds("ship").claims("invoice").declined("mail")
    assert history.visible is State.RUNNING
    assert history.succeeds("invoice").visible is State.STUCK


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


# -- waiting ---------------------------------------------------------------------------------------


def test_a_wait_holds_no_worker_until_its_moment() -> None:
    history = History(SHOP).waits("reserve", "answer", minutes=5)
    assert history.visible is State.WAITING
    assert history.wants == []
    assert history.decision.wake_at == MORNING + timedelta(minutes=5)
    assert history.later(minutes=5).wants == ["reserve#2"]


def test_a_signal_wakes_the_step_as_a_new_attempt_without_spending_budget() -> None:
    history = History(SHOP)
    for number in range(QUICK.max_attempts + 1):
        history.waits("reserve", "answer", minutes=5).hears("answer", number)
        assert history.wants == [f"reserve#{number + 2}"]
        history.claims("reserve")
        signal = history.state.step("reserve").signal
        assert signal is not None
        assert signal.payload == number


def test_a_signal_that_came_before_the_wait_is_not_lost() -> None:
    history = History(SHOP).claims("reserve").hears("answer").waits("reserve", "answer", minutes=5)
    assert history.wants == ["reserve#2"]


def test_a_step_may_wait_for_one_signal_after_another() -> None:
    history = History(SHOP).waits("reserve", "first", minutes=5).hears("first", 1)
    history.waits("reserve", "second", minutes=5).hears("second", 2)
    assert history.wants == ["reserve#3"]
    signal = history.claims("reserve").state.step("reserve").signal
    assert signal is not None
    assert signal.payload == 2


def test_a_signal_is_given_again_to_the_attempt_after_a_failed_one() -> None:
    history = History(SHOP).waits("reserve", "answer", minutes=5).hears("answer", "yes")
    history.fails("reserve").claims("reserve")
    signal = history.state.step("reserve").signal
    assert signal is not None
    assert signal.payload == "yes"


def test_a_wait_that_ends_by_its_deadline_has_no_signal() -> None:
    history = History(SHOP).waits("reserve", "answer", minutes=5).later(minutes=6)
    assert history.claims("reserve").state.step("reserve").signal is None


def test_an_unknown_step_that_then_waits_is_not_asked_again_before_its_moment() -> None:
    history = History(SHOP).crashes("reserve").waits("reserve", "answer", minutes=5)
    assert history.wants == []
    assert history.cancelled().wants == []
    assert history.later(minutes=5).wants == ["reserve#3"]


def test_a_wait_that_was_over_from_the_start_is_followed_by_a_pause() -> None:
    history = History(SHOP).waits("reserve", "answer", minutes=-1)
    assert history.run("reserve").not_before is not None


def test_a_waiting_saga_can_be_cancelled() -> None:
    history = History(SHOP).waits("reserve", "answer", minutes=5).cancelled()
    assert history.wants == ["undo reserve#1"]


# -- decisions -------------------------------------------------------------------------------------


def test_a_parked_saga_asks_for_nothing() -> None:
    history = History(LONG).succeeds("reserve", "pay", "ship").declined("mail").later(hours=1)
    assert history.wants == []
    assert sum(isinstance(each.entry, SagaParked) for each in history.log) == 1


def test_a_read_only_step_needs_no_undo() -> None:
    definition = saga(RESERVE, doing("screen", read_only=True), PAY)
    history = History(definition).succeeds("reserve", "screen").declined("pay").finds_nothing("pay")
    assert history.wants == ["undo reserve#1"]


def test_a_step_declared_to_need_no_undo_is_not_undone() -> None:
    definition = saga(doing("note", no_compensation="none, because it is a note"), PAY)
    history = History(definition).succeeds("note").declined("pay").finds_nothing("pay")
    assert history.visible is State.COMPENSATED


def test_the_function_of_a_step_is_never_called_by_the_core() -> None:
    def explode(_context: object) -> None:
        raise AssertionError("the pure core called a step")

    history = History(saga(doing("pay", compensation=explode)))
    assert history.succeeds("pay").visible is State.COMPLETED
