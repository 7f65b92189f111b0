"""What a saga's log says against letting it go, told without its definition."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from orchestrator.entries import (
    EffectReported,
    SagaResolved,
    StepSkipped,
    UndoFailed,
    encode,
)
from recovery.pruner import unfinished
from tests.histories import COMPENSATE, History, doing, saga

SHOP = saga(doing("pay"), doing("ship"))
CHECKED = saga(doing("look", read_only=True), doing("pay"), doing("ship"))


def stored(history: History) -> list[dict[str, Any]]:
    """The log as the archive has it."""
    return [
        {
            "seq": each.seq,
            "recorded_at": each.at.isoformat(),
            "kind": encode(each.entry)[0],
            "data": encode(each.entry)[1],
        }
        for each in history.log
    ]


def verdict(history: History) -> str | None:
    return unfinished(stored(history))


def resolved(history: History) -> History:
    return history.records(SagaResolved(actor="me", reason="seen to"))


def completed() -> History:
    return History(SHOP).succeeds("pay", reference="ch_1").succeeds("ship", reference="p_1")


def compensated() -> History:
    history = History(SHOP).succeeds("pay", reference="ch_1").declined("ship")
    return history.finds_nothing("ship").undoes("pay")


def could_not_be_undone() -> History:
    history = History(SHOP).succeeds("pay", reference="ch_1").declined("ship")
    history.finds_nothing("ship").declined("pay", COMPENSATE)
    assert history.visible == "failed_compensation"
    return history


def test_what_ended_as_it_should_may_go() -> None:
    for history in (completed(), compensated()):
        assert history.state.is_terminal
        assert verdict(history) is None


def test_a_step_that_nothing_undoes_keeps_no_compensated_saga() -> None:
    history = History(CHECKED).succeeds("look", "pay", reference="ch_1").declined("ship")
    history.finds_nothing("ship").undoes("pay")
    assert history.visible == "compensated"
    assert verdict(history) is None


def test_an_attempt_that_the_log_calls_open_keeps_it() -> None:
    log = stored(completed())
    began = {"step": "pay", "direction": "compensate", "attempt": 1, "owner": "me"}
    log.append({**log[-1], "seq": len(log) + 1, "kind": "StepStarted", "data": began})
    assert unfinished(log) == "open_attempt"


def test_an_unknown_that_nobody_settled_keeps_it() -> None:
    history = History(SHOP).unknown("pay")
    assert verdict(resolved(history)) == "unknown"


def test_an_unknown_that_was_settled_does_not() -> None:
    history = History(SHOP).unknown("pay").succeeds("pay", "ship")
    assert history.visible == "completed"
    assert verdict(history) is None


def test_an_effect_that_a_person_left_where_it_could_not_be_undone_keeps_it() -> None:
    assert verdict(resolved(could_not_be_undone())) == "uncovered_effect"


def test_an_undo_that_a_person_said_is_not_needed_does_not() -> None:
    history = could_not_be_undone()
    history.records(StepSkipped(step="pay", direction=COMPENSATE, by="me"))
    assert verdict(resolved(history)) is None


def test_money_that_is_still_held_keeps_a_saga_that_was_taken_back() -> None:
    history = compensated()
    log = stored(history)
    log[2]["data"]["movements"] = [{"kind": "authorize", "amount_minor": 100, "currency": "EUR"}]
    assert log[2]["kind"] == "StepSucceeded"
    assert unfinished(log) == "uncovered_effect"


def test_what_is_heard_after_the_end_and_not_yet_acted_on_keeps_it() -> None:
    log = stored(compensated())
    reported = EffectReported(step="pay", reference="ch_2", by="a report")
    log.append({**log[-1], "seq": len(log) + 1, "kind": "EffectReported", "data": asdict(reported)})
    assert unfinished(log) == "uncovered_effect"

    log = stored(compensated())
    failed = UndoFailed(step="pay", reference="ch_1", by="a webhook")
    log.append({**log[-1], "seq": len(log) + 1, "kind": "UndoFailed", "data": asdict(failed)})
    assert unfinished(log) == "uncovered_effect"

    log = stored(completed())
    log.append({**log[-1], "seq": len(log) + 1, "kind": "EffectReported", "data": asdict(reported)})
    assert unfinished(log) == "uncovered_effect"


@pytest.mark.parametrize("damage", [{"kind": "SagaDreamt"}, {"seq": 9}, {"data": {"odd": 1}}])
def test_a_log_that_cannot_be_read_keeps_it(damage: dict[str, Any]) -> None:
    log = stored(completed())
    log[2] |= damage
    assert unfinished(log) == "unreadable"
