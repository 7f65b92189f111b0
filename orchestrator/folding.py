"""From a log to a state: `apply` folds one entry, `replay` many.

Both refuse a history that the state machine could not have produced, so a damaged or forged log is
noticed where it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from orchestrator.effects import (
    covered,
    generation_reported,
    report,
    reported_undone,
    spared,
    with_begun,
    with_effect,
    with_new_undo_keys,
)
from orchestrator.entries import (
    CancelRefused,
    CancelRequested,
    Direction,
    EffectReported,
    EntriesVoided,
    Entry,
    EvidenceAsserted,
    EvidenceConfirmed,
    EvidenceWithdrawn,
    LateOutcomeRecorded,
    MovementSettled,
    OperatorActed,
    Outcome,
    Recorded,
    SagaCompensated,
    SagaCompleted,
    SagaLockGranted,
    SagaMigrated,
    SagaParked,
    SagaResolved,
    SagaStarted,
    SagaUnparked,
    SignalReceived,
    StepFailed,
    StepProbed,
    StepReleased,
    StepSettled,
    StepSkipped,
    StepStarted,
    StepSucceeded,
    StepUnknown,
    StepWaiting,
    UndoFailed,
    UndoRequested,
    UndoSkipped,
    UnknownReason,
    UnreadableEntry,
    UnwindingStarted,
)
from orchestrator.errors import HistoryError
from orchestrator.state import (
    PHASES,
    SECOND_EFFECT,
    SET_ASIDE,
    UNDO_REQUESTED,
    FoldedSaga,
    HeardSignals,
    PendingAssertion,
    RecordedEffect,
    State,
    StepState,
    Track,
)


def replay(entries: Iterable[Recorded], state: FoldedSaga | None = None) -> FoldedSaga:
    """Fold entries, in order, into a state; continue from `state` where one is given.

    Raises:
        HistoryError: the entries are not a legal history.
    """
    folded, entries = state or FoldedSaga(), list(entries)
    voids = {
        seq
        for each in entries
        if isinstance(each.entry, EntriesVoided)
        for seq in each.entry.seqs
        if seq > folded.seq  # else `state` has taken it in
    }
    if voids:
        folded = replace(folded, voided=folded.voided | voids)
    for recorded in entries:
        folded = apply(folded, recorded)
    return folded


def apply(state: FoldedSaga, recorded: Recorded) -> FoldedSaga:
    """Return the state after one more entry.

    Raises:
        HistoryError: the entry cannot follow this state.
    """
    if recorded.seq in state.voided and recorded.seq > state.seq:
        return replace(state, seq=recorded.seq)  # and what is missing before it
    if recorded.seq != state.seq + 1:
        raise HistoryError(f"log has seq {recorded.seq} after {state.seq}; an entry is missing")
    entry = recorded.entry
    if isinstance(entry, UnreadableEntry):
        raise HistoryError(entry.why)
    if (state.seq == 0) is not isinstance(entry, SagaStarted):
        raise HistoryError(f"{type(entry).__name__} cannot be at seq {recorded.seq}")
    assertions = state.assertions if isinstance(entry, _LEAVES_ASSERTIONS) else ()
    folded = replace(state, seq=recorded.seq, assertions=assertions)
    recorded = _under_its_name(state.renamed, recorded)
    entry = recorded.entry
    if _tells_of_money(entry):
        folded = replace(folded, money=(*state.money, recorded))
    if getattr(entry, "unverified", False) and not folded.by_word_of:
        # Whoever voided the confirmation: it is a word all the same.
        said_by: str = getattr(entry, "by", "") or getattr(entry, "actor", "somebody")
        folded = replace(folded, by_word_of=(said_by,))
    fold = _FOLDS[type(entry)]
    return fold(folded, recorded, entry)


def _tells_of_money(entry: Entry) -> bool:
    """Whether `orchestrator.books` reads it; a new key is where the step may move money again."""
    match entry:
        case UndoFailed() | MovementSettled() | StepSettled(landed=False):
            return True
        case _:
            return bool(getattr(entry, "movements", None))


def _under_its_name(renamed: Mapping[str, str], recorded: Recorded) -> Recorded:
    """Facts about a step may come under the name that it had before the saga was migrated."""
    entry: Any = recorded.entry
    name = getattr(entry, "step", None)
    if name is None or name not in renamed:
        return recorded
    return replace(recorded, entry=replace(entry, step=renamed[name]))


# -- the saga --------------------------------------------------------------------------------------


def _on_saga_started(state: FoldedSaga, recorded: Recorded, entry: SagaStarted) -> FoldedSaga:
    return replace(
        state,
        payload=entry.payload,
        steps={name: StepState(skipped=True) for name in entry.skipped},
        deadline_at=None
        if entry.deadline_seconds is None
        else recorded.at + timedelta(seconds=entry.deadline_seconds),
        trace=entry.trace,
        lock=entry.lock,
        lock_granted=entry.lock_granted,
        parent_id=entry.parent_id,
        installation=entry.installation,
    )


def _on_signal(state: FoldedSaga, _: Recorded, entry: SignalReceived) -> FoldedSaga:
    heard = state.signals.get(entry.name, HeardSignals()).and_then(entry)
    return replace(state, signals={**state.signals, entry.name: heard})


def _on_unwinding(state: FoldedSaga, _: Recorded, entry: UnwindingStarted) -> FoldedSaga:
    reopens = entry.cause in (SECOND_EFFECT, UNDO_REQUESTED)
    if state.phase is State.COMPLETED and not reopens:
        raise HistoryError(f"a completed saga is not taken back because of {entry.cause}")
    if entry.cause == SECOND_EFFECT and state.phase is not State.COMPLETED:
        raise HistoryError(f"a second effect alone is taken back in state {state.phase}")
    return replace(state, phase=_phase(state, entry), unwinding=entry)


def _on_parked(state: FoldedSaga, _: Recorded, entry: SagaParked) -> FoldedSaga:
    if entry.reason in SET_ASIDE and state.parked is not None:
        return replace(state, phase=State(entry.state), parked=entry)
    phase = _phase(state, entry, State(entry.state))
    return replace(state, phase=phase, parked=entry, parked_from=state.phase)


def _on_voided(state: FoldedSaga, _: Recorded, entry: EntriesVoided) -> FoldedSaga:
    """The entries were passed over before; a fold that had taken them in cannot go on."""
    if not state.voided.issuperset(entry.seqs):
        raise HistoryError(f"entries {entry.seqs} are void: the log is to be read from its start")
    return state


def _on_unparked(state: FoldedSaga, _: Recorded, entry: SagaUnparked) -> FoldedSaga:
    if state.parked is not None and not state.voided.issuperset(state.parked.entries):
        raise HistoryError(
            f"entries {state.parked.entries} were written beside the engine: `amends repair` voids "
            "them before the saga can go on"
        )
    phase = _phase(state, entry, state.parked_from)
    steps = {**state.steps, **{name: _fresh(state.step(name)) for name in entry.fresh}}
    for name in entry.probed:
        known = state.step(name)
        steps[name] = replace(known, probe=_anew(known.probe), undo_probe=_anew(known.undo_probe))
    return replace(state, phase=phase, parked=None, steps=steps)


def _on_completed(state: FoldedSaga, _: Recorded, entry: SagaCompleted) -> FoldedSaga:
    if state.phase is State.COMPENSATING and not state.undoes_second_effects_only:
        raise HistoryError(f"SagaCompleted while the saga is taken back (seq {state.seq})")
    return replace(state, phase=_phase(state, entry), unwinding=None)


def _on_end(state: FoldedSaga, _: Recorded, entry: SagaCompensated | SagaResolved) -> FoldedSaga:
    if state.is_open:
        raise HistoryError(f"{type(entry).__name__} while an attempt runs (seq {state.seq})")
    return replace(state, phase=_phase(state, entry))


def _on_migrated(state: FoldedSaga, _: Recorded, entry: SagaMigrated) -> FoldedSaga:
    def new(name: str) -> str:
        return entry.renamed.get(name, name)

    steps = {
        new(name): replace(
            step,
            undone_by=step.undone_by and new(step.undone_by),
            key_name=step.key_name or (name if new(name) != name else None),
        )
        for name, step in state.steps.items()
    }
    asked = [new(each) for each in state.parked.steps] if state.parked else []
    parked = state.parked and replace(state.parked, steps=asked)
    before = {name: new(known) for name, known in state.renamed.items()}
    return replace(
        state,
        steps=steps,
        parked=parked,
        payload=entry.payload,
        renamed={**before, **entry.renamed},
        money=tuple(_under_its_name(entry.renamed, each) for each in state.money),
    )


def _phase(state: FoldedSaga, entry: Entry, named: State | None = None) -> State:
    """The phase after `entry`; `named` where the entry itself or the state says which."""
    try:
        return PHASES[state.phase, type(entry)] or named or state.phase
    except KeyError as error:
        raise HistoryError(
            f"{type(entry).__name__} cannot follow in state {state.phase} (seq {state.seq})"
        ) from error


# -- an operator's evidence ------------------------------------------------------------------------


_LEAVES_ASSERTIONS = (EvidenceAsserted, EvidenceConfirmed, EvidenceWithdrawn, OperatorActed)
"""What may happen beside a pending assertion; anything else means that the saga has moved on."""


def _on_asserted(state: FoldedSaga, recorded: Recorded, entry: EvidenceAsserted) -> FoldedSaga:
    assertion = PendingAssertion(
        seq=recorded.seq,
        verb=entry.verb,
        step=entry.step,
        words=entry.words,
        identity=entry.identity,
        actor=entry.actor,
        reason=entry.reason,
        why=entry.why,
        until=datetime.fromisoformat(entry.until),
    )
    return replace(state, assertions=(*state.assertions, assertion))


def _on_confirmed(state: FoldedSaga, _: Recorded, entry: EvidenceConfirmed) -> FoldedSaga:
    """The two whose word counts; all other assertions lapse."""
    assertion = _assertion(state, entry)
    if assertion.identity == entry.identity:
        raise HistoryError(f"{entry.identity} cannot confirm their own word (seq {state.seq})")
    words = state.by_word_of if entry.verified else (assertion.identity, entry.identity)
    return replace(state, assertions=(), by_word_of=words)


def _on_withdrawn(state: FoldedSaga, _: Recorded, entry: EvidenceWithdrawn) -> FoldedSaga:
    assertion = _assertion(state, entry)
    return replace(state, assertions=tuple(each for each in state.assertions if each != assertion))


def _assertion(state: FoldedSaga, entry: EvidenceConfirmed | EvidenceWithdrawn) -> PendingAssertion:
    found = next((each for each in state.assertions if each.seq == entry.assertion), None)
    if found is None:
        raise HistoryError(
            f"{type(entry).__name__}: nothing was said at seq {entry.assertion} (seq {state.seq})"
        )
    return found


# -- attempts --------------------------------------------------------------------------------------


def _on_started(state: FoldedSaga, recorded: Recorded, entry: StepStarted) -> FoldedSaga:
    step = state.step(entry.step)
    track = step.track(entry.direction)
    if track.open_attempt is not None or entry.attempt <= track.attempts:
        raise HistoryError(
            f"{entry.step} {entry.direction} attempt {entry.attempt} started out of turn "
            f"(seq {recorded.seq})"
        )
    waited = track.waited
    if isinstance(track.last, StepWaiting):
        step = _with_signal(state, step, track.last.signal)
        waited = True
    if entry.direction == Direction.FORWARD:
        step = replace(step, denials=())
    elif entry.direction == Direction.COMPENSATE:
        step = replace(step, undo_denials=())
        given = state.effect_to_undo(entry.step)
        track = replace(track, acts_on=0 if given is None else given.seq)
    track = replace(
        track,
        attempts=entry.attempt,
        open_attempt=entry.attempt,
        started_seq=recorded.seq,
        started_at=recorded.at,
        key_since=track.key_since or recorded.at,
        generation=step.generation,
        waited=waited,
    )
    return _with_step(state, entry.step, _with_track(step, entry.direction, track))


def _with_signal(state: FoldedSaga, step: StepState, name: str | None) -> StepState:
    """Deliver the next signal of that name, or note that the wait ended without one."""
    heard = state.signals.get(name, HeardSignals()) if name is not None else HeardSignals()
    used = step.signals_used.get(name, 0) if name is not None else 0
    if name is None or used >= len(heard):
        return replace(step, signal=None)
    return replace(step, signal=heard[used], signals_used={**step.signals_used, name: used + 1})


def _on_outcome(state: FoldedSaga, recorded: Recorded, entry: Outcome) -> FoldedSaga:
    step = state.step(entry.step)
    track = step.track(entry.direction)
    if track.open_attempt != entry.attempt:
        raise HistoryError(
            f"{type(entry).__name__} of {entry.step} {entry.direction} attempt {entry.attempt}, "
            f"which is not open (seq {recorded.seq})"
        )
    ended = replace(track, open_attempt=None, ended_at=recorded.at, last=entry)
    match entry:
        case StepSucceeded(direction=Direction.COMPENSATE):
            return _with_step(state, entry.step, _after_undo(step, ended, entry))
        case StepSucceeded():
            ended = replace(ended, unsettled=False, done=True, failed=False)
            step = with_effect(step, recorded.seq, entry, step.generation_of(entry.attempt))
        case StepProbed(direction=Direction.PROBE_UNDO):
            return _with_step(state, entry.step, _after_undo_probe(step, ended, entry))
        case StepProbed():
            return _after_probe(state, recorded, step, ended, entry)
        case StepFailed():
            if entry.is_denial:
                step = _denied(step, ended)
            ended = _after_failure(ended, entry)
        case StepUnknown():
            ended = _after_unknown(step, ended, entry)
        case StepReleased():
            # A wait that was over stays over, though its attempt was handed back.
            ended = replace(ended, released=ended.released + 1)
        case StepWaiting():
            unsettled = ended.unsettled and not entry.decisive
            ended = replace(ended, waited=False, unsettled=unsettled)
            if entry.direction == Direction.FORWARD and entry.reference is not None:
                step = with_begun(step, recorded.seq, entry)
                step = replace(step, waits_on=entry.reference)
    return _with_step(state, entry.step, _with_track(step, entry.direction, ended))


def _after_unknown(step: StepState, track: Track, entry: StepUnknown) -> Track:
    """Nobody knows what the attempt did, unless that of its key was settled while it ran."""
    is_settled = entry.direction == Direction.FORWARD and _is_settled(step, entry.attempt)
    track = replace(track, unsettled=not is_settled)
    match entry.reason:
        case UnknownReason.DRAINED:
            return track
        case UnknownReason.RAISED | UnknownReason.TIMED_OUT:
            return replace(track, unknowns=track.unknowns + 1)
        case _:
            return replace(track, crashes=track.crashes + 1)


def _is_settled(step: StepState, attempt: int) -> bool:
    generation = step.generation_of(attempt)
    return generation < step.generation or step.has_effect_of(generation)


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
    """An undo accounts for the effect it was given at its claim, whatever was heard since.

    "There was nothing" is an answer only while no effect is known; said of a known effect it counts
    as a failed try. What was only begun and is called off was no effect yet: it undoes nothing that
    came before.
    """
    given = next((e for e in step.outside if e.seq == track.acts_on and not e.covered), None)
    if entry.undone is False and given is not None:
        return replace(step, undo=replace(track, failures=track.failures + 1))
    found = given is not None or entry.reference is not None
    undid = entry.undone is not False and found and _was_an_effect(step, given)
    step = replace(step, undone=step.undone or undid)
    return covered(step, track, given, entry.reference)


def _was_an_effect(step: StepState, given: RecordedEffect | None) -> bool:
    """Whether what was undone was more than begun; of what a wait did not name nobody knows."""
    if given is not None:
        return not given.is_open
    waits = step.forward.waited or isinstance(step.forward.last, StepWaiting)
    return bool(step.effects) or not waits


def _after_probe(
    state: FoldedSaga, recorded: Recorded, step: StepState, track: Track, entry: StepProbed
) -> FoldedSaga:
    """A probe that found the effect settles the step; one that did not is only one voice.

    Of what a wait was told of, "it is not there" is no answer.
    """
    if entry.landed:
        step = replace(step, probe=track)
        return _landed(state, recorded, step, entry, track.generation)
    if entry.landed is None or step.is_begun:
        track = replace(track, failures=track.failures + 1)
    elif step.forward.open_attempt is None and track.generation == step.generation:
        step = _denied(step, track)
    return _with_step(state, entry.step, replace(step, probe=track))


def _after_undo_probe(step: StepState, asking: Track, entry: StepProbed) -> StepState:
    """As of the step itself: found is proof of what the unsettled undo was given at its claim."""
    if entry.landed:
        given = next(
            (e for e in step.outside if e.seq == step.undo.acts_on and not e.covered), None
        )
        undone = step.undone or _was_an_effect(step, given)
        step = replace(step, undo_probe=asking, undone=undone)
        return covered(step, step.undo, given, entry.reference)
    if entry.landed is None:
        return replace(step, undo_probe=replace(asking, failures=asking.failures + 1))
    assert asking.started_at is not None, "only an attempt that was started has an outcome"
    denials = (*step.undo_denials, asking.started_at)
    return replace(step, undo_probe=asking, undo_denials=denials)


def _denied(step: StepState, asking: Track) -> StepState:
    assert asking.started_at is not None, "only an attempt that was started has an outcome"
    return replace(step, denials=(*step.denials, asking.started_at))


# -- what is heard about steps ---------------------------------------------------------------------


def _on_late(state: FoldedSaga, recorded: Recorded, entry: LateOutcomeRecorded) -> FoldedSaga:
    """A refused result still tells that an effect exists; a late undo tells nothing reliable."""
    if entry.direction != Direction.FORWARD:
        return state
    step = state.step(entry.step)
    if entry.outcome == "waiting":
        step = report(state, with_begun(step, recorded.seq, entry))
        return _with_step(state, entry.step, step)
    if entry.outcome != "succeeded":
        return state
    return _landed(state, recorded, step, entry, step.generation_of(entry.attempt))


def _on_reported(state: FoldedSaga, recorded: Recorded, entry: EffectReported) -> FoldedSaga:
    step = state.step(entry.step)
    return _landed(state, recorded, step, entry, generation_reported(step, entry))


def _landed(
    state: FoldedSaga,
    recorded: Recorded,
    step: StepState,
    entry: LateOutcomeRecorded | EffectReported | StepProbed | StepSettled,
    generation: int | None,
) -> FoldedSaga:
    """An effect is known, whoever told of it; it settles what was done under the same key only."""
    step = with_effect(step, recorded.seq, entry, generation)
    if generation == step.generation:
        step = replace(step, forward=replace(step.forward, unsettled=False, failed=False))
    return _with_step(state, entry.step, report(state, step))


def _on_settled(state: FoldedSaga, recorded: Recorded, entry: StepSettled) -> FoldedSaga:
    step = state.step(entry.step)
    if entry.direction == Direction.COMPENSATE:
        track = replace(step.undo, unsettled=False, ended_at=recorded.at)
        if not entry.landed:
            track = replace(track, key_since=None, unknowns=0, failures=track.failures + 1)
            step = replace(step, undo=track, undo_denials=())
            step = with_new_undo_keys(step)
            return _with_step(state, entry.step, step)
        given = state.effect_to_undo(entry.step)
        track = replace(track, started_seq=recorded.seq)
        undone = step.undone or _was_an_effect(step, given)
        step = covered(replace(step, undone=undone), track, given, entry.reference)
        return _with_step(state, entry.step, step)
    attempt = entry.attempt or step.forward.attempts
    if entry.landed:
        return _landed(state, recorded, step, entry, step.generation_of(attempt))
    forward = replace(
        step.forward,
        unsettled=False,
        failures=step.forward.failures + 1,
        unknowns=0,
        key_since=None,
        ended_at=recorded.at,
        waited=False,
        last=None if isinstance(step.forward.last, StepWaiting) else step.forward.last,
    )
    step = replace(
        step,
        forward=forward,
        settled_attempts=(*step.settled_attempts, attempt),
        denials=(),
        waits_on=None,
        signal=None,
    )
    return _with_step(state, entry.step, step)


def _on_skipped(state: FoldedSaga, _: Recorded, entry: StepSkipped) -> FoldedSaga:
    step = state.step(entry.step)
    if entry.direction == Direction.COMPENSATE:
        while (left := step.uncovered_effect) is not None:
            step = covered(step, step.undo, left, None, undone=False)
        undo = replace(step.undo, done=True, unsettled=False)
        step = replace(step, undo=undo, undone_seq=max(step.undone_seq, state.seq))
        return _with_step(state, entry.step, step)
    forward = replace(step.forward, unsettled=False, failed=False)
    return _with_step(state, entry.step, replace(step, forward=forward, skipped=True))


def _on_undo_failed(state: FoldedSaga, _: Recorded, entry: UndoFailed) -> FoldedSaga:
    return _with_step(state, entry.step, reported_undone(state.step(entry.step), entry.reference))


def _on_undo_skipped(state: FoldedSaga, _: Recorded, entry: UndoSkipped) -> FoldedSaga:
    step = spared(state.step(entry.step), state.step(entry.undone_by))
    return _with_step(state, entry.step, replace(step, undone_by=entry.undone_by))


def _fresh(step: StepState) -> StepState:
    """The step with budgets that begin anew; what is unsettled stays unsettled."""
    return replace(
        step,
        forward=_anew(step.forward),
        undo=_anew(step.undo),
        probe=_anew(step.probe),
        undo_probe=_anew(step.undo_probe),
    )


def _anew(track: Track) -> Track:
    return replace(track, failures=0, unknowns=0, crashes=0, failed=False, ended_at=None)


def _with_step(state: FoldedSaga, name: str, step: StepState) -> FoldedSaga:
    return replace(state, steps={**state.steps, name: step})


def _with_track(step: StepState, direction: str, track: Track) -> StepState:
    if direction == Direction.FORWARD:
        return replace(step, forward=track)
    if direction == Direction.COMPENSATE:
        return replace(step, undo=track)
    if direction == Direction.PROBE:
        return replace(step, probe=track)
    return replace(step, undo_probe=track)


_FOLDS: Mapping[type[Entry], Callable[[FoldedSaga, Recorded, Any], FoldedSaga]] = {
    SagaStarted: _on_saga_started,
    SagaLockGranted: lambda state, _, __: replace(state, lock_granted=True),
    StepStarted: _on_started,
    StepSucceeded: _on_outcome,
    StepFailed: _on_outcome,
    StepUnknown: _on_outcome,
    StepReleased: _on_outcome,
    StepWaiting: _on_outcome,
    StepProbed: _on_outcome,
    StepSettled: _on_settled,
    StepSkipped: _on_skipped,
    LateOutcomeRecorded: _on_late,
    EffectReported: _on_reported,
    UndoFailed: _on_undo_failed,
    MovementSettled: lambda state, _, __: state,
    SignalReceived: _on_signal,
    CancelRequested: lambda state, _, entry: replace(state, cancel=state.cancel or entry),
    CancelRefused: lambda state, _, __: replace(state, is_cancel_refused=True),
    UndoRequested: lambda state, _, entry: replace(state, undo_request=entry),
    OperatorActed: lambda state, _, __: state,
    EntriesVoided: _on_voided,
    EvidenceAsserted: _on_asserted,
    EvidenceConfirmed: _on_confirmed,
    EvidenceWithdrawn: _on_withdrawn,
    UnwindingStarted: _on_unwinding,
    UndoSkipped: _on_undo_skipped,
    SagaParked: _on_parked,
    SagaUnparked: _on_unparked,
    SagaMigrated: _on_migrated,
    SagaCompleted: _on_completed,
    SagaCompensated: _on_end,
    SagaResolved: _on_end,
}
