"""What a saga that is taken back needs next: every step that may have run, undone in reverse.

Steps that do not depend on each other are undone at the same time. When one cannot be undone, what
does not depend on it still is; then the saga stops in front of an operator with what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from orchestrator.actions import (
    Action,
    Compensated,
    Complete,
    Park,
    RefuseCancel,
    SkipUndo,
    StartUnwinding,
)
from orchestrator.definition import Kind, SagaDefinition, Step
from orchestrator.ending import ending
from orchestrator.entries import Direction, StepWaiting
from orchestrator.going_forward import (
    is_past_the_pivot,
    is_to_be_refused,
    park_last,
    parked_child,
    parked_with_its_child,
)
from orchestrator.pauses import not_before
from orchestrator.settling import after_waiting, ask, key_is_young, run
from orchestrator.state import SECOND_EFFECT, UNDO_REQUESTED, FoldedSaga, State, StepState, Track

Definition = SagaDefinition[Any]


def unwinding(
    definition: Definition, state: FoldedSaga, now: datetime, seed: str
) -> tuple[Action, ...]:
    """Name everything that a saga which is taken back needs now."""
    actions: list[Action] = []
    outstanding: list[str] = []
    pending: set[str] = set()
    for each in reversed(definition.steps):
        if not needs_undo(state, each):
            continue
        if _waits_for(definition, each.name, pending):
            pending.add(each.name)
        elif _is_spared(state, each):
            assert each.undone_by is not None, "only then it is spared"
            pending.add(each.name)
            actions.append(SkipUndo(step=each.name, undone_by=each.undone_by))
        elif _is_exhausted(state, each, now, seed) or _is_blocked(
            definition, each.name, outstanding
        ):
            outstanding.append(each.name)
        else:
            pending.add(each.name)
            actions.extend(_next_undo(state, each, now, seed))
    if outstanding:
        actions.append(_failed_compensation(outstanding))
    if pending or outstanding:
        return park_last(state, actions)
    if state.is_open:
        return ()  # a probe of a step that needs no undo: its end decides again
    end = Complete() if state.undoes_second_effects_only else Compensated()
    return (ending(definition, state, now, end),)


def after_the_end(definition: Definition, state: FoldedSaga) -> tuple[Action, ...]:
    """Name what reopens a saga that had ended: an effect nobody accounts for, or its parent."""
    for each in definition.steps:
        known = state.step(each.name)
        if state.phase is State.COMPENSATED:
            if needs_undo(state, each):
                return (StartUnwinding(cause="late", step=each.name),)
        elif known.second_effect and needs_undo_of_effect(each):
            return (StartUnwinding(cause=SECOND_EFFECT, step=each.name),)
    if state.phase is State.COMPLETED and state.undo_request is not None:
        if is_to_be_refused(definition, state):
            assert definition.pivot is not None, "without a pivot nothing is refused"
            return (RefuseCancel(pivot=definition.pivot),)
        if not is_past_the_pivot(definition, state):
            return (StartUnwinding(cause=UNDO_REQUESTED, step=None),)
    return ()


def needs_undo(state: FoldedSaga, definition: Step) -> bool:
    """Whether the step may have had an effect that no compensation accounts for.

    A pivot that proves to have succeeded after the saga had turned round cannot be undone by us.
    """
    step = state.step(definition.name)
    if state.undoes_second_effects_only:
        return step.second_effect is not None and needs_undo_of_effect(definition)
    if definition.compensation is None:
        return definition.kind is Kind.PIVOT and step.uncovered_effect is not None
    if step.forward.attempts == step.forward.released and not step.effects:
        return False
    if step.undone_seq:
        return step.uncovered_effect is not None
    return not definition.transactional or bool(step.outside)


def needs_undo_of_effect(definition: Step) -> bool:
    """Whether a known effect of the step must be undone, or told of when nothing undoes it."""
    if definition.compensation is not None:
        return True
    is_free = definition.read_only or definition.no_compensation is not None
    return definition.kind is not Kind.COMPENSATABLE and not is_free


def _waits_for(definition: Definition, name: str, pending: set[str]) -> bool:
    """Whether a later step, directly or further on, is still to be undone before this one."""
    return bool(pending) and any(
        later in pending or _waits_for(definition, later, pending)
        for later in definition.before[name]
    )


def _is_blocked(definition: Definition, name: str, outstanding: Sequence[str]) -> bool:
    """Whether a step that names this one in `after` could not be undone.

    The order in which steps are merely written down delays an undo but does not block it.
    """
    return any(
        later in outstanding and definition.step(later).after is not None
        for later in definition.before[name]
    )


def _is_exhausted(state: FoldedSaga, step: Step, now: datetime, seed: str) -> bool:
    known = state.step(step.name)
    if step.compensation is None:
        return True
    if known.is_open or known.undo.done or isinstance(known.undo.last, StepWaiting):
        return False
    if _is_to_be_asked_about(known, step, now, seed):
        return ask(state, step, Direction.COMPENSATE, seed) is None
    return not _may_be_tried(known.undo, step, now, seed)


def _may_be_tried(track: Track, step: Step, now: datetime, seed: str) -> bool:
    """Whether budget and key allow another attempt of the undo."""
    budget = step.undo_retry.max_attempts
    if track.failed or max(track.failures, track.unknowns) >= budget:
        return False
    if track.crashes >= step.max_crashes:
        return False
    due = not_before(track, step.undo_retry, seed, step.name, Direction.COMPENSATE)
    return not track.unsettled or key_is_young(step, track, due or now, now)


def _is_to_be_asked_about(known: StepState, step: Step, now: datetime, seed: str) -> bool:
    """Whether an undo may have taken effect, and repeating it cannot tell, but its probe can."""
    if step.undo_probe is None or not known.undo.unsettled:
        return False
    return known.undo.is_kept or not _may_be_tried(known.undo, step, now, seed)


def _next_undo(state: FoldedSaga, step: Step, now: datetime, seed: str) -> list[Action]:
    known = state.step(step.name)
    if known.is_open:
        return []
    if isinstance(known.undo.last, StepWaiting):
        child = parked_child(state, known.undo.last)
        if child is not None:
            return [parked_with_its_child(State.FAILED_COMPENSATION, step, child)]
        return [after_waiting(state, step, Direction.COMPENSATE, known.undo.last, now, seed)]
    if _is_to_be_asked_about(known, step, now, seed):
        question = ask(state, step, Direction.COMPENSATE, seed)
        assert question is not None, "else it is exhausted"
        return [question]
    due = not_before(known.undo, step.undo_retry, seed, step.name, Direction.COMPENSATE)
    return [run(state, step, Direction.COMPENSATE, due)]


def _is_spared(state: FoldedSaga, step: Step) -> bool:
    """Whether a later step's compensation undid this one too: it undid what that had worked with.

    So of several effects only the one that counts is spared. Each other has to be undone by its own
    step, and so has every one where only second effects are taken back.
    """
    if step.undone_by is None or state.undoes_second_effects_only:
        return False
    known, later = state.step(step.name), state.step(step.undone_by)
    if known.undo.open_attempt is not None or not later.is_undone:
        return False
    if known.effect is None:
        return known.uncovered_effect is None  # what was only begun nobody had worked with
    worked_with = any(e.seq == known.effect.seq and not e.covered for e in known.effects)
    return worked_with and known.effect.seq < later.undone_seq


def _failed_compensation(outstanding: Sequence[str]) -> Park:
    names = ", ".join(outstanding)
    return Park(
        state=State.FAILED_COMPENSATION,
        reason="compensation_exhausted",
        question=f"{names} could not be undone: is it undone by other means, or to be retried?",
        steps=tuple(outstanding),
    )
