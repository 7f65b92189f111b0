"""What a step is known to have done outside, and how far its undoing accounts for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from orchestrator.entries import (
    EffectReported,
    LateOutcomeRecorded,
    StepProbed,
    StepSettled,
    StepSucceeded,
    StepWaiting,
)
from orchestrator.state import FoldedSaga, RecordedEffect, State, StepState, Track

Tells = StepSucceeded | LateOutcomeRecorded | EffectReported | StepProbed | StepSettled
"""The entries that may tell of an effect."""


def with_effect(step: StepState, seq: int, entry: Tells) -> StepState:
    """Add the effect an entry tells of, unless one of the same outside reference accounts for it.

    Without a reference it cannot be told from a known one: the key was the same.
    """
    reference = entry.reference
    step = _accounts_for_its_wait(step, entry)
    if step.effects and reference in (None, *(each.reference for each in step.effects)):
        return step
    effect = RecordedEffect(
        seq=seq,
        attempt=getattr(entry, "attempt", step.forward.attempts),
        reference=reference,
        result=entry.result,
        undo_generation=step.undo_generation,
    )
    counts = step.effect if step.is_done and step.effect is not None else effect
    return replace(step, effects=(*step.effects, effect), effect=counts)


def _accounts_for_its_wait(step: StepState, entry: Tells) -> StepState:
    """What a wait told of is now known as an effect: under its reference, or by the step itself."""
    names = {entry.reference}
    if isinstance(entry, StepSucceeded):
        names.add(step.waits_on)
    begun = tuple(each for each in step.begun if each.covered or each.reference not in names)
    return replace(step, begun=begun)


def with_begun(step: StepState, seq: int, entry: StepWaiting | LateOutcomeRecorded) -> StepState:
    """Keep the reference of something that a wait was told of; it may take effect yet."""
    reference = entry.reference
    if reference is None or any(
        each.reference == reference and not each.covered for each in step.outside
    ):
        return step
    effect = RecordedEffect(
        seq=seq,
        attempt=entry.attempt,
        reference=reference,
        is_open=True,
        undo_generation=step.undo_generation,
    )
    return replace(step, begun=(*step.begun, effect))


def report(state: FoldedSaga, step: StepState) -> StepState:
    """Allow a compensation that had ended to be tried afresh for an effect it did not know."""
    if state.phase not in (State.COMPENSATING, State.COMPENSATED) or not step.uncovered_effect:
        return step
    undo = replace(step.undo, done=False, failed=False, failures=0, unknowns=0)
    return replace(step, undo=undo, undone=False, undone_by=None)


def covered(
    step: StepState, track: Track, given: RecordedEffect | None, undo_reference: str | None
) -> StepState:
    """Account for `given`, or for "whatever was there"; go on with the next effect if one is left.

    The next effect has a key and so budgets of its own.
    """
    if given is None:
        seq = track.started_seq
        step = replace(step, undo_reference=undo_reference)
    else:
        seq = given.seq
        done = replace(given, covered=True, undo_reference=undo_reference)
        step = _with_each(step, lambda each: done if each.seq == given.seq else each)
    step = replace(step, undone_seq=max(step.undone_seq, seq))
    is_done = step.uncovered_effect is None
    track = replace(track, unsettled=False, failed=False, done=is_done, key_since=None)
    if not is_done:
        track = replace(track, failures=0, unknowns=0, crashes=0)
    return replace(step, undo=track)


def reported_undone(step: StepState, reference: str) -> StepState:
    """Take back what an undo accounted for, since it proved undone; the next one has a new key."""

    def owed(each: RecordedEffect) -> RecordedEffect:
        is_meant = each.covered and reference in (each.undo_reference, each.reference)
        return replace(each, covered=False, undo_reference=None) if is_meant else each

    known = _with_each(step, owed)
    found = known != step
    if not found and reference != step.undo_reference:
        return step
    since = step.undo.key_since if step.undo.is_under_way else None
    undo = replace(
        step.undo, done=False, failed=False, failures=0, unknowns=0, crashes=0, key_since=since
    )
    step = replace(
        known,
        undone_seq=step.undone_seq if found else 0,
        undo_reference=step.undo_reference if found else None,
        undone=False,
        undone_by=None,
    )
    begun = step.undo.acts_on if step.undo.is_under_way else 0
    return replace(with_new_undo_keys(step, but=begun), undo=undo)


def with_new_undo_keys(step: StepState, *, but: int = 0) -> StepState:
    """Let the next undo be another operation outside; not that of the effect at seq `but`."""
    generation = step.undo_generation + 1
    step = _with_each(
        step,
        lambda each: each if each.seq == but else replace(each, undo_generation=generation),
    )
    return replace(step, undo_generation=generation)


def _with_each(step: StepState, change: Callable[[RecordedEffect], RecordedEffect]) -> StepState:
    """Change what the step did outside, and what it began."""
    return replace(
        step, effects=tuple(map(change, step.effects)), begun=tuple(map(change, step.begun))
    )
