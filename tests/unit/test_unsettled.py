"""Which outcomes a log leaves unknown, and since when."""

from __future__ import annotations

from datetime import timedelta

from orchestrator.definition import Retry
from orchestrator.entries import Direction
from orchestrator.state import State
from orchestrator.unsettled import Followed, Unsettled, unsettled
from tests.histories import COMPENSATE, MORNING, History, doing, saga

SHOP = saga(doing("pay"), doing("ship"))


def names(history: History) -> list[tuple[str, Direction]]:
    return [(each.step, each.direction) for each in unsettled(history.log)]


def test_nothing_is_unsettled_of_a_saga_that_only_runs() -> None:
    history = History(SHOP).claims("pay")
    assert unsettled(history.log) == []


def test_an_unknown_counts_from_its_first_attempt_however_many_follow() -> None:
    history = History(SHOP).unknown("pay")
    first = history.log[-1]
    history.later(minutes=1).unknown("pay")
    assert unsettled(history.log) == [
        Unsettled(step="pay", direction=Direction.FORWARD, seq=first.seq, since=first.at)
    ]
    assert first.at < MORNING + timedelta(minutes=1)


def test_a_refused_repetition_settles_nothing() -> None:
    history = History(SHOP).unknown("pay").fails("pay")
    assert names(history) == [("pay", Direction.FORWARD)]


def test_an_answer_settles_it() -> None:
    history = History(SHOP).unknown("pay").succeeds("pay")
    assert unsettled(history.log) == []


def test_an_undo_may_be_unknown_too() -> None:
    history = History(SHOP).succeeds("pay").fails("ship", terminal=True)
    history.finds_nothing("ship").unknown("pay", COMPENSATE)
    assert names(history) == [("pay", Direction.COMPENSATE)]


def test_a_step_that_waits_for_the_payer_is_not_waiting_for_us() -> None:
    history = History(SHOP).unknown("pay").waits("pay", "challenge", hours=1)
    assert unsettled(history.log) == []


def test_a_parked_saga_asks_a_person_already() -> None:
    history = History(saga(doing("pay", retry=Retry(max_attempts=1)))).unknown("pay")
    assert history.visible is State.STUCK
    assert unsettled(history.log) == []


def test_a_log_that_is_followed_says_at_each_entry_what_the_whole_one_does() -> None:
    history = History(saga(doing("pay"), doing("ship")))
    history.unknown("pay").unknown("pay").succeeds("pay").unknown("ship").succeeds("ship")
    followed = Followed()
    for place, recorded in enumerate(history.log, start=1):
        followed = followed.through([recorded])
        assert followed.unsettled() == unsettled(history.log[:place])
