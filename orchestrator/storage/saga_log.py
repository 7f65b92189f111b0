"""The saga log: how sagas start, are claimed, move on and are read back.

Protocol. The `saga` row's seq is the only lock: every statement that changes a saga raises it, in
the same statement that appends the entries. Two kinds of write exist:

    facts      (`append_outcome`) add one entry at whatever seq is next. A fact about an attempt is
               fenced by the attempt's token, so nobody records for an attempt that was taken away.
    decisions  (`advance`) name the seq they were taken at and change nothing when it has moved.

`advance` carries the fast road too: an outcome, the decisions it leads to and the next attempt
(already claimed, when the same worker goes on) in one statement and one commit.

Lock order is saga, then attempt, except in `claim` and `append_outcome`, which find the saga
through the attempt. A deadlock between the two is possible, harmless and counts as "moved".

All times are the database's `clock_timestamp()`: `now()` stands still inside a transaction, and the
clocks of workers are not to be trusted.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import sqlalchemy
from psycopg.errors import InsufficientPrivilege, UniqueViolation

from orchestrator import checkpoints
from orchestrator.entries import (
    Entry,
    Json,
    LateOutcomeRecorded,
    Outcome,
    Recorded,
    decoded,
    encode,
    format_of,
    log_format,
)
from orchestrator.errors import LogUnavailableError
from orchestrator.instrumentation import emit
from orchestrator.state import TERMINAL, FoldedSaga, State
from orchestrator.storage import statements
from orchestrator.storage.database import Database, LockHeld, Moved, Row, run_inside
from orchestrator.storage.documents import document
from orchestrator.storage.rows import (
    Advance,
    AttemptId,
    Claimed,
    Closing,
    Migrated,
    NewSaga,
    OpenAttempt,
    SagaRow,
    Scheduled,
    Snapshot,
)

NO_ENTRIES = 2**31 - 1
"""A seq that no log reaches: read what stands beside the entries."""


class SagaLog:
    """Reads and writes sagas; every write is one statement and one commit."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- starting ----------------------------------------------------------------------------------

    def start(
        self, sagas: Sequence[NewSaga], connection: sqlalchemy.Connection | None = None
    ) -> set[UUID]:
        """Write new sagas and return the ids of those that did not exist.

        With `connection`, inside the caller's transaction; otherwise committed on return.

        Raises:
            LockHeld: another saga holds what one of them takes at its start; none was written, and
                a caller's transaction is to be rolled back, to a savepoint at least.
        """
        values = _start_values(sagas)
        is_locking = any(each.lock is not None for each in sagas)
        statement = statements.CALL_START_LOCKED if is_locking else statements.CALL_START
        if any(each.parent_id is not None for each in sagas):
            statement = statements.START_LOCKED_CHILD if is_locking else statements.START_CHILD
        try:
            if connection is not None:
                rows = run_inside(connection, statement, values)
            else:
                rows = self._database.run(statement, values, writes="start.commit")
        except (UniqueViolation, sqlalchemy.exc.IntegrityError) as error:
            raise _as_lock_held(error) from error
        return {row[0] for row in rows}

    def holders(
        self, definition: str, keys: Sequence[str], connection: sqlalchemy.Connection | None = None
    ) -> dict[str, tuple[UUID, str, State]]:
        """Return id, fingerprint and state of the sagas, pruned ones too, that hold `keys`."""
        values = {"definition": definition, "keys": list(keys)}
        if connection is not None:
            rows = run_inside(connection, statements.HOLDERS, values)
        else:
            rows = self._database.run(statements.HOLDERS, values)
        return {row[1]: (row[2], row[3], State(row[4])) for row in rows}

    # -- one attempt -------------------------------------------------------------------------------

    def claim(
        self,
        attempt: AttemptId,
        *,
        token: UUID,
        owner: str,
        lease_seconds: float,
        hashes: Sequence[str],
    ) -> Claimed | None:
        """Take the right to run `attempt`, log the intent, and return its saga's history.

        None: it is not there, not due, held by somebody, of a definition not in `hashes`, or its
        log holds what only a newer version reads.
        """
        rows = self._database.run(
            statements.CLAIM,
            {
                **_attempt_values(attempt),
                "token": token,
                "owner": owner,
                "lease": lease_seconds,
                "hashes": list(hashes),
                "log_format": log_format(),
                "form": checkpoints.form(),
            },
            writes="claim.commit",
        )
        if not rows:
            return None
        return self._claimed(attempt, rows[0])

    def _claimed(self, attempt: AttemptId, row: Row) -> Claimed:
        saga = _saga_row(row)
        alone, timeout, now, *history = row[-6:]
        base, entries = self._from_checkpoint(saga.id, *history)
        seq = 0 if base is None else base.seq
        if (entries[-1].seq if entries else seq) < saga.seq - 1:
            # The statement waited for another writer whose entries its snapshot could not see.
            later = self.entries(attempt.saga_id, after=seq)
            entries = [each for each in later if each.seq < saga.seq]
        return Claimed(
            saga=saga,
            base=base,
            entries=entries,
            now=datetime.fromtimestamp(now, UTC),
            timeout_seconds=timeout,
            alone=alone,
        )

    def _from_checkpoint(
        self, saga_id: UUID, seq: int | None, state: Json, logged: Sequence[Sequence[Any]] | None
    ) -> tuple[FoldedSaga | None, list[Recorded]]:
        """What a checkpoint says and the entries after it; without a good one, all entries."""
        if seq is None:
            return None, _recorded(logged)
        base = checkpoints.decoded(state)
        if base is not None and base.seq == seq:
            return base, _recorded(logged)
        until = logged[-1][0] if logged else seq  # the second statement may see more
        return None, [each for each in self.entries(saga_id) if each.seq <= until]

    def put_off(self, attempt: AttemptId, pause_seconds: float) -> bool:
        """Let an attempt that nobody holds come due that much later, as if it was never rung.

        False where it is not there, not due, or held; the log says nothing of it.
        """
        values = {**_attempt_values(attempt), "pause": pause_seconds}
        try:
            return bool(self._database.run(statements.PUT_OFF, values, writes="put_off.commit"))
        except Moved:
            return False

    def holds(self, attempt: AttemptId, token: UUID) -> bool:
        """Whether `token` holds the attempt now; how an ambiguous claim is read back."""
        rows = self._database.run(statements.HOLDER, {**_attempt_values(attempt), "token": token})
        return bool(rows and rows[0][0])

    def advance(self, change: Advance, connection: sqlalchemy.Connection | None = None) -> bool:
        """Apply a compare-and-set; False when the saga has moved or the token is gone."""
        values = _advance_values(change)
        statement = _advance_statement(change)
        if connection is not None:
            return bool(run_inside(connection, statement, values))
        return bool(self._database.run(statement, values, writes=_advance_name(change)))

    def grant_lock(self, saga_id: UUID) -> bool:
        """Give the saga what it locks, if nobody holds it and nobody was in line before.

        Rows of sagas that have ended, or never were, do not count and are removed.
        """
        values = {"saga_id": saga_id}
        try:
            if self._database.run(statements.GRANT, values, writes="lock.commit"):
                return True
            if not self._database.run(statements.DROP_DEAD_LOCKS, values, writes="lock.commit"):
                return False
            return bool(self._database.run(statements.GRANT, values, writes="lock.commit"))
        except (UniqueViolation, Moved):
            return False  # another saga, or another look, was faster by a hair

    def next_in_line(self, lock: str) -> UUID | None:
        """Return the saga that is first in line for a lock and does not have it."""
        rows = self._database.run(statements.NEXT_IN_LINE, {"name": lock})
        return rows[0][0] if rows else None

    def append_outcome(
        self,
        closing: Closing,
        outcome: Outcome,
        *,
        last_error: str | None = None,
        connection: sqlalchemy.Connection | None = None,
    ) -> bool:
        """Append how an attempt ended, wherever the log stands; False when the token is gone.

        The saga becomes due at once, so that somebody decides what follows.
        """
        kind, data = encode(outcome)
        values = {
            **_closing_values(closing),
            "saga_id": closing.id.saga_id,
            "kind": kind,
            "data": document(data),
            "last_error": last_error,
            "log_format": format_of(outcome),
        }
        if connection is not None:
            return bool(run_inside(connection, statements.APPEND_OUTCOME, values))
        return bool(self._database.run(statements.APPEND_OUTCOME, values, writes="record.commit"))

    def append_fact(
        self, saga_id: UUID, fact: Entry, states: Iterable[State], *, once: bool = False
    ) -> bool:
        """Append an outside fact wherever the log stands; False when not in one of `states`.

        With `once`, also when the log holds a fact of that kind already; two at the same moment may
        both be kept. The saga becomes due at once: whoever has its definition decides what follows.
        """
        kind, data = encode(fact)
        values = {
            "saga_id": saga_id,
            "states": [each.value for each in states],
            "once": once,
            "kind": kind,
            "log_format": format_of(fact),
            "data": document(data),
        }
        return bool(self._database.run(statements.APPEND_FACT, values, writes="fact.commit"))

    def request_cancel(self, saga_id: UUID, *, reason: str, actor: str) -> bool:
        """Append that somebody wants the saga taken back; False when asked before, or not running.

        As `append_fact`, but by the owner's function: who only starts sagas may do it too.
        """
        values = json.loads(document({"reason": reason, "actor": actor}))
        rows = self._database.run(
            statements.CALL_REQUEST_CANCEL, {"saga_id": saga_id, **values}, writes="fact.commit"
        )
        return bool(rows)

    def append_late(self, saga_id: UUID, fact: Entry, *, question: str | None) -> bool:
        """Append a fact about a saga that has ended, once; False when it has not, or knows it.

        Args:
            question: what a person has to answer; the alert is raised in the same commit. None: the
                fact asks nothing.
        """
        kind, data = encode(fact)
        mark = data
        if isinstance(fact, LateOutcomeRecorded):
            mark = {name: data[name] for name in ("step", "direction", "attempt")}
        values = {
            "saga_id": saga_id,
            "states": [each.value for each in TERMINAL],
            "kind": kind,
            "data": document(data),
            "mark": document(mark),
            "log_format": format_of(fact),
            "step": getattr(fact, "step", None),
            "question": question,
        }
        return bool(self._database.run(statements.APPEND_LATE, values, writes="fact.commit"))

    def extend(self, held: Iterable[tuple[UUID, UUID]], lease_seconds: float) -> dict[UUID, float]:
        """Extend the leases of (saga id, token) pairs that are older than a third of a lease.

        Returns the seconds each still-held token has left; a token that is missing was taken away.
        Never extends past an attempt's timeout: a heartbeat proves the process, not the step.
        """
        pairs = list(held)
        values = {
            "saga_ids": [saga_id for saga_id, _ in pairs],
            "tokens": [token for _, token in pairs],
            "lease": lease_seconds,
        }
        rows = self._database.run(statements.EXTEND, values)
        return dict(rows)

    # -- reading back ------------------------------------------------------------------------------

    def read(self, saga_id: UUID) -> Snapshot | None:
        """Return the saga as it stands, or None when there is none of that id."""
        try:
            rows = self._database.run(statements.READ, {"saga_id": saga_id, "after": 0})
        except RecursionError:
            rows = self._database.run(statements.READ, {"saga_id": saga_id, "after": NO_ENTRIES})
        if not rows:
            return None
        now, attempts, entries = rows[0][-3:]
        logged = self._one_by_one(saga_id, 0) if entries is None else _recorded(entries)
        return _snapshot(rows[0], now, attempts, logged)

    def read_on(self, saga_id: UUID) -> Snapshot | None:
        """As `read`, but from the last checkpoint on: however long the log is, it costs the same.

        `orchestrator.troubles.folded` makes the state of it.
        """
        values = {"saga_id": saga_id, "form": checkpoints.form()}
        try:
            rows = self._database.run(statements.READ_ON, values)
        except RecursionError:
            return self.read(saga_id)
        if not rows:
            return None
        now, attempts, *history = rows[0][-5:]
        base, entries = self._from_checkpoint(saga_id, *history)
        return _snapshot(rows[0], now, attempts, entries, base)

    def has(self, saga_id: UUID, kind: type[Entry], **data: Json) -> bool:
        """Whether the saga's log holds an entry of that kind, and with that data."""
        values = {"saga_id": saga_id, "kind": kind.__name__, "data": document(data)}
        return bool(self._database.run(statements.HAS, values)[0][0])

    def keep_checkpoint(self, saga_id: UUID, state: FoldedSaga) -> bool:
        """Keep what the log says up to `state.seq`, unless a later checkpoint is kept already.

        False also where it cannot be kept, whatever the reason: nothing rests on it, and the saga
        at hand goes on without.
        """
        try:
            values = {
                "saga_id": saga_id,
                "form": checkpoints.form(),
                "seq": state.seq,
                "state": document(checkpoints.encoded(state)),
            }
            return bool(
                self._database.run(statements.KEEP_CHECKPOINT, values, writes="checkpoint.commit")
            )
        except (Moved, LogUnavailableError, InsufficientPrivilege):
            return False
        except Exception as error:  # noqa: BLE001 - see above
            emit("checkpoint.not_kept", saga_id=saga_id, error=f"{type(error).__name__}: {error}")
            return False

    def entries(self, saga_id: UUID, after: int = 0) -> list[Recorded]:
        """Return the saga's entries with a seq above `after`, in order."""
        try:
            rows = self._database.run(statements.ENTRIES, {"saga_id": saga_id, "after": after})
        except RecursionError:
            return self._one_by_one(saga_id, after)
        return _recorded(rows[0][0])

    def _one_by_one(self, saga_id: UUID, after: int) -> list[Recorded]:
        """Read entries of which one is nested deeper than the driver can read."""
        rows = self._database.run(statements.RAW_ENTRIES, {"saga_id": saga_id, "after": after})
        return _recorded([(seq, kind, _loaded(text), epoch) for seq, kind, text, epoch in rows])


def _as_lock_held(error: Exception) -> Exception:
    violation = getattr(error, "orig", error)
    name = getattr(getattr(violation, "diag", None), "constraint_name", None)
    return LockHeld(str(violation)) if name == "semantic_lock_holder" else error


def new_id() -> UUID:
    """Return an id for a saga: random, so that nobody can guess another's."""
    return uuid.uuid4()


def _advance_statement(change: Advance) -> str:
    if change.migrated is not None:
        return statements.ADVANCE_AND_MIGRATE
    takes_over = change.closing is not None and change.closing.only_expired
    if change.tells:
        return statements.TAKE_OVER_AND_TELL if takes_over else statements.ADVANCE_AND_TELL
    if takes_over:
        return statements.TAKE_OVER
    return statements.ADVANCE_AND_HURRY if change.hurries else statements.ADVANCE


def _advance_name(change: Advance) -> str:
    if change.closing is None:
        return "decide.commit"
    return "takeover.commit" if change.closing.only_expired else "record.commit"


def _start_values(sagas: Sequence[NewSaga]) -> dict[str, Any]:
    return {
        "sagas": document([_new_saga_values(each) for each in sagas]),
        "schedule": _dumps(
            [
                {"saga_id": str(saga.id), **_scheduled_values(each)}
                for saga in sagas
                for each in saga.attempts
            ]
        ),
    }


def _new_saga_values(saga: NewSaga) -> dict[str, Json]:
    return {
        "id": str(saga.id),
        "definition": saga.definition,
        "version": saga.version,
        "hash": saga.definition_hash,
        "key": saga.key,
        "fingerprint": saga.fingerprint,
        "deadline": saga.deadline_seconds,
        "due_in": saga.due_in_seconds,
        "attributes": dict(saga.attributes),
        "trace": None if saga.trace is None else dict(saga.trace),
        "parent_id": saga.parent_id and str(saga.parent_id),
        "parent_step": saga.parent_step,
        "replay_of": saga.replay_of and str(saga.replay_of),
        "lock": saga.lock,
        "lock_granted": saga.lock_granted,
        "log_format": format_of(saga.started),
        "started": encode(saga.started)[1],
    }


def _advance_values(change: Advance) -> dict[str, Any]:
    step, direction, number = change.current or (None, None, None)
    return {
        "saga_id": change.saga_id,
        "seq": change.seq,
        "entries": document([encode(each) for each in change.entries]),
        "entry_count": len(change.entries),
        "log_format": format_of(*change.entries),
        "state": change.state.value,
        "ended": change.state in TERMINAL,
        "due_in": change.due_in_seconds,
        "looked": change.looked,
        "step": step,
        "direction": direction,
        "number": number,
        "last_error": change.last_error,
        "keep": [f"{each.step}/{each.direction}/{each.number}" for each in change.schedule],
        "schedule": _dumps([_scheduled_values(each) for each in change.schedule]),
        **_closing_values(change.closing),
        **_migrated_values(change.migrated),
    }


def _migrated_values(migrated: Migrated | None) -> dict[str, Any]:
    if migrated is None:
        return {}
    return {
        "version": migrated.version,
        "definition_hash": migrated.definition_hash,
        "attributes": document(dict(migrated.attributes)),
    }


def _closing_values(closing: Closing | None) -> dict[str, Any]:
    if closing is None:
        return dict.fromkeys(("token", "c_step", "c_direction", "c_number"))
    return {
        "token": closing.token,
        "c_step": closing.id.step,
        "c_direction": closing.id.direction,
        "c_number": closing.id.number,
    }


def _scheduled_values(attempt: Scheduled) -> dict[str, Json]:
    return {
        "step": attempt.step,
        "direction": attempt.direction,
        "number": attempt.number,
        "queue": attempt.queue,
        "delay": attempt.delay_seconds,
        "timeout": attempt.timeout_seconds,
        "alone": attempt.alone,
        "rung": attempt.rung,
        "token": None if attempt.token is None else str(attempt.token),
        "owner": attempt.owner,
        "lease": attempt.lease_seconds,
    }


def _attempt_values(attempt: AttemptId) -> dict[str, Any]:
    return {
        "saga_id": attempt.saga_id,
        "step": attempt.step,
        "direction": attempt.direction,
        "number": attempt.number,
    }


def _saga_row(row: Row) -> SagaRow:
    return SagaRow(
        id=row[0],
        definition=row[1],
        version=row[2],
        definition_hash=row[3],
        key=row[4],
        fingerprint=row[5],
        state=State(row[6]),
        seq=row[7],
        looks=row[8],
        parent_id=row[9],
        parent_step=row[10],
        lock=row[11],
        log_format=row[12],
    )


def _recorded(rows: Sequence[Sequence[Any]] | None) -> list[Recorded]:
    return [
        Recorded(seq=seq, at=datetime.fromtimestamp(epoch, UTC), entry=decoded(kind, data))
        for seq, kind, data, epoch in rows or ()
    ]


def _snapshot(
    row: Row,
    now: float,
    attempts: Sequence[Sequence[Any]] | None,
    entries: list[Recorded],
    base: FoldedSaga | None = None,
) -> Snapshot:
    saga = _saga_row(row)
    return Snapshot(
        saga=saga,
        now=datetime.fromtimestamp(now, UTC),
        entries=entries,
        attempts=[_open_attempt(saga.id, each) for each in attempts or ()],
        base=base,
    )


def _loaded(text: str) -> Json:
    try:
        return json.loads(text)
    except RecursionError:
        return None  # no entry is: whoever folds it is told


def _open_attempt(saga_id: UUID, row: Sequence[Any]) -> OpenAttempt:
    step, direction, number, queue, token, owner, is_expired, alone, timeout = row
    return OpenAttempt(
        id=AttemptId(saga_id=saga_id, step=step, direction=direction, number=number),
        queue=queue,
        token=None if token is None else UUID(token),
        owner=owner,
        is_expired=is_expired,
        alone=alone,
        timeout_seconds=timeout,
    )


def _dumps(value: Json) -> str:
    return json.dumps(value, separators=(",", ":"))
