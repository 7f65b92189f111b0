"""Invariants between a log and the rows beside it: attempts, due times, leases, checkpoints.

A row is written in the statement that appends what it follows from, so at any one moment the two
agree. Only time may run ahead of them: what came due a moment ago is taken up by the next sweep.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Final

from orchestrator import checkpoints
from orchestrator.definition import SagaDefinition
from orchestrator.entries import EntriesVoided
from orchestrator.folding import replay
from orchestrator.planning import MAX_LOOK_SECONDS, attempt_id
from orchestrator.state import PARKED, FoldedSaga, State
from orchestrator.state_machine import Decision, decide
from orchestrator.storage.rows import LOOK_SECONDS
from orchestrator.storage.verification import SagaRecord
from recovery.invariants.evidence import Violation

LATE: Final = timedelta(minutes=10)
"""What has been due for so long nobody is moving, or nobody could."""

SLACK: Final = timedelta(minutes=1)


def check_rows(
    record: SagaRecord,
    state: FoldedSaga,
    definition: SagaDefinition[Any] | None,
    now: datetime,
) -> Iterator[Violation]:
    """Check the rows of one saga against what its log folds to.

    Args:
        definition: of the saga; None if this process has it not, then only what holds for all.
    """
    yield from _ends_when_it_ended(record)
    yield from _open_attempts_are_claimed(record, state)
    yield from _lost_leases_are_taken_over(record, now)
    yield from _checkpoint_is_the_fold(record)
    if definition is None or record.history.is_terminal:
        return
    yield from _is_looked_at(record, now)
    try:
        decision = decide(definition, state, now, str(record.history.id))
    except Exception as error:  # noqa: BLE001 - whatever a definition's conditions raise
        yield _violation("what follows can be decided", record, f"{type(error).__name__}: {error}")
        return
    yield from _comes_due_in_time(record, decision, now)
    yield from _scheduled_is_what_is_wanted(record, decision, now)
    yield from _is_rung_for(record, now)


def _ends_when_it_ended(record: SagaRecord) -> Iterator[Violation]:
    if (record.ended_at is not None) != record.history.is_terminal:
        seen = f"{record.history.state}, ended at {record.ended_at}"
        yield _violation("an end has its time", record, seen)


def _open_attempts_are_claimed(record: SagaRecord, state: FoldedSaga) -> Iterator[Violation]:
    is_open = {
        (name, str(direction), track.open_attempt)
        for name, step in state.steps.items()
        for direction, track in step.tracks
        if track.open_attempt is not None
    }
    claimed = {each.name for each in record.attempts if each.is_claimed}
    names = {new: old for old, new in state.renamed.items()}
    for each in sorted(is_open - claimed):
        if (names.get(each[0], each[0]), *each[1:]) not in claimed:
            yield _violation("an open attempt is claimed", record, f"{each} has no row")
    for each in sorted(claimed - is_open):
        if (state.renamed.get(each[0], each[0]), *each[1:]) not in is_open:
            yield _violation("a claimed attempt is open", record, f"{each} is not in the log")


def _lost_leases_are_taken_over(record: SagaRecord, now: datetime) -> Iterator[Violation]:
    for each in record.attempts:
        if each.lease_until is not None and each.lease_until < now - LATE:
            seen = f"{each.name} since {each.lease_until}"
            yield _violation("a lost lease is taken over", record, seen)


def _checkpoint_is_the_fold(record: SagaRecord) -> Iterator[Violation]:
    if record.checkpoint is None:
        return
    seq, kept = record.checkpoint
    entries = record.history.entries
    if any(isinstance(each.entry, EntriesVoided) and each.seq > seq for each in entries):
        return  # nobody reads it any more: what follows does not fit it
    folded = checkpoints.encoded(replay(each for each in entries if each.seq <= seq))
    if folded != kept:
        yield _violation("a checkpoint is the fold", record, f"at seq {seq} it is another state")


def _is_looked_at(record: SagaRecord, now: datetime) -> Iterator[Violation]:
    if record.due_at is not None and record.due_at < now - LATE:
        yield _violation("a due saga is looked at", record, f"due since {record.due_at}")


def _comes_due_in_time(
    record: SagaRecord, decision: Decision, now: datetime
) -> Iterator[Violation]:
    longest = timedelta(seconds=LOOK_SECONDS)
    if record.history.state in PARKED or decision.visible is State.WAITING:
        longest = timedelta(seconds=MAX_LOOK_SECONDS)
    wanted = now + longest
    if decision.wake_at is not None and record.history.state not in PARKED:
        wanted = min(wanted, max(decision.wake_at, now) + timedelta(seconds=LOOK_SECONDS))
    if record.due_at is None or record.due_at > wanted + SLACK:
        seen = f"due at {record.due_at}, wanted by {wanted}"
        yield _violation("a saga comes due in time", record, seen)


def _scheduled_is_what_is_wanted(
    record: SagaRecord, decision: Decision, now: datetime
) -> Iterator[Violation]:
    if decision.entries or (record.due_at is not None and record.due_at <= now):
        return  # it is decided anew at the next look, which writes the rows
    named = (attempt_id(record.history.id, run) for run in decision.runs)
    wanted = {(each.step, each.direction, each.number) for each in named}
    waiting = {each.name for each in record.attempts if not each.is_claimed}
    if wanted != waiting:
        seen = f"wanted {sorted(wanted)}, scheduled {sorted(waiting)}"
        yield _violation("what is wanted is scheduled", record, seen)


def _is_rung_for(record: SagaRecord, now: datetime) -> Iterator[Violation]:
    for each in record.attempts:
        if not each.is_claimed and max(each.due_at, each.ring_at) < now - LATE:
            seen = f"{each.name} since {max(each.due_at, each.ring_at)}"
            yield _violation("a due attempt is rung for", record, seen)


def _violation(invariant: str, record: SagaRecord, seen: str) -> Violation:
    history = record.history
    return Violation(invariant=invariant, subject=f"{history.definition}/{history.key}", seen=seen)
