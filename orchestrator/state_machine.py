"""What must happen next: the pure function at the centre of the engine.

Theory of operation. A saga's log folds to a state (`orchestrator.state`). `next_actions` looks at
the definition, the state and a moment, and names *all* that must happen: the attempts that should
be scheduled, or one turn of the saga (unwind, park, end). It reads no clock, no database and no
randomness, so the same log always gives the same answer, on any machine, in any test.

`decide` repeats this until only attempts are left, and returns the entries of the decisions taken
on the way. Whoever carries them out does so by compare-and-set on the log's seq: who loses reads
what the other wrote and asks again. Since the answer names the complete set of attempts, carrying
it out twice changes nothing; that is why recovery needs no path of its own.

The rules, each a promise of the design:

    going forward     a step runs when the steps before it are done
    trouble           a step failed for good before the pivot, a cancel, the deadline
      unknown first   an attempt that may have happened is repeated under its key until answered
      then unwinding  when nothing of the saga is open any more: one decision, logged
    unwinding         every step that may have run, the failing one too, in reverse order
      exhausted       what does not depend on it is still undone, then failed_compensation
    past the pivot    only repeat; what cannot go on is stuck, nothing is taken back
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from orchestrator.actions import (
    Action,
    AwaitSignal,
    Compensated,
    Complete,
    Park,
    RunStep,
    SkipUndo,
    StartUnwinding,
)
from orchestrator.definition import Kind, Retry, SagaDefinition, Step
from orchestrator.entries import (
    Direction,
    Entry,
    Recorded,
    SagaCompensated,
    SagaCompleted,
    SagaParked,
    StepFailed,
    StepReleased,
    StepUnknown,
    StepWaiting,
    UndoSkipped,
    UnknownReason,
    UnwindingStarted,
)
from orchestrator.state import SagaState, State, StepState, Track

Definition = SagaDefinition[Any]

MAX_RETRY_AFTER_SECONDS = 86_400.0
"""However long the other side asks to be left alone, it is asked again after a day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The decisions taken on a state, and what must be true after them.

    Args:
        entries: to be appended, in order; empty when nothing was decided.
        state: the state with those entries.
        runs: the complete set of attempts that should be scheduled and are not yet claimed.
        wake_at: the next moment at which the answer may change by itself, or None.
        awaits: a step waits for a signal.
        visible: the state's name as users see it.
    """

    entries: tuple[Entry, ...]
    state: SagaState
    runs: tuple[RunStep, ...]
    wake_at: datetime | None
    awaits: bool
    visible: State


def decide(definition: Definition, state: SagaState, now: datetime, seed: str) -> Decision:
    """Take every decision that `state` asks for at `now`.

    Args:
        seed: the saga's id; it spreads the pauses of many sagas that failed together.
    """
    entries: list[Entry] = []
    while True:
        actions = next_actions(definition, state, now, seed)
        decisions = [entry for each in actions if (entry := _entry_of(each)) is not None]
        if not decisions:
            return _decision(definition, state, now, tuple(entries), actions)
        for entry in decisions:
            state = state.apply(Recorded(seq=state.seq + 1, at=now, entry=entry))
        entries.extend(decisions)


def next_actions(
    definition: Definition, state: SagaState, now: datetime, seed: str
) -> tuple[Action, ...]:
    """Name everything that must happen now; empty while the saga waits for an open attempt."""
    match state.phase:
        case State.RUNNING:
            return _going_forward(definition, state, now, seed)
        case State.COMPENSATING:
            return _unwinding(definition, state, seed)
        case State.COMPENSATED:
            return _taking_back_late_effects(definition, state)
        case _:
            return ()


def backoff(retry: Retry, tries: int, *spread: object) -> timedelta:
    """Return the pause after `tries` tries: exponential, with full jitter that is a hash.

    The same saga, step and attempt always get the same pause, so a decision can be replayed.
    """
    doubled = retry.base.total_seconds() * 2.0 ** max(0, min(tries - 1, 60))
    ceiling = timedelta(seconds=min(doubled, retry.cap.total_seconds()))
    digest = hashlib.blake2b("/".join(map(str, spread)).encode(), digest_size=8).digest()
    return ceiling * (int.from_bytes(digest) / 2**64)


def _entry_of(action: Action) -> Entry | None:
    match action:
        case StartUnwinding():
            return UnwindingStarted(cause=action.cause, step=action.step)
        case SkipUndo():
            return UndoSkipped(step=action.step, undone_by=action.undone_by)
        case Park():
            return SagaParked(
                state=action.state,
                reason=action.reason,
                question=action.question,
                steps=list(action.steps),
            )
        case Complete():
            return SagaCompleted()
        case Compensated():
            return SagaCompensated()
        case RunStep() | AwaitSignal():
            return None


def _decision(
    definition: Definition,
    state: SagaState,
    now: datetime,
    entries: tuple[Entry, ...],
    actions: Sequence[Action],
) -> Decision:
    runs = tuple(each for each in actions if isinstance(each, RunStep))
    waits = [each.until for each in actions if isinstance(each, AwaitSignal)]
    is_waiting = bool(waits) and not runs and not _open_steps(definition, state)
    return Decision(
        entries=entries,
        state=state,
        runs=runs,
        wake_at=min([*waits, *_deadline_ahead(definition, state, now)], default=None),
        awaits=bool(waits),
        visible=State.WAITING if is_waiting else state.phase,
    )


def _deadline_ahead(definition: Definition, state: SagaState, now: datetime) -> list[datetime]:
    """The saga's deadline, as long as its passing can change anything."""
    deadline = state.deadline_at
    if deadline is None or deadline <= now or state.phase is not State.RUNNING:
        return []
    return [] if _is_past_the_pivot(definition, state) else [deadline]


# -- going forward ---------------------------------------------------------------------------------


def _going_forward(
    definition: Definition, state: SagaState, now: datetime, seed: str
) -> tuple[Action, ...]:
    trouble = _trouble(definition, state, now)
    if trouble is not None and not _pivot_in_play(definition, state):
        return _turning_round(definition, state, now, seed, trouble)
    if all(state.step(each.name).is_done for each in definition.steps):
        return (Complete(),)
    ready = [each for each in definition.steps if _is_ready(definition, state, each)]
    actions = [_next_try(state, each, now, seed) for each in ready]
    return _park_last(definition, state, actions)


def _turning_round(
    definition: Definition, state: SagaState, now: datetime, seed: str, trouble: StartUnwinding
) -> tuple[Action, ...]:
    """Start nothing new, settle what is unknown, and unwind once nothing is open."""
    unsettled = [
        each
        for each in definition.steps
        if state.step(each.name).forward.unsettled
        and state.step(each.name).forward.open_attempt is None
    ]
    if unsettled:
        actions = [_settle_by_replay(state, each, now, seed) for each in unsettled]
        return _park_last(definition, state, actions)
    if _open_steps(definition, state):
        return ()
    return (trouble,)


def _trouble(definition: Definition, state: SagaState, now: datetime) -> StartUnwinding | None:
    """The reason to take the saga back, or None; past the pivot there is none."""
    if _is_past_the_pivot(definition, state):
        return None
    for each in definition.steps:
        if each.kind is not Kind.RETRIABLE and _has_failed(state.step(each.name), each):
            return StartUnwinding(cause="step_failed", step=each.name)
    if state.cancel is not None:
        return StartUnwinding(cause="cancelled", step=None)
    if state.deadline_at is not None and state.deadline_at <= now:
        return StartUnwinding(cause="deadline", step=None)
    return None


def _has_failed(step: StepState, definition: Step) -> bool:
    track = step.forward
    if step.is_done or track.unsettled or track.open_attempt is not None:
        return False
    return track.failed or track.failures >= definition.retry.max_attempts


def _is_past_the_pivot(definition: Definition, state: SagaState) -> bool:
    """Whether the point of no return is behind; a skipped pivot is once all before it is done."""
    return (
        definition.pivot is not None
        and state.step(definition.pivot).is_done
        and _is_behind(definition, state, definition.pivot)
    )


def _is_behind(definition: Definition, state: SagaState, name: str) -> bool:
    """Whether steps after `name` may start: it is done, or skipped and what it follows is done."""
    known = state.step(name)
    if not known.skipped:
        return known.is_done
    return all(_is_behind(definition, state, earlier) for earlier in definition.after[name])


def _pivot_in_play(definition: Definition, state: SagaState) -> bool:
    """Whether the pivot was claimed and not yet answered: then nothing turns round."""
    if definition.pivot is None:
        return False
    track = state.step(definition.pivot).forward
    return track.open_attempt is not None or track.unsettled


def _is_ready(definition: Definition, state: SagaState, step: Step) -> bool:
    known = state.step(step.name)
    if known.is_done or known.forward.open_attempt is not None:
        return False
    return all(_is_behind(definition, state, name) for name in definition.after[step.name])


def _next_try(state: SagaState, step: Step, now: datetime, seed: str) -> Action:
    track = state.step(step.name).forward
    if track.crashes >= step.max_crashes:
        return _poison(step)
    if track.unsettled or isinstance(track.last, StepWaiting):
        return _settle_by_replay(state, step, now, seed)
    if track.failed or track.failures >= step.retry.max_attempts:
        return _failed_past_the_pivot(step, track)
    return RunStep(
        step=step.name,
        direction=Direction.FORWARD,
        attempt=track.attempts + 1,
        not_before=_not_before(track, step.retry, seed, step.name, Direction.FORWARD),
        alone=_runs_alone(track, step),
    )


def _settle_by_replay(state: SagaState, step: Step, now: datetime, seed: str) -> Action:
    """Ask again under the same key; what the other side answers for it is the truth.

    When its last answer was to wait, ask after the wait and not before.
    """
    track = state.step(step.name).forward
    if track.crashes >= step.max_crashes:
        return _poison(step)
    if isinstance(track.last, StepWaiting):
        return _after_waiting(state, step, track.last, now, seed)
    if track.unknowns >= step.retry.max_attempts:
        return Park(
            state=State.STUCK,
            reason="unknown",
            question=f"Did {step.name} take effect? {track.attempts} attempts, no answer.",
            steps=(step.name,),
        )
    return RunStep(
        step=step.name,
        direction=Direction.FORWARD,
        attempt=track.attempts + 1,
        not_before=_not_before(track, step.retry, seed, step.name, Direction.FORWARD),
        alone=_runs_alone(track, step),
    )


def _after_waiting(
    state: SagaState, step: Step, wait: StepWaiting, now: datetime, seed: str
) -> Action:
    known = state.step(step.name)
    until = datetime.fromisoformat(wait.until)
    heard = len(state.signals.get(wait.signal, ())) > known.signals_used.get(wait.signal, 0)
    if not heard and now < until:
        return AwaitSignal(step=step.name, signal=wait.signal, until=until)
    return RunStep(
        step=step.name,
        direction=Direction.FORWARD,
        attempt=known.forward.attempts + 1,
        not_before=None if heard else _after_an_empty_wait(known.forward, step, until, seed),
    )


def _after_an_empty_wait(track: Track, step: Step, until: datetime, seed: str) -> datetime | None:
    """A wait that was over when it was asked for must not make the step run without a pause."""
    if track.ended_at is None or track.ended_at < until:
        return None
    return track.ended_at + backoff(step.retry, track.attempts, seed, step.name, track.attempts)


def _failed_past_the_pivot(step: Step, track: Track) -> Park:
    error = track.last.error.get("message", "") if isinstance(track.last, StepFailed) else ""
    return Park(
        state=State.STUCK,
        reason="failed_after_pivot",
        question=f"{step.name} cannot succeed ({error}) and nothing may be taken back: what now?",
        steps=(step.name,),
    )


def _poison(step: Step) -> Park:
    return Park(
        state=State.STUCK,
        reason="poison",
        question=f"{step.name} took {step.max_crashes} workers down: did it take effect, "
        "and is it safe to run?",
        steps=(step.name,),
    )


def _park_last(
    definition: Definition, state: SagaState, actions: Sequence[Action]
) -> tuple[Action, ...]:
    """Park only when nothing else of the saga can move or is moving."""
    moving = [each for each in actions if not isinstance(each, Park)]
    if moving or _open_steps(definition, state):
        return tuple(moving)
    return tuple(actions[:1])


def _open_steps(definition: Definition, state: SagaState) -> list[str]:
    return [
        each.name
        for each in definition.steps
        if state.step(each.name).forward.open_attempt is not None
        or state.step(each.name).undo.open_attempt is not None
    ]


# -- unwinding -------------------------------------------------------------------------------------


def _unwinding(definition: Definition, state: SagaState, seed: str) -> tuple[Action, ...]:
    actions: list[Action] = []
    outstanding: list[str] = []
    pending: set[str] = set()
    for each in reversed(definition.steps):
        if not needs_undo(state.step(each.name), each):
            continue
        if _waits_for(definition, each.name, pending):
            pending.add(each.name)
        elif _undo_exhausted(state.step(each.name), each) or _blocked(
            definition, each.name, outstanding
        ):
            outstanding.append(each.name)
        else:
            pending.add(each.name)
            actions.extend(_next_undo(state, each, seed))
    if pending:
        return tuple(actions)
    if outstanding:
        return (_park_failed_compensation(outstanding),)
    return (Compensated(),)


def needs_undo(step: StepState, definition: Step) -> bool:
    """Whether the step may have had an effect that no compensation accounts for.

    A pivot that proves to have succeeded after the saga had turned round cannot be undone by us.
    """
    if definition.compensation is None:
        return definition.kind is Kind.PIVOT and step.has_uncovered_effect
    if step.forward.attempts == step.forward.released:
        return False
    if step.undone_seq:
        return step.has_uncovered_effect
    return not definition.transactional or bool(step.effects)


def _waits_for(definition: Definition, name: str, pending: set[str]) -> bool:
    """Whether a later step, directly or further on, is still to be undone before this one."""
    return bool(pending) and any(
        later in pending or _waits_for(definition, later, pending)
        for later in definition.before[name]
    )


def _blocked(definition: Definition, name: str, outstanding: Sequence[str]) -> bool:
    """Whether a step that names this one in `after` could not be undone.

    The order in which steps are merely written down delays an undo but does not block it.
    """
    return any(
        later in outstanding and definition.step(later).after is not None
        for later in definition.before[name]
    )


def _undo_exhausted(step: StepState, definition: Step) -> bool:
    track = step.undo
    if definition.compensation is None:
        return True
    if track.open_attempt is not None or track.done:
        return False
    budget = definition.undo_retry.max_attempts
    return (
        track.failed
        or track.failures >= budget
        or track.unknowns >= budget
        or track.crashes >= definition.max_crashes
    )


def _next_undo(state: SagaState, step: Step, seed: str) -> list[Action]:
    known = state.step(step.name)
    if known.undo.open_attempt is not None:
        return []
    if step.undone_by is not None and _undid_too(state.step(step.undone_by), known):
        return [SkipUndo(step=step.name, undone_by=step.undone_by)]
    return [
        RunStep(
            step=step.name,
            direction=Direction.COMPENSATE,
            attempt=known.undo.attempts + 1,
            not_before=_not_before(
                known.undo, step.undo_retry, seed, step.name, Direction.COMPENSATE
            ),
            alone=_runs_alone(known.undo, step),
        )
    ]


def _undid_too(later: StepState, step: StepState) -> bool:
    """Whether the compensation of `later` undid `step` too: it undid an effect that came after."""
    effect = step.uncovered_effect
    return later.undone and (effect is None or effect.seq < later.undone_seq)


def _park_failed_compensation(outstanding: Sequence[str]) -> Park:
    names = ", ".join(outstanding)
    return Park(
        state=State.FAILED_COMPENSATION,
        reason="compensation_exhausted",
        question=f"{names} could not be undone: is it undone by other means, or to be retried?",
        steps=tuple(outstanding),
    )


def _taking_back_late_effects(definition: Definition, state: SagaState) -> tuple[Action, ...]:
    for each in definition.steps:
        step = state.step(each.name)
        if step.has_uncovered_effect and needs_undo(step, each):
            return (StartUnwinding(cause="late", step=each.name),)
    return ()


# -- pauses ----------------------------------------------------------------------------------------


def _runs_alone(track: Track, step: Step) -> bool:
    return track.crashes > 0 and track.crashes == step.max_crashes - 1


def _not_before(
    track: Track, retry: Retry, seed: str, name: str, direction: Direction
) -> datetime | None:
    """When the next try is due: at once after a hand-back or a first crash, else after a pause."""
    if track.ended_at is None or isinstance(track.last, StepReleased | StepWaiting):
        return None
    spread = (seed, name, direction, track.attempts)
    match track.last:
        case StepFailed(retry_after_seconds=float() | int() as seconds):
            asked = timedelta(seconds=min(seconds, MAX_RETRY_AFTER_SECONDS))
            return track.ended_at + asked + backoff(retry, 1, *spread)
        case StepUnknown(reason=UnknownReason.RAISED | UnknownReason.TIMED_OUT):
            return track.ended_at + backoff(retry, track.unknowns, *spread)
        case StepUnknown(reason=UnknownReason.DRAINED):
            return None
        case StepUnknown() | StepFailed(crashed=True):
            if track.crashes <= 1:
                return None
            return track.ended_at + backoff(retry, track.crashes, *spread)
        case StepFailed(spends_budget=False):
            return track.ended_at + backoff(retry, track.attempts, *spread)
        case StepFailed():
            return track.ended_at + backoff(retry, track.failures + track.unknowns, *spread)
        case _:
            return track.ended_at + backoff(retry, max(track.failures, 1), *spread)
