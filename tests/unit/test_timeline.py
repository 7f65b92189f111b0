"""A saga's log as a timeline."""

from __future__ import annotations

from recovery.timeline import timeline
from tests.histories import COMPENSATE, History, doing, saga

SHOP = saga(doing("reserve"), doing("pay"), doing("ship", pivot=True))


def told(history: History) -> list[tuple[str | None, str | None, int | None, str]]:
    return [(e.step, e.direction, e.attempt, e.outcome) for e in timeline(history.log)]


def test_each_attempt_is_one_line_with_its_outcome() -> None:
    history = History(SHOP).succeeds("reserve").fails("pay").succeeds("pay", "ship")
    assert told(history) == [
        (None, None, None, "started"),
        ("reserve", "forward", 1, "succeeded"),
        ("pay", "forward", 1, "failed, to be tried again"),
        ("pay", "forward", 2, "succeeded"),
        ("ship", "forward", 1, "succeeded"),
        (None, None, None, "completed"),
    ]


def test_what_is_taken_back_is_told_with_its_cause() -> None:
    history = History(SHOP).succeeds("reserve").declined("pay")
    history.undoes("pay", "reserve")
    lines = timeline(history.log)
    turn = next(each for each in lines if each.outcome == "taking back")
    assert turn.detail == "step failed: pay"
    assert [each.step for each in lines if each.direction == COMPENSATE] == ["pay", "reserve"]
    assert lines[-1].outcome == "compensated"


def test_an_attempt_that_runs_has_no_duration() -> None:
    running = timeline(History(SHOP).claims("reserve").log)[-1]
    assert running.outcome == "running"
    assert running.took is None
    assert running.owner == "me"


def test_an_unknown_outcome_names_its_reason() -> None:
    history = History(SHOP).succeeds("reserve").crashes("pay")
    assert "unknown (lease_lost)" in [each.outcome for each in timeline(history.log)]
