"""What a running saga needs next: its steps in order, or to be turned round.

a step runs when the steps before it are done
trouble (a step failed for good, a cancel, the deadline) before the pivot turns the saga round:
  nothing new starts, what is unknown is settled, and when nothing is open any more: one
  decision to unwind
while the pivot is claimed and unanswered nothing turns round and nothing new starts: the answer
  to the trouble is pending until then
past the pivot there is only repeating; what cannot go on is stuck, and nothing is taken back
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from orchestrator.actions import (
    Action,
    AwaitLock,
    AwaitSignal,
    Complete,
    Park,
    RefuseCancel,
    StartUnwinding,
)
from orchestrator.definition import Kind, SagaDefinition, Step
from orchestrator.ending import ending
from orchestrator.entries import Direction, StepFailed, StepWaiting
from orchestrator.pauses import not_before
from orchestrator.settling import after_waiting, poison, run, settle
from orchestrator.state import PARKED, UNDO_REQUESTED, FoldedSaga, State, StepState, Track

Definition = SagaDefinition[Any]

CHILD_SIGNAL = "child."
"""How the names of the signals begin by which a child saga tells its parent of its state."""


def going_forward(
    definition: Definition, state: FoldedSaga, now: datetime, seed: str
) -> tuple[Action, ...]:
    """Name everything that a running saga needs now."""
    trouble = _trouble(definition, state, now)
    if trouble is not None:
        pivot = pivot_in_play(definition, state)
        if pivot is not None:
            return _settling_the_pivot(state, definition.step(pivot), now, seed)
        return _turning_round(definition, state, now, seed, trouble)
    if state.lock is not None and not state.lock_granted:
        return (AwaitLock(),)
    if is_to_be_refused(definition, state):
        assert definition.pivot is not None, "without a pivot nothing is refused"
        return (RefuseCancel(pivot=definition.pivot),)
    if all(state.step(each.name).is_done for each in definition.steps):
        if state.is_open:
            return ()  # a probe that is no longer needed; its end, or its take-over, decides again
        return (ending(definition, state, now, Complete()),)
    ready = [each for each in definition.steps if _is_ready(definition, state, each)]
    return park_last(state, [_next_try(state, each, now, seed) for each in ready])


def is_past_the_pivot(definition: Definition, state: FoldedSaga) -> bool:
    """Whether the point of no return is behind; a skipped pivot is once all before it is done."""
    return (
        definition.pivot is not None
        and state.step(definition.pivot).is_done
        and _is_behind(definition, state, definition.pivot)
    )


def is_to_be_refused(definition: Definition, state: FoldedSaga) -> bool:
    """Whether somebody asked for the saga to be taken back, too late, and has no answer yet."""
    is_asked = state.cancel is not None or state.undo_request is not None
    return is_asked and not state.is_cancel_refused and is_past_the_pivot(definition, state)


def pivot_in_play(definition: Definition, state: FoldedSaga) -> str | None:
    """The pivot, while it was claimed and is not answered yet."""
    if definition.pivot is None:
        return None
    track = state.step(definition.pivot).forward
    is_claimed = track.open_attempt is not None or track.unsettled
    return definition.pivot if is_claimed or isinstance(track.last, StepWaiting) else None


def parked_child(state: FoldedSaga, wait: StepWaiting) -> str | None:
    """What a waiting parent heard last of its child, if that is parked: its state and id."""
    if wait.signal is None or not wait.signal.startswith(CHILD_SIGNAL):
        return None
    heard = state.signals.get(wait.signal)
    if not heard:
        return None
    told = heard[-1].payload or {}
    return f"{told.get('state')}: {told.get('saga_id')}" if told.get("state") in PARKED else None


def _turning_round(
    definition: Definition, state: FoldedSaga, now: datetime, seed: str, trouble: StartUnwinding
) -> tuple[Action, ...]:
    """Start nothing new, settle what is unknown, and unwind once nothing is open."""
    unsettled = [
        each
        for each in definition.steps
        if state.step(each.name).forward.unsettled and not state.step(each.name).is_open
    ]
    if unsettled:
        return park_last(state, [settle(state, each, now, seed) for each in unsettled])
    return () if state.is_open else (trouble,)


def _settling_the_pivot(
    state: FoldedSaga, pivot: Step, now: datetime, seed: str
) -> tuple[Action, ...]:
    if state.step(pivot.name).is_open:
        return ()
    return park_last(state, [settle(state, pivot, now, seed)])


def _trouble(definition: Definition, state: FoldedSaga, now: datetime) -> StartUnwinding | None:
    """The reason to take the saga back, or None; past the pivot there is none."""
    if is_past_the_pivot(definition, state):
        return None
    for each in definition.steps:
        if each.kind is not Kind.RETRIABLE and _has_failed(state.step(each.name), each):
            return StartUnwinding(cause="step_failed", step=each.name)
    if state.cancel is not None:
        return StartUnwinding(cause="cancelled", step=None)
    if state.undo_request is not None:
        return StartUnwinding(cause=UNDO_REQUESTED, step=None)
    if state.deadline_at is not None and state.deadline_at <= now:
        return StartUnwinding(cause="deadline", step=None)
    return None


def _has_failed(step: StepState, definition: Step) -> bool:
    track = step.forward
    if step.is_done or track.unsettled or track.open_attempt is not None:
        return False
    return track.failed or track.failures >= definition.retry.max_attempts


def _is_behind(definition: Definition, state: FoldedSaga, name: str) -> bool:
    """Whether steps after `name` may start: it is done, or skipped and what it follows is done."""
    known = state.step(name)
    if not known.skipped:
        return known.is_done
    return all(_is_behind(definition, state, earlier) for earlier in definition.after[name])


def _is_ready(definition: Definition, state: FoldedSaga, step: Step) -> bool:
    known = state.step(step.name)
    if known.is_done or known.is_open:
        return False
    return all(_is_behind(definition, state, name) for name in definition.after[step.name])


def _next_try(state: FoldedSaga, step: Step, now: datetime, seed: str) -> Action:
    known = state.step(step.name)
    track = known.forward
    if isinstance(track.last, StepWaiting):
        child = parked_child(state, track.last)
        if child is not None:
            return parked_with_its_child(State.STUCK, step, child)
        return after_waiting(state, step, Direction.FORWARD, track.last, now, seed)
    if track.unsettled:
        return settle(state, step, now, seed)
    if track.crashes >= step.max_crashes:
        return poison(step)
    if track.failed or track.failures >= step.retry.max_attempts:
        return _failed_past_the_pivot(step, track)
    due = not_before(track, step.retry, seed, step.name, Direction.FORWARD)
    return run(state, step, Direction.FORWARD, due)


def parked_with_its_child(state: State, step: Step, child: str) -> Park:
    """Return the question in front of which a saga stops whose child does."""
    return Park(
        state=state,
        reason="child_parked",
        question=f"The child saga of {step.name} is parked ({child}): answer its question, and "
        "this saga goes on by itself.",
        steps=(step.name,),
    )


def _failed_past_the_pivot(step: Step, track: Track) -> Park:
    error = track.last.error.get("message", "") if isinstance(track.last, StepFailed) else ""
    return Park(
        state=State.STUCK,
        reason="failed_after_pivot",
        question=f"{step.name} cannot succeed ({error}) and nothing may be taken back: what now?",
        steps=(step.name,),
    )


def park_last(state: FoldedSaga, actions: Sequence[Action]) -> tuple[Action, ...]:
    """Park only when nothing else of the saga can run or is running.

    A wait is no reason to put a question off: it may take weeks. What it waits for is kept
    meanwhile, and the step goes on with it when the question is answered.
    """
    moving = [each for each in actions if not isinstance(each, Park)]
    questions = [each for each in actions if isinstance(each, Park)]
    runs = state.is_open or any(not isinstance(each, AwaitSignal) for each in moving)
    return tuple(moving if runs or not questions else questions[:1])
