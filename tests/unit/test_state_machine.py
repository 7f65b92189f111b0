"""Given a history, expect what happens next: going forward, and what that may meet."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import pytest

from orchestrator.definition import Retry
from orchestrator.entries import SagaParked, UnknownReason
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
