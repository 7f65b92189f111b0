"""Whether a saga that has nothing left to do may end: its definition's closing check says."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from orchestrator.actions import AwaitClosing, Compensated, Complete, Park
from orchestrator.books import books, movements
from orchestrator.closing import Close, Closing, HoldOn, Stop
from orchestrator.definition import SagaDefinition
from orchestrator.state import FoldedSaga, State

CLOSING_CHECK = "closing_check"
"""Why a saga is parked whose books do not allow its end."""


def ending(
    definition: SagaDefinition[Any], state: FoldedSaga, now: datetime, end: Complete | Compensated
) -> Complete | Compensated | AwaitClosing | Park:
    """Return `end`, or what the closing check wants instead."""
    completes = isinstance(end, Complete)
    answer = checked(definition, state, now, completes=completes)
    match answer:
        case Close():
            return end
        case HoldOn(until=until) if until > now:
            return AwaitClosing(until=until)
        case HoldOn(until=until):
            return _park(state, f"What was to be settled by {until:%Y-%m-%d %H:%M} UTC is not.")
        case Stop(question=question):
            return _park(state, question)


def _park(state: FoldedSaga, question: str) -> Park:
    parked = State.FAILED_COMPENSATION if state.phase is State.COMPENSATING else State.STUCK
    return Park(state=parked, reason=CLOSING_CHECK, question=question, steps=())


def checked(
    definition: SagaDefinition[Any], state: FoldedSaga, now: datetime, *, completes: bool
) -> Close | HoldOn | Stop:
    """Return what the definition's closing check says of the saga as it stands."""
    return definition.closing(
        Closing(
            outcome=(State.COMPLETED if completes else State.COMPENSATED).value,
            payload=state.payload,
            skipped=frozenset(name for name, step in state.steps.items() if step.skipped),
            books=books(state.money),
            movements=movements(state.money),
            now=now,
        )
    )
