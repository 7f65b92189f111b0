"""Invariants of the log itself: they hold for every saga of every definition, at every moment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from orchestrator.definition import SagaDefinition
from orchestrator.definitions import Definitions
from orchestrator.entries import (
    CancelRefused,
    Direction,
    EffectReported,
    Entry,
    LateOutcomeRecorded,
    MovementSettled,
    OperatorActed,
    Outcome,
    SagaCompensated,
    SagaCompleted,
    SagaMigrated,
    SagaParked,
    SagaResolved,
    StepProbed,
    StepReleased,
    StepSettled,
    StepSkipped,
    StepStarted,
    StepSucceeded,
    UndoFailed,
    UndoRequested,
    UndoSkipped,
    UnwindingStarted,
    believed,
)
from orchestrator.errors import HistoryError
from orchestrator.folding import replay
from orchestrator.state import SECOND_EFFECT, FoldedSaga, State
from orchestrator.storage.histories import SagaHistory
from recovery.invariants.evidence import Evidence, Violation
from recovery.invariants.undoing import left_undone

ENDS = (SagaCompleted, SagaCompensated, SagaResolved)
FACTS_AFTER_THE_END = (
    LateOutcomeRecorded,
    EffectReported,
    UndoFailed,
    MovementSettled,
    UndoRequested,
    CancelRefused,
    OperatorActed,
)


def check_histories(
    evidence: Evidence, definitions: Definitions, *, at_rest: bool
) -> Iterator[Violation]:
    """Check every saga's log; with `at_rest` also that nothing is left half-way."""
    for saga in evidence.sagas:
        yield from _is_gapless(saga)
        state = evidence.states[saga.id]
        if isinstance(state, HistoryError):
            yield Violation(invariant="history folds", subject=_name(saga), seen=str(state))
            continue
        yield from _folds_to_the_stored_state(saga, state)
        yield from _is_due_unless_terminal(saga)
        yield from _has_one_outcome_per_attempt(saga)
        yield from _unwinds_once_nothing_is_open(saga)
        yield from _undoes_in_reverse(saga, definitions)
        yield from _settles_before_compensating(saga)
        yield from _compensated_means_undone(saga, definitions)
        if at_rest:
            yield from _is_at_rest(saga)


def _name(saga: SagaHistory) -> str:
    return f"{saga.definition}/{saga.key}"


def _is_gapless(saga: SagaHistory) -> Iterator[Violation]:
    seqs = [each.seq for each in saga.entries]
    if seqs != list(range(1, len(seqs) + 1)) or saga.seq != len(seqs):
        yield Violation(
            invariant="log is gapless", subject=_name(saga), seen=f"row {saga.seq}, log {seqs}"
        )


def _folds_to_the_stored_state(saga: SagaHistory, state: FoldedSaga) -> Iterator[Violation]:
    stored = State.RUNNING if saga.state is State.WAITING else saga.state
    if state.phase is not stored:
        yield Violation(
            invariant="fold equals stored state",
            subject=_name(saga),
            seen=f"stored {saga.state}, folded {state.phase}",
        )


def _is_due_unless_terminal(saga: SagaHistory) -> Iterator[Violation]:
    if saga.is_due == saga.is_terminal:
        yield Violation(
            invariant="non-terminal sagas are due",
            subject=_name(saga),
            seen=f"{saga.state}, due: {saga.is_due}",
        )


def _has_one_outcome_per_attempt(saga: SagaHistory) -> Iterator[Violation]:
    seen: set[tuple[str, str, int]] = set()
    for recorded in believed(saga.entries):
        entry = recorded.entry
        if not isinstance(entry, Outcome):
            continue
        attempt = (entry.step, entry.direction, entry.attempt)
        if attempt in seen:
            yield Violation(
                invariant="one outcome per attempt", subject=_name(saga), seen=f"{attempt} twice"
            )
        seen.add(attempt)


def _unwinds_once_nothing_is_open(saga: SagaHistory) -> Iterator[Violation]:
    """No undo starts while a forward attempt of the saga is open."""
    open_forward: set[str] = set()
    for recorded in believed(saga.entries):
        match recorded.entry:
            case StepStarted(direction=Direction.FORWARD, step=step):
                open_forward.add(step)
            case StepStarted(direction=Direction.COMPENSATE, step=step) if open_forward:
                yield Violation(
                    invariant="no undo beside a forward attempt",
                    subject=_name(saga),
                    seen=f"undo of {step} while {sorted(open_forward)} ran",
                )
            case outcome if isinstance(outcome, Outcome) and outcome.direction == "forward":
                open_forward.discard(outcome.step)
            case _:
                pass


def _settles_before_compensating(saga: SagaHistory) -> Iterator[Violation]:
    """At the moment of unwinding no forward attempt may be of unknown outcome."""
    for index, recorded in enumerate(saga.entries):
        if not isinstance(recorded.entry, UnwindingStarted):
            continue
        state = replay(saga.entries[:index])
        unsettled = [name for name, step in state.steps.items() if step.forward.unsettled]
        if unsettled:
            yield Violation(
                invariant="unknown is settled before compensation",
                subject=_name(saga),
                seen=f"unwinding began while {unsettled} was unknown",
            )


def _undoes_in_reverse(saga: SagaHistory, definitions: Definitions) -> Iterator[Violation]:
    """A step's undo ends before the undo of any step before it begins.

    One that was exhausted holds up only what names it; an operator may have had it undone later.
    """
    definition = definitions.by_hash(saga.definition_hash)
    if definition is None or saga.state is State.FAILED_COMPENSATION:
        return
    names = _last_names(saga)
    ended = {names.get(step, step) for step in _exhausted(saga)}
    called: Counter[str] = Counter()
    is_whole = True
    for recorded in saga.entries:
        match _renamed(recorded.entry, names):
            case StepStarted(direction=Direction.FORWARD, step=step):
                called[step] += 1
            case StepReleased(direction=Direction.FORWARD, step=step):
                called[step] -= 1
            case UnwindingStarted(cause=cause):
                is_whole = cause != SECOND_EFFECT
            case LateOutcomeRecorded(step=step) | EffectReported(step=step) | UndoFailed(step=step):
                ended.add(step)  # its undo may begin again at any time, also beside an earlier one
            case (
                UndoSkipped(step=step)
                | StepSucceeded(direction=Direction.COMPENSATE, step=step)
                | StepSettled(direction=Direction.COMPENSATE, landed=True, step=step)
                | StepProbed(direction=Direction.PROBE_UNDO, landed=True, step=step)
                | StepSkipped(direction=Direction.COMPENSATE, step=step)
            ):
                ended.add(step)
            case StepStarted(direction=Direction.COMPENSATE, step=step) if is_whole:
                for later in _all_after(definition, step):
                    has_undo = definition.step(later).compensation is not None
                    if has_undo and called[later] and later not in ended:
                        if definition.step(later).transactional:
                            continue  # it may have left nothing behind
                        yield Violation(
                            invariant="undo in reverse order",
                            subject=_name(saga),
                            seen=f"{step} before {later}",
                        )
            case _:
                pass


def _exhausted(saga: SagaHistory) -> Iterator[str]:
    for recorded in saga.entries:
        match recorded.entry:
            case SagaParked(state=State.FAILED_COMPENSATION, steps=steps):
                yield from steps
            case _:
                pass


def _last_names(saga: SagaHistory) -> dict[str, str]:
    """What steps are called now that had another name before the saga was migrated."""
    names: dict[str, str] = {}
    for recorded in saga.entries:
        if isinstance(recorded.entry, SagaMigrated):
            renamed = recorded.entry.renamed
            names = {old: renamed.get(new, new) for old, new in names.items()} | renamed
    return names


def _renamed(entry: Any, names: Mapping[str, str]) -> Entry:
    name = getattr(entry, "step", None)
    renamed: Entry = (
        replace(entry, step=names[name]) if name is not None and name in names else entry
    )
    return renamed


def _all_after(definition: SagaDefinition[Any], step: str) -> list[str]:
    """The steps after `step`, near and far: one without an undo between two hides neither."""
    found: list[str] = []
    near = list(definition.before[step])
    while near:
        name = near.pop()
        if name not in found:
            found.append(name)
            near += definition.before[name]
    return found


def _compensated_means_undone(saga: SagaHistory, definitions: Definitions) -> Iterator[Violation]:
    definition = definitions.by_hash(saga.definition_hash)
    if definition is None or saga.state is not State.COMPENSATED:
        return
    left = left_undone(saga.entries, definition.steps)
    if left:
        yield Violation(
            invariant="compensated means undone", subject=_name(saga), seen=f"{left} not undone"
        )


def _is_at_rest(saga: SagaHistory) -> Iterator[Violation]:
    moving = (State.RUNNING, State.WAITING, State.COMPENSATING)
    if saga.state in moving:
        yield Violation(invariant="every saga ends", subject=_name(saga), seen=saga.state)
    if saga.is_terminal and saga.open_attempts:
        yield Violation(
            invariant="no attempt outlives its saga",
            subject=_name(saga),
            seen=f"{saga.open_attempts} attempt rows",
        )
    if saga.is_terminal and not isinstance(saga.entries[-1].entry, ENDS):
        last = saga.entries[-1].entry
        if not isinstance(last, FACTS_AFTER_THE_END):
            yield Violation(
                invariant="nothing after the end", subject=_name(saga), seen=type(last).__name__
            )
