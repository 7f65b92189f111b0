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


def with_effect(step: StepState, seq: int, entry: Tells, generation: int | None) -> StepState:
    """Add the effect an entry tells of, unless one of the same outside reference accounts for it.

    Without a reference it cannot be told from another under the same key.

    Args:
        generation: of the key it was done under; None: who told of it does not know.
    """
    reference = entry.reference
    step = _accounts_for_its_wait(step, entry, generation)
    if reference is None:
        is_known = step.has_effect_of(generation)
    else:
        is_known = any(each.reference == reference for each in step.effects)
    if is_known:
        return step
    effect = RecordedEffect(
        seq=seq,
        attempt=getattr(entry, "attempt", None) or step.forward.attempts,
        reference=reference,
        result=entry.result,
        generation=generation,
        undo_generation=step.undo_generation,
    )
    return replace(step, effects=(*step.effects, effect), effect=_that_counts(step, entry, effect))


def _that_counts(step: StepState, entry: Tells, effect: RecordedEffect) -> RecordedEffect:
    """The first heard of; but what was heard while the step ran gives way to its own answer."""
    if step.effect is None:
        return effect
    is_answer = isinstance(entry, StepSucceeded) and step.effect.seq > step.forward.started_seq
    return effect if is_answer else step.effect


def generation_reported(step: StepState, entry: EffectReported) -> int | None:
    """Return under which of the step's keys others saw the effect, or None: nobody can tell."""
    for each in step.outside:
        if each.reference == entry.reference:
            return each.generation
    return entry.generation or (1 if step.generation == 1 else None)


def _accounts_for_its_wait(step: StepState, entry: Tells, generation: int | None) -> StepState:
    """What a wait told of is now known as an effect: by its reference, its key, or the step."""
    names = {entry.reference}
    if isinstance(entry, StepSucceeded):
        names.add(step.waits_on)
    if entry.reference is None:
        names |= {each.reference for each in step.begun if each.generation == generation}
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
        generation=step.generation_of(entry.attempt),
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
    step: StepState,
    track: Track,
    given: RecordedEffect | None,
    undo_reference: str | None,
    *,
    undone: bool = True,
) -> StepState:
    """Account for `given`, or for "whatever was there"; go on with the next effect if one is left.

    The next effect has a key and so budgets of its own.

    Args:
        undone: it was undone; else somebody let it stand.
    """
    if given is None:
        seq = track.started_seq
        step = replace(step, undo_reference=undo_reference)
    else:
        seq = given.seq
        done = replace(given, covered=True, undone=undone, undo_reference=undo_reference)
        step = _with_each(step, lambda each: done if each.seq == given.seq else each)
    step = replace(step, undone_seq=max(step.undone_seq, seq))
    is_done = step.uncovered_effect is None
    track = replace(track, unsettled=False, failed=False, done=is_done, key_since=None)
    if not is_done:
        track = replace(track, failures=0, unknowns=0, crashes=0)
    asking = replace(step.undo_probe, failures=0, crashes=0)
    return replace(step, undo=track, undo_probe=asking, undo_denials=())


def spared(step: StepState, undone_by: StepState) -> StepState:
    """Account for the effect that counts, since a later step's undo undid it too.

    Only with that one the later step had worked: every other is undone by its own step.
    """
    if step.effect is None:
        return replace(step, undone_seq=max(step.undone_seq, undone_by.undone_seq))
    given = next(each for each in step.effects if each.seq == step.effect.seq)
    after = covered(step, step.undo, given, None, undone=False)
    if step.undo.acts_on in (0, given.seq):
        return after
    return replace(after, undo=replace(step.undo, done=after.undo.done))


def reported_undone(step: StepState, reference: str) -> StepState:
    """Take back what an undo accounted for, since it proved undone; the next one has a new key."""

    def owed(each: RecordedEffect) -> RecordedEffect:
        if not each.covered or reference not in (each.undo_reference, each.reference):
            return each
        return replace(each, covered=False, undone=False, undo_reference=None)

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
