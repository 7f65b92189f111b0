"""A probe that still runs, or whose process died, when its step was settled by something else."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from orchestrator.definition import Retry
from orchestrator.entries import (
    LateOutcomeRecorded,
    SagaCompleted,
    StepFailed,
    StepStarted,
    StepSucceeded,
    StepUnknown,
    UndoRequested,
    UnknownReason,
)
from orchestrator.outcomes import given_up
from orchestrator.state import State
from tests.histories import FORWARD, PROBE, History, doing, nothing, saga


def _probed(**options: Any) -> History:
    """The charge was not answered, a probe asks about it, and then the answer comes after all."""
    pay = doing(
        "pay",
        probe=nothing,
        timeout=timedelta(seconds=5),
        retry=Retry(max_attempts=1),
        **options,
    )
    history = History(saga(pay, doing("ship")))
    history.records(StepStarted(step="pay", direction=FORWARD, attempt=1, owner="a"))
    history.records(
        StepUnknown(step="pay", direction=FORWARD, attempt=1, reason=UnknownReason.TIMED_OUT)
    )
    history.later(hours=1)
    history.records(StepStarted(step="pay", direction=PROBE, attempt=1, owner="a"))
    history.records(
        LateOutcomeRecorded(
            step="pay", direction=FORWARD, attempt=1, outcome="succeeded", reference="r1"
        )
    )
    _runs_all(history)
    return history


def _runs_all(history: History) -> None:
    while history.decision.runs:
        run = history.decision.runs[0]
        named: dict[str, Any] = {"step": run.step, "attempt": run.attempt}
        history.records(StepStarted(direction=run.direction, owner="a", **named))
        history.records(StepSucceeded(direction=run.direction, **named))


def _phase(history: History) -> State:
    return history.state.phase


def _process_dies(history: History) -> None:
    step = history.definition.step("pay")
    lost = given_up(step, PROBE, 1, UnknownReason.CRASHED)
    assert isinstance(lost, StepFailed)
    history.records(lost)


def test_a_saga_does_not_end_while_a_probe_of_it_runs() -> None:
    history = _probed()
    assert _phase(history) is State.RUNNING

    _process_dies(history)

    assert _phase(history) is State.COMPLETED


@pytest.mark.parametrize("options", [{}, {"no_compensation": "none"}], ids=["undone", "not undone"])
def test_a_saga_that_ended_under_an_open_probe_can_be_taken_back_all_the_same(
    options: dict[str, Any],
) -> None:
    history = _probed(**options)
    history.appends(SagaCompleted())  # as a version before this rule decided
    history.records(UndoRequested(reason="the parent takes it back", actor="parent"))
    _runs_all(history)
    assert _phase(history) is State.COMPENSATING

    _process_dies(history)
    _runs_all(history)

    assert _phase(history) is State.COMPENSATED
