"""What a saga's log says about it: the fold of its entries, as a plain value.

`replay` folds a whole log, `SagaState.apply` one more entry. Both refuse a history that the state
machine could not have produced, so a damaged or forged log is noticed where it is read.

Saga phases, and the entries that change them (the table is `PHASES`):

    running ──UnwindingStarted──▶ compensating ──SagaCompensated──▶ compensated ┐
      │  │                          │        ▲                                  │
      │  └─SagaParked─▶ stuck       │        └────UnwindingStarted (late)───────┘
      └─SagaCompleted─▶ completed   └─SagaParked─▶ failed_compensation
                                                          any parked ──SagaResolved──▶ resolved
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType

from orchestrator.entries import (
    CancelRequested,
    Direction,
    Entry,
    Json,
    LateOutcomeRecorded,
    Recorded,
    SagaCompensated,
    SagaCompleted,
    SagaParked,
    SagaResolved,
    SagaStarted,
    SignalReceived,
    StepFailed,
    StepReleased,
    StepSettled,
    StepStarted,
    StepSucceeded,
    StepUnknown,
    StepWaiting,
    UndoSkipped,
    UnknownReason,
    UnwindingStarted,
)
from orchestrator.errors import HistoryError


class State(StrEnum):
    """The states of a saga as everybody sees them."""

    RUNNING = "running"
    WAITING = "waiting"
    COMPENSATING = "compensating"
    FAILED_COMPENSATION = "failed_compensation"
    STUCK = "stuck"
    COMPLETED = "completed"
    COMPENSATED = "compensated"
    RESOLVED = "resolved"


PARKED = frozenset({State.FAILED_COMPENSATION, State.STUCK})
TERMINAL = frozenset({State.COMPLETED, State.COMPENSATED, State.RESOLVED})

PHASES: Mapping[tuple[State, type[Entry]], State | None] = MappingProxyType(
    {
        (State.RUNNING, UnwindingStarted): State.COMPENSATING,
        (State.RUNNING, SagaCompleted): State.COMPLETED,
        (State.RUNNING, SagaParked): None,  # the entry names the state
        (State.COMPENSATING, SagaCompensated): State.COMPENSATED,
        (State.COMPENSATING, SagaParked): None,
        (State.COMPENSATED, UnwindingStarted): State.COMPENSATING,
        (State.STUCK, SagaResolved): State.RESOLVED,
        (State.FAILED_COMPENSATION, SagaResolved): State.RESOLVED,
    }
)
"""Every legal change of phase. Waiting is running with nothing to run, not a phase of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedEffect:
    """Something a step did outside: the log's seq, the other side's reference and the result."""

    seq: int
    attempt: int
    reference: str | None = None
    result: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """How one step stands in one direction.

    Args:
        attempts: the highest attempt number that was started.
        released: attempts that were handed back before the step was called.
        open_attempt: the attempt that runs now.
        started_seq: the seq at which the latest attempt was started.
        failures: attempts without effect that spent the budget.
        unknowns: attempts of unknown outcome that were not a crash.
        crashes: attempts that took their worker down or lost their lease.
        unsettled: at least one attempt may have happened and nothing decisive was heard since.
        ended_at: the database's time when the latest attempt ended.
        last: how it ended.
        failed: it ended for good, without effect.
        done: it ended for good, well.
    """

    attempts: int = 0
    released: int = 0
    open_attempt: int | None = None
    started_seq: int = 0
    failures: int = 0
    unknowns: int = 0
    crashes: int = 0
    unsettled: bool = False
    ended_at: datetime | None = None
    last: StepSucceeded | StepFailed | StepUnknown | StepReleased | StepWaiting | None = None
    failed: bool = False
    done: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StepState:
    """How one step stands: doing, undoing, its known effects and what was heard about it.

    Args:
        effect: the known effect that counts as the step's, or None: the one it was done with.
            Steps after it have worked with that one; what is heard of later is only to be undone.
        undone_seq: effects logged up to this seq are accounted for by a compensation.
        undone: the compensation really undid something: a known effect, or one it found itself.
        generation: which idempotency key the step uses; it rises only when the key before was
            settled as not landed for good.
        signals_used: how many signals of each name were already delivered to it.
        signal: the signal that ended its latest wait, for all attempts up to the next wait; None
            when the wait ended by its deadline.
    """

    forward: Track = Track()
    undo: Track = Track()
    effects: tuple[RecordedEffect, ...] = ()
    effect: RecordedEffect | None = None
    skipped: bool = False
    undone_seq: int = 0
    undone: bool = False
    undone_by: str | None = None
    generation: int = 1
    signals_used: Mapping[str, int] = field(default_factory=dict)
    signal: SignalReceived | None = None

    @property
    def uncovered_effect(self) -> RecordedEffect | None:
        """The oldest effect that no compensation accounts for: what the next undo is for."""
        return next((each for each in self.effects if each.seq > self.undone_seq), None)

    @property
    def is_done(self) -> bool:
        """Whether steps that come after this one may start."""
        return self.skipped or (bool(self.effects) and self.forward.open_attempt is None)

    @property
    def has_uncovered_effect(self) -> bool:
        """Whether there is an effect that no compensation accounts for."""
        return bool(self.effects) and self.effects[-1].seq > self.undone_seq

    def track(self, direction: str) -> Track:
        """Return the doing or the undoing."""
        return self.undo if direction == Direction.COMPENSATE else self.forward


_FRESH = StepState()


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaState:
    """A saga at one seq of its log."""

    seq: int = 0
    phase: State = State.RUNNING
    steps: Mapping[str, StepState] = field(default_factory=dict)
    payload: Json = None
    deadline_at: datetime | None = None
    trace: Mapping[str, str] | None = None
    cancel: CancelRequested | None = None
    unwinding: UnwindingStarted | None = None
    signals: Mapping[str, tuple[SignalReceived, ...]] = field(default_factory=dict)
    parked: SagaParked | None = None

    def step(self, name: str) -> StepState:
        """Return how the step stands; a step nothing happened to is fresh."""
        return self.steps.get(name, _FRESH)

    @property
    def is_terminal(self) -> bool:
        return self.phase in TERMINAL

    def apply(self, recorded: Recorded) -> SagaState:
        """Return the state after one more entry.

        Raises:
            HistoryError: the entry cannot follow this state.
        """
        if recorded.seq != self.seq + 1:
            raise HistoryError(f"log has seq {recorded.seq} after {self.seq}; an entry is missing")
        entry = recorded.entry
        if self.seq == 0 and not isinstance(entry, SagaStarted):
            raise HistoryError(f"log begins with {type(entry).__name__}, not SagaStarted")
        state = replace(self, seq=recorded.seq)
        match entry:
            case StepStarted():
                return _on_started(state, recorded, entry)
            case StepSucceeded() | StepFailed() | StepUnknown() | StepReleased() | StepWaiting():
                return _on_outcome(state, recorded, entry)
            case SagaStarted():
                return _on_saga_started(self, state, recorded, entry)
            case LateOutcomeRecorded():
                return _on_late(state, recorded, entry)
            case StepSettled():
                return _on_settled(state, recorded, entry)
            case SignalReceived():
                heard = (*state.signals.get(entry.name, ()), entry)
                return replace(state, signals={**state.signals, entry.name: heard})
            case CancelRequested():
                return replace(state, cancel=state.cancel or entry)
            case UndoSkipped():
                covered = state.step(entry.undone_by).undone_seq
                step = replace(
                    state.step(entry.step), undone_seq=covered, undone_by=entry.undone_by
                )
                return _with_step(state, entry.step, step)
            case UnwindingStarted():
                return replace(state, phase=_phase(state, entry), unwinding=entry)
            case SagaParked():
                return replace(state, phase=_phase(state, entry), parked=entry)
            case SagaCompleted() | SagaCompensated() | SagaResolved():
                return replace(state, phase=_phase(state, entry))


def replay(entries: Iterable[Recorded], state: SagaState | None = None) -> SagaState:
    """Fold entries, in order, into a state; continue from `state` where one is given.

    Raises:
        HistoryError: the entries are not a legal history.
    """
    folded = state or SagaState()
    for recorded in entries:
        folded = folded.apply(recorded)
    return folded


def _with_step(state: SagaState, name: str, step: StepState) -> SagaState:
    return replace(state, steps={**state.steps, name: step})


def _with_track(step: StepState, direction: str, track: Track) -> StepState:
    if direction == Direction.COMPENSATE:
        return replace(step, undo=track)
    return replace(step, forward=track)


def _phase(state: SagaState, entry: Entry) -> State:
    try:
        phase = PHASES[state.phase, type(entry)]
    except KeyError as error:
        raise HistoryError(
            f"{type(entry).__name__} cannot follow in state {state.phase} (seq {state.seq})"
        ) from error
    if phase is None:
        assert isinstance(entry, SagaParked)
        return State(entry.state)
    return phase


def _on_saga_started(
    before: SagaState, state: SagaState, recorded: Recorded, entry: SagaStarted
) -> SagaState:
    if before.seq != 0:
        raise HistoryError(f"SagaStarted again at seq {state.seq}")
    return replace(
        state,
        payload=entry.payload,
        steps={name: StepState(skipped=True) for name in entry.skipped},
        deadline_at=None
        if entry.deadline_seconds is None
        else recorded.at + timedelta(seconds=entry.deadline_seconds),
        trace=entry.trace,
    )


def _on_started(state: SagaState, recorded: Recorded, entry: StepStarted) -> SagaState:
    step = state.step(entry.step)
    track = step.track(entry.direction)
    if track.open_attempt is not None or entry.attempt <= track.attempts:
        raise HistoryError(
            f"{entry.step} {entry.direction} attempt {entry.attempt} started out of turn "
            f"(seq {recorded.seq})"
        )
    if entry.direction == Direction.FORWARD and isinstance(track.last, StepWaiting):
        step = _with_signal(state, step, track.last.signal)
    track = replace(
        track, attempts=entry.attempt, open_attempt=entry.attempt, started_seq=recorded.seq
    )
    return _with_step(state, entry.step, _with_track(step, entry.direction, track))


def _with_signal(state: SagaState, step: StepState, name: str) -> StepState:
    """Deliver the next signal of that name, or note that the wait ended without one."""
    heard = state.signals.get(name, ())
    used = step.signals_used.get(name, 0)
    if used >= len(heard):
        return replace(step, signal=None)
    return replace(step, signal=heard[used], signals_used={**step.signals_used, name: used + 1})


def _on_outcome(
    state: SagaState,
    recorded: Recorded,
    entry: StepSucceeded | StepFailed | StepUnknown | StepReleased | StepWaiting,
) -> SagaState:
    step = state.step(entry.step)
    track = step.track(entry.direction)
    if track.open_attempt != entry.attempt:
        raise HistoryError(
            f"{type(entry).__name__} of {entry.step} {entry.direction} attempt {entry.attempt}, "
            f"which is not open (seq {recorded.seq})"
        )
    track = replace(track, open_attempt=None, ended_at=recorded.at, last=entry)
    match entry:
        case StepSucceeded():
            if entry.direction == Direction.COMPENSATE:
                return _with_step(state, entry.step, _after_undo(step, track, entry))
            track = replace(track, unsettled=False, done=True, failed=False)
            step = _with_effect(step, recorded, entry.attempt, entry.reference, entry.result)
        case StepFailed():
            track = _after_failure(track, entry)
        case StepUnknown(reason=UnknownReason.RAISED | UnknownReason.TIMED_OUT):
            track = replace(track, unsettled=True, unknowns=track.unknowns + 1)
        case StepUnknown(reason=UnknownReason.DRAINED):
            track = replace(track, unsettled=True)
        case StepUnknown():
            track = replace(track, unsettled=True, crashes=track.crashes + 1)
        case StepReleased():
            track = replace(track, released=track.released + 1)
        case StepWaiting():
            pass
    return _with_step(state, entry.step, _with_track(step, entry.direction, track))


def _after_failure(track: Track, entry: StepFailed) -> Track:
    """No effect of *this* attempt; an earlier unknown one is settled by a decisive answer only."""
    if entry.crashed:
        return replace(track, crashes=track.crashes + 1)
    if track.unsettled and not entry.decisive:
        return replace(track, unknowns=track.unknowns + 1) if entry.spends_budget else track
    if entry.terminal:
        return replace(track, unsettled=False, failed=True)
    if entry.spends_budget:
        return replace(track, failures=track.failures + 1)
    return track


def _after_undo(step: StepState, track: Track, entry: StepSucceeded) -> StepState:
    """An undo accounts for the effect it was given: the oldest uncovered one at its claim.

    "There was nothing" is an answer only while no effect is known; said of a known effect it counts
    as a failed try.
    """
    given = _given_to_undo(step, track)
    if entry.undone is False and given is not None:
        return replace(step, undo=replace(track, failures=track.failures + 1))
    found = given is not None or entry.reference is not None
    step = replace(step, undone=step.undone or (entry.undone is not False and found))
    return _covered(step, track, given)


def _given_to_undo(step: StepState, track: Track) -> RecordedEffect | None:
    effect = step.uncovered_effect
    return effect if effect is not None and effect.seq < track.started_seq else None


def _covered(step: StepState, track: Track, given: RecordedEffect | None) -> StepState:
    """Account for `given`, or for "whatever was there"; go on with the next effect if one is left.

    The next effect has a key and so budgets of its own.
    """
    step = replace(step, undone_seq=track.started_seq if given is None else given.seq)
    if step.has_uncovered_effect:
        track = replace(track, failures=0, unknowns=0, crashes=0)
    track = replace(track, unsettled=False, failed=False, done=not step.has_uncovered_effect)
    return replace(step, undo=track)


def _with_effect(
    step: StepState, recorded: Recorded, attempt: int, reference: str | None, result: Json
) -> StepState:
    """Add an effect, unless one of the same outside reference already accounts for it.

    Without a reference it cannot be told from a known one: the key was the same.
    """
    if step.effects and reference in (None, *(each.reference for each in step.effects)):
        return step
    effect = RecordedEffect(seq=recorded.seq, attempt=attempt, reference=reference, result=result)
    counts = step.effect if step.is_done else effect
    return replace(step, effects=(*step.effects, effect), effect=counts)


def _on_late(state: SagaState, recorded: Recorded, entry: LateOutcomeRecorded) -> SagaState:
    """A refused result still tells that an effect exists; a late undo tells nothing reliable."""
    if entry.outcome != "succeeded" or entry.direction != Direction.FORWARD:
        return state
    step = state.step(entry.step)
    step = _with_effect(step, recorded, entry.attempt, entry.reference, entry.result)
    step = replace(step, forward=replace(step.forward, unsettled=False))
    return _reopened(_with_step(state, entry.step, step), step)


def _on_settled(state: SagaState, recorded: Recorded, entry: StepSettled) -> SagaState:
    step = state.step(entry.step)
    track = step.track(entry.direction)
    if entry.landed is None:
        track = replace(track, unknowns=track.unknowns + 1)
        return _with_step(state, entry.step, _with_track(step, entry.direction, track))
    track = replace(track, unsettled=False, ended_at=recorded.at)
    if entry.direction == Direction.COMPENSATE:
        if entry.landed:
            step = _covered(replace(step, undone=True), track, _given_to_undo(step, track))
            return _with_step(state, entry.step, step)
        return _with_step(state, entry.step, replace(step, undo=track))
    if entry.landed:
        step = _with_effect(step, recorded, track.attempts, entry.reference, entry.result)
        step = replace(step, forward=replace(track, done=True))
        return _reopened(_with_step(state, entry.step, step), step)
    step = replace(step, forward=track, generation=step.generation + 1)
    return _with_step(state, entry.step, step)


def _reopened(state: SagaState, step: StepState) -> SagaState:
    """Allow a compensation that had ended to be tried afresh for an effect it did not know."""
    if state.phase not in (State.COMPENSATING, State.COMPENSATED) or not step.has_uncovered_effect:
        return state
    name = next(each for each, known in state.steps.items() if known is step)
    undo = replace(step.undo, done=False, failed=False, failures=0, unknowns=0)
    return _with_step(state, name, replace(step, undo=undo, undone=False, undone_by=None))
