"""A log folds to a state, and a damaged or forged one is noticed where it is read."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.entries import (
    Entry,
    Recorded,
    SagaCompensated,
    SagaCompleted,
    SagaParked,
    SagaResolved,
    SagaStarted,
    SagaUnparked,
    StepFailed,
    StepStarted,
    StepSucceeded,
    UnwindingStarted,
)
from orchestrator.errors import HistoryError
from orchestrator.folding import apply, replay
from orchestrator.state import PHASES, FoldedSaga, State
from tests.histories import FORWARD, MORNING, History, doing, saga

STARTED = SagaStarted(payload={})


def recorded(*entries: Entry) -> list[Recorded]:
    return [Recorded(seq=n, at=MORNING, entry=entry) for n, entry in enumerate(entries, 1)]


def claim(attempt: int = 1) -> StepStarted:
    return StepStarted(step="a", direction=FORWARD, attempt=attempt, owner="me")


def success(attempt: int = 1, **options: Any) -> StepSucceeded:
    return StepSucceeded(step="a", direction=FORWARD, attempt=attempt, **options)


FORGED: dict[str, list[Entry]] = {
    "a log without a start": [claim()],
    "a second start": [STARTED, STARTED],
    "an attempt started twice": [STARTED, claim(), claim()],
    "an attempt started while another runs": [STARTED, claim(1), claim(2)],
    "an attempt number used again": [STARTED, claim(1), success(1), claim(1)],
    "an outcome without an attempt": [STARTED, success()],
    "an outcome of another attempt": [STARTED, claim(2), success(1)],
    "two outcomes of one attempt": [STARTED, claim(), success(), success()],
    "an end without an unwinding": [STARTED, SagaCompensated()],
    "an unwinding after completion": [STARTED, SagaCompleted(), UnwindingStarted(cause="late")],
    "a second completion": [STARTED, SagaCompleted(), SagaCompleted()],
    "a resolution while an attempt runs": [STARTED, claim(), SagaResolved(actor="m", reason="b")],
    "a second effect of a running saga": [STARTED, UnwindingStarted(cause="second_effect")],
    "an answer to no question": [STARTED, SagaUnparked(by="me")],
    "parked twice": [STARTED, *[SagaParked(state="stuck", reason="r", question="q")] * 2],
}


@pytest.mark.parametrize("case", FORGED)
def test_a_history_the_engine_could_not_have_written_is_refused(case: str) -> None:
    with pytest.raises(HistoryError):
        replay(recorded(*FORGED[case]))


def test_a_missing_entry_is_noticed() -> None:
    entries = recorded(STARTED, claim(), success())
    with pytest.raises(HistoryError, match="seq 3 after 1; an entry is missing"):
        replay([entries[0], entries[2]])


def test_replaying_the_rest_continues_from_a_state() -> None:
    entries = recorded(STARTED, claim(), success(reference="r"))
    assert replay(entries[2:], replay(entries[:2])) == replay(entries)


def test_a_state_is_not_changed_by_applying_to_it() -> None:
    before = replay(recorded(STARTED))
    apply(before, Recorded(seq=2, at=MORNING, entry=claim()))
    assert before.step("a").forward.open_attempt is None


def test_a_success_is_an_effect_with_its_reference_and_place() -> None:
    state = replay(recorded(STARTED, claim(), success(reference="pay-1", result={"x": 1})))
    effect = state.step("a").effect
    assert effect is not None
    assert (effect.seq, effect.reference, effect.result) == (3, "pay-1", {"x": 1})


def test_a_failure_is_no_effect() -> None:
    failed = StepFailed(step="a", direction=FORWARD, attempt=1, terminal=True, error={})
    assert replay(recorded(STARTED, claim(), failed)).step("a").effect is None


def test_a_step_nothing_happened_to_is_fresh() -> None:
    assert replay(recorded(STARTED)).step("a").forward.attempts == 0


def test_what_an_operator_closed_is_final() -> None:
    left = {state for state, _ in PHASES}
    assert State.RESOLVED not in left
    assert not FoldedSaga().is_terminal


def test_the_first_cancel_is_the_one_that_counts() -> None:
    history = History(saga(doing("a"))).claims("a").cancelled()
    first = history.state.cancel
    assert history.cancelled().state.cancel is first
