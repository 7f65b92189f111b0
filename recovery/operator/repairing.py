"""Repairing a log that cannot be read: which entries are no facts, and what it says without them.

Entries are never deleted. `EntriesVoided` names those that do not count, with who says so and why;
a fold passes over them. What a voided entry told of is unknown again and is settled as always: an
attempt without its outcome is asked about, or done again under its key.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from orchestrator.coordinator import Coordinator
from orchestrator.entries import (
    EntriesVoided,
    Entry,
    Json,
    OperatorActed,
    Recorded,
    SagaParked,
    SagaResolved,
    SagaUnparked,
    encode,
    voided,
)
from orchestrator.errors import HistoryError, SagaNotFoundError
from orchestrator.folding import apply
from orchestrator.state import PARKED, SET_ASIDE, UNREADABLE, FoldedSaga, State
from orchestrator.storage.rows import SagaRow, Snapshot
from orchestrator.troubles import UnreadableLogError, brief, fold_of
from recovery.operator.conditions import check_words
from recovery.operator.refusals import MovedOnError, RefusedError
from recovery.operator.verbs import By

NAME = "repair"
BESIDE_THE_ENGINE = "it stands behind the seq that the saga's row knew"


@dataclass(frozen=True, slots=True, kw_only=True)
class Damaged:
    """An entry that is not to be believed, why, and what it says."""

    seq: int
    kind: str
    why: str
    says: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What is wrong with a saga's log.

    Args:
        damaged: the entries to void; none if the log can be read.
        state: the saga's without them; None: not even then can it be read.
    """

    saga: SagaRow
    damaged: Sequence[Damaged]
    state: State | None


def diagnosis(snapshot: Snapshot) -> Diagnosis:
    """Return which entries of a log are to be voided so that it can be read.

    Those that the saga's row did not know, and, reading on without them, each that cannot follow.
    """
    entries = snapshot.entries
    beside = {seq for each in _aside(entries) for seq in each.entries} - voided(entries)
    beside |= {each.seq for each in entries if each.seq > snapshot.saga.seq}
    damaged: list[Damaged] = []
    state = FoldedSaga(voided=frozenset(voided(entries)))
    for each in entries:
        why = BESIDE_THE_ENGINE if each.seq in beside else None
        if why is None:
            try:
                state = apply(state, each)
                continue
            except Exception as error:  # noqa: BLE001 - whatever a damaged entry raises
                why = brief(error)
        damaged.append(_damaged(each, why))
        if each.seq == 1:
            return Diagnosis(saga=snapshot.saga, damaged=damaged, state=None)
        state = apply(replace(state, voided=state.voided | {each.seq}), each)
    return Diagnosis(saga=snapshot.saga, damaged=damaged, state=state.phase)


def diagnosed(coordinator: Coordinator, saga_id: UUID) -> Diagnosis:
    """Read a saga and return what is wrong with its log."""
    return diagnosis(_read(coordinator, saga_id))


def repaired(
    coordinator: Coordinator, saga_id: UUID, voids: Iterable[int], by: By, *, seen: int | None
) -> State:
    """Void entries of a saga, let it go on, and return its state.

    Who voids one that can be read where it stands says so alone: the saga ends only `resolved`.

    Raises:
        RefusedError: it can be read as it is; or it cannot be read without these entries either.
        MovedOnError: somebody was faster; nothing was written.
    """
    check_words(by)
    snapshot = _seen(_knowing_its_log(coordinator, saga_id), seen)
    seqs = sorted(set(voids))
    found = diagnosis(snapshot)
    if not found.damaged:
        raise RefusedError(snapshot.saga, "its log can be read: there is nothing to repair")
    is_word = not {each.seq for each in found.damaged}.issuperset(seqs)
    entries: list[Entry] = [
        _acted(by, seqs),
        EntriesVoided(seqs=seqs, actor=by.actor, reason=by.reason, unverified=is_word),
    ]
    state = _without(snapshot, entries, seqs)
    ahead = [each for each in seqs if each > snapshot.saga.seq]
    if ahead:
        raise RefusedError(snapshot.saga, f"its log has no entry {ahead[0]} yet")
    if state.phase in PARKED and state.parked is not None and state.parked.reason in SET_ASIDE:
        entries.append(SagaUnparked(by=by.actor))
        state = _without(snapshot, entries, seqs)
    _note(coordinator, snapshot, entries, state.phase)
    return coordinator.mover.look(saga_id) or state.phase


def closed(coordinator: Coordinator, saga_id: UUID, by: By, *, seen: int | None) -> State:
    """Close a saga whose log cannot be read, as it stands; it never moves again by itself.

    Raises:
        RefusedError: its log can be read; or it has ended.
        MovedOnError: somebody was faster; nothing was written.
    """
    check_words(by)
    snapshot = _seen(_knowing_its_log(coordinator, saga_id), seen)
    if not diagnosis(snapshot).damaged:
        raise RefusedError(snapshot.saga, "its log can be read: `amends abandon` closes it")
    entries: list[Entry] = [
        _acted(by),
        SagaResolved(actor=by.actor, reason=by.reason),
    ]
    _note(coordinator, snapshot, entries, State.RESOLVED)
    return State.RESOLVED


def _read(coordinator: Coordinator, saga_id: UUID) -> Snapshot:
    snapshot = coordinator.log.read(saga_id)
    if snapshot is None:
        raise SagaNotFoundError(f"no saga {saga_id}", saga_id=saga_id)
    return snapshot


def _knowing_its_log(coordinator: Coordinator, saga_id: UUID) -> Snapshot:
    """Read a saga; one whose row does not know its whole log is set aside before."""
    snapshot = _read(coordinator, saga_id)
    if snapshot.entries and snapshot.entries[-1].seq > snapshot.saga.seq:
        error = UnreadableLogError(BESIDE_THE_ENGINE)
        coordinator.mover.set_aside(saga_id, error, UNREADABLE)
        snapshot = _read(coordinator, saga_id)
    return snapshot


def _seen(snapshot: Snapshot, seen: int | None) -> Snapshot:
    if seen is not None and seen != snapshot.saga.seq:
        raise MovedOnError(snapshot.saga, seen)
    if snapshot.saga.state in (State.COMPLETED, State.COMPENSATED, State.RESOLVED):
        raise RefusedError(snapshot.saga, f"it has ended, {snapshot.saga.state}")
    return snapshot


def _without(snapshot: Snapshot, added: Sequence[Entry], seqs: Sequence[int]) -> FoldedSaga:
    """The fold of the log with what is to be written."""
    new = [
        Recorded(seq=snapshot.saga.seq + place, at=snapshot.now, entry=entry)
        for place, entry in enumerate(added, start=1)
    ]
    try:
        state = fold_of([*snapshot.entries, *new])
    except HistoryError as error:
        named = ", ".join(map(str, seqs)) or "none"
        raise RefusedError(
            snapshot.saga,
            f"without entries {named} its log cannot be read either: {error}. `amends repair` "
            "without --void lists what to name; `amends repair --close` closes it as it stands",
        ) from error
    left = {seq for each in _aside(snapshot.entries) for seq in each.entries} - state.voided
    if left:
        raise RefusedError(
            snapshot.saga,
            f"entries {', '.join(map(str, sorted(left)))} were written beside the engine and are "
            "to be voided too",
        )
    return state


def _note(
    coordinator: Coordinator, snapshot: Snapshot, entries: Sequence[Entry], state: State
) -> None:
    if coordinator.mover.note(snapshot.saga, entries, state=state, due_in_seconds=0.0) is None:
        raise MovedOnError(_read(coordinator, snapshot.saga.id).saga, snapshot.saga.seq)


def _acted(by: By, seqs: Json = None) -> OperatorActed:
    identity = None if by.identity is None else str(by.identity)
    return OperatorActed(verb=NAME, actor=by.actor, reason=by.reason, data=seqs, identity=identity)


def _aside(entries: Sequence[Recorded]) -> list[SagaParked]:
    parked = [each.entry for each in entries if isinstance(each.entry, SagaParked)]
    return [each for each in parked if each.reason == UNREADABLE]


def _damaged(recorded: Recorded, why: str) -> Damaged:
    kind, says = encode(recorded.entry)
    return Damaged(seq=recorded.seq, kind=kind, why=why, says=says)
