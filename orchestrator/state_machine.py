"""What must happen next: the pure function at the centre of the engine.

Theory of operation. A saga's log folds to a state (`orchestrator.folding`). `next_actions` looks at
the definition, the state and a moment, and names *all* that must happen: the attempts that should
be scheduled, or one turn of the saga (unwind, park, end). It reads no clock, no database and no
randomness, so the same log always gives the same answer, on any machine, in any test.

`decide` repeats this until only attempts are left, and returns the entries of the decisions taken
on the way. Whoever carries them out does so by compare-and-set on the log's seq: who loses reads
what the other wrote and asks again. Since the answer names the complete set of attempts, carrying
it out twice changes nothing; that is why recovery needs no path of its own.

The rules are where the phases are, each a promise of the design:

    running        `orchestrator.going_forward`   steps in order, trouble, the pivot
      unknown      `orchestrator.settling`        replay, probe, or an operator's answer
    compensating   `orchestrator.unwinding`       in reverse; what cannot be undone is left over
    parked         here                           goes on when what was asked is answered
    ended          `orchestrator.unwinding`       reopened by an effect that nobody accounts for
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from orchestrator.actions import (
    Action,
    AwaitClosing,
    AwaitLock,
    AwaitSignal,
    CloseByWord,
    Compensated,
    Complete,
    Park,
    RefuseCancel,
    RunStep,
    Settle,
    SkipUndo,
    StartUnwinding,
    Unpark,
)
from orchestrator.closing import Close
from orchestrator.definition import SagaDefinition
from orchestrator.ending import CLOSING_CHECK, checked
from orchestrator.entries import (
    CancelRefused,
    Entry,
    Recorded,
    SagaCompensated,
    SagaCompleted,
    SagaParked,
    SagaResolved,
    SagaUnparked,
    StepSettled,
    StepWaiting,
    UndoSkipped,
    UnwindingStarted,
)
from orchestrator.errors import HistoryError
from orchestrator.folding import apply
from orchestrator.going_forward import going_forward, is_past_the_pivot, parked_child
from orchestrator.payloads import payload_fits
from orchestrator.state import PAYLOAD, SET_ASIDE, FoldedSaga, State
from orchestrator.unwinding import after_the_end, unwinding

Definition = SagaDefinition[Any]


MAX_DECISIONS = 1000
"""More turns than any saga has steps to skip; a rule that turned for ever would hold a worker."""

BY_WORD = "by word of both; it could not be looked up"
"""Why a saga is resolved that went on by the unverified word of two persons."""

HEARD = "what was heard since"
"""Who answered, when a parked saga goes on by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The decisions taken on a state, and what must be true after them.

    Args:
        entries: to be appended, in order; empty when nothing was decided.
        state: the state with those entries.
        runs: the complete set of attempts that should be scheduled and are not yet claimed.
        wake_at: the next moment at which the answer may change by itself, or None.
        awaits: a step waits for a signal or a moment, or the saga for its lock.
        visible: the state's name as users see it.
    """

    entries: tuple[Entry, ...]
    state: FoldedSaga
    runs: tuple[RunStep, ...]
    wake_at: datetime | None
    awaits: bool
    visible: State


def decide(definition: Definition, state: FoldedSaga, now: datetime, seed: str) -> Decision:
    """Take every decision that `state` asks for at `now`.

    Args:
        seed: the saga's id; it spreads the pauses of many sagas that failed together.
    """
    entries: list[Entry] = []
    while len(entries) < MAX_DECISIONS:
        actions = next_actions(definition, state, now, seed)
        decisions = [entry for each in actions if (entry := _entry_of(each)) is not None]
        if not decisions:
            return _decision(definition, state, now, tuple(entries), actions)
        for entry in decisions:
            state = apply(state, Recorded(seq=state.seq + 1, at=now, entry=entry))
        entries.extend(decisions)
    raise HistoryError(f"the saga is decided on without end: {[*map(type, entries[-4:])]}")


def next_actions(
    definition: Definition, state: FoldedSaga, now: datetime, seed: str
) -> tuple[Action, ...]:
    """Name everything that must happen now; empty while the saga waits for an open attempt."""
    match state.phase:
        case State.RUNNING:
            return going_forward(definition, state, now, seed)
        case State.COMPENSATING:
            return unwinding(definition, state, now, seed)
        case State.COMPENSATED | State.COMPLETED:
            return after_the_end(definition, state)
        case State.STUCK | State.FAILED_COMPENSATION:
            return _while_parked(definition, state, now)
        case _:
            return ()


def _while_parked(definition: Definition, state: FoldedSaga, now: datetime) -> tuple[Action, ...]:
    """Go on by itself when what was asked has been answered: by what was heard since."""
    assert state.parked is not None, "a parked saga has a question"
    if state.parked.reason == CLOSING_CHECK:
        completes = state.parked_from is State.RUNNING or state.undoes_second_effects_only
        answer = checked(definition, state, now, completes=completes)
        return (Unpark(by=HEARD),) if isinstance(answer, Close) else ()
    if state.parked.reason in SET_ASIDE:
        return (Unpark(by=HEARD),) if _is_in_order(definition, state) else ()
    if state.parked.reason not in ("unknown", "poison", "child_parked"):
        return ()
    for name in state.parked.steps:
        step = state.step(name)
        if state.parked.reason == "child_parked":
            track = step.undo if state.parked_from is State.COMPENSATING else step.forward
            if isinstance(track.last, StepWaiting) and parked_child(state, track.last):
                return ()
        elif step.forward.unsettled or not step.is_done:
            return ()
    return (Unpark(by=HEARD),)


def _is_in_order(definition: Definition, state: FoldedSaga) -> bool:
    """Whether a saga that was set aside may be tried again: what was wrong may have been mended.

    That it is read is proof enough, unless it holds entries that an operator has to judge. If
    deciding raises still, nothing is written.
    """
    assert state.parked is not None, "a parked saga has a question"
    if state.parked.reason == PAYLOAD:
        return payload_fits(definition, state.payload)
    return state.voided.issuperset(state.parked.entries)


def _entry_of(action: Action) -> Entry | None:
    match action:
        case StartUnwinding():
            return UnwindingStarted(cause=action.cause, step=action.step)
        case SkipUndo():
            return UndoSkipped(step=action.step, undone_by=action.undone_by)
        case Settle():
            return StepSettled(
                step=action.step,
                direction=action.direction,
                landed=False,
                by="probe",
                attempt=action.attempt,
            )
        case RefuseCancel():
            return CancelRefused(pivot=action.pivot)
        case Park():
            return SagaParked(
                state=action.state,
                reason=action.reason,
                question=action.question,
                steps=list(action.steps),
            )
        case Unpark():
            return SagaUnparked(by=action.by)
        case Complete():
            return SagaCompleted()
        case Compensated():
            return SagaCompensated()
        case CloseByWord():
            return SagaResolved(actor=" and ".join(action.persons), reason=BY_WORD)
        case RunStep() | AwaitSignal() | AwaitLock() | AwaitClosing():
            return None


def _decision(
    definition: Definition,
    state: FoldedSaga,
    now: datetime,
    entries: tuple[Entry, ...],
    actions: Sequence[Action],
) -> Decision:
    runs = tuple(each for each in actions if isinstance(each, RunStep))
    waits = [each.until for each in actions if isinstance(each, AwaitSignal | AwaitClosing)]
    awaits = bool(waits) or any(isinstance(each, AwaitLock) for each in actions)
    is_waiting = awaits and not runs and not state.is_open and state.phase is State.RUNNING
    return Decision(
        entries=entries,
        state=state,
        runs=runs,
        wake_at=min([*waits, *_deadline_ahead(definition, state, now)], default=None),
        awaits=awaits,
        visible=State.WAITING if is_waiting else state.phase,
    )


def _deadline_ahead(definition: Definition, state: FoldedSaga, now: datetime) -> list[datetime]:
    """The saga's deadline, as long as its passing can change anything."""
    deadline = state.deadline_at
    if deadline is None or deadline <= now or state.phase is not State.RUNNING:
        return []
    return [] if is_past_the_pivot(definition, state) else [deadline]
