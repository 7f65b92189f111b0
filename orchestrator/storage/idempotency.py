"""The records of idempotent calls in Postgres: one unique row per (scope, key).

Every method is one statement in autocommit, at READ COMMITTED, on the database's clock. The unique
index decides who runs; the token decides who may say how it ended.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy
from sqlalchemy import event
from sqlalchemy.orm import Session

from orchestrator.entries import Json
from orchestrator.errors import LogUnavailableError
from orchestrator.idempotency_heartbeat import IdempotencyHeartbeat
from orchestrator.idempotency_record import (
    Call,
    Claim,
    Ending,
    Failed,
    IdempotencyRecord,
    IdempotencyState,
    InvalidIdempotencyUsage,
    Released,
    Succeeded,
    Unknown,
)
from orchestrator.storage import idempotency_statements as statements
from orchestrator.storage.callers_transaction import CallersTransaction
from orchestrator.storage.database import Database, Locked, Moved, Row, run_inside

CLAIM_TRIES = 3
"""The second one sees whoever was faster than the first; the third, that it was released since."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """That somebody said how an unknown call ended.

    Args:
        token: of the call's claim; the key may have been used again since.
        outcome: ``succeeded``, ``failed`` or ``released``.
    """

    scope: str
    key: str
    token: UUID
    outcome: str
    settled_by: str
    settled_because: str
    settled_at: datetime


def _this_process() -> str:
    return f"{socket.gethostname()}/{os.getpid()}"


class PostgresIdempotencyStore:
    """An `IdempotencyStore` in the engine's database; opens nothing before the first call.

    Args:
        engine: a SQLAlchemy engine made by `orchestrator.storage.database.create_engine`.
        owner: names this process in the records.
    """

    def __init__(
        self, engine: sqlalchemy.Engine, *, owner: Callable[[], str] = _this_process
    ) -> None:
        self._database = Database(engine)
        self._owner = owner
        self._heartbeat = IdempotencyHeartbeat(self.extend)

    def claim(self, claim: Claim) -> IdempotencyRecord | None:
        """Take the key if it is free, and return the record as it stands then.

        None: somebody else was faster, or holds the key in an open transaction.
        """
        values = {
            **_claim_values(claim, self._owner()),
            "lease": float(claim.lease_seconds),
            "timeout": float(claim.timeout_seconds),
        }
        for _ in range(CLAIM_TRIES):
            try:
                rows = self._database.run(statements.CLAIM, values, writes="idempotency.claim")
            except Locked:
                return None
            except Moved:
                continue
            if rows:
                return _record(rows[0])
        return None

    def kept(self, claim: Claim) -> AbstractContextManager[None]:
        """Keep the lease of a claim alive while the block runs, up to the claim's timeout."""
        return self._heartbeat.kept(claim)

    def extend(self, claims: Sequence[Claim]) -> None:
        """Extend the leases that are still held, in one statement."""
        values = {
            "scopes": [each.call.scope for each in claims],
            "keys": [each.call.key for each in claims],
            "tokens": [each.token for each in claims],
            "leases": [float(each.lease_seconds) for each in claims],
        }
        self._database.run(statements.EXTEND, values, writes="idempotency.extend")

    def finish(self, claim: Claim, ending: Ending) -> IdempotencyRecord | None:
        """Write down how the call ended, if the claim's token still holds the key.

        Returns the record as it stands then.
        """
        values = {**_place(claim.call), **_ending_values(ending), "token": claim.token}
        return self._change(statements.FINISH, values, "idempotency.finish")

    def settle(
        self,
        scope: str,
        key: str,
        ending: Ending,
        *,
        by: str,
        because: str,
        seen: UUID | None = None,
    ) -> IdempotencyRecord | None:
        """Write down how an unknown ended, and return the record; None when it is not unknown.

        Who said so, and why, is kept as a settlement too, in the same statement.
        """
        values = {
            "scope": scope,
            "key": key,
            **_ending_values(ending),
            "by": by,
            "because": because,
            "seen": seen,
        }
        return self._change(statements.SETTLE, values, "idempotency.settle")

    def _change(
        self, statement: str, values: dict[str, Any], name: str
    ) -> IdempotencyRecord | None:
        try:
            rows = self._database.run(statement, values, writes=name)
        except Moved as error:
            raise LogUnavailableError("another transaction holds the key; try again") from error
        return _record(rows[0]) if rows else None

    def read(self, scope: str, key: str) -> IdempotencyRecord | None:
        """Return the record, or None when there is none or it has expired."""
        rows = self._database.run(statements.READ, {"scope": scope, "key": key})
        return _record(rows[0]) if rows else None

    def unknown(self, limit: int = 100) -> list[IdempotencyRecord]:
        """Return what waits to be settled, the oldest first."""
        return [_record(row) for row in self._database.run(statements.UNKNOWN, {"limit": limit})]

    def settlements(self, limit: int = 100) -> list[Settlement]:
        """Return who settled what, the latest first; they outlive the records."""
        rows = self._database.run(statements.SETTLEMENTS, {"limit": limit})
        return [Settlement(*row) for row in rows]

    def prune(self, limit: int = 1000) -> int:
        """Delete up to `limit` expired records and return how many; what is unknown stays.

        Many may prune at once.
        """
        values = {"limit": limit}
        return int(self._database.run(statements.PRUNE, values, writes="idempotency.prune")[0][0])

    def inside(self, transaction: Session | sqlalchemy.Connection) -> _CallersRecords:
        """Return the records as seen and written in a transaction that belongs to the caller."""
        return _CallersRecords(transaction, self._owner())


class _CallersRecords:
    """Records in a Session or Connection in which somebody else works; never committed here.

    Until the transaction ends an advisory lock holds the key, so that others learn at once that it
    is at work. The unique index holds whatever locks do not.
    """

    def __init__(self, given: Session | sqlalchemy.Connection, owner: str) -> None:
        self._given = given
        self._connection = CallersTransaction(given).connection
        self._savepoint = self._connection.get_nested_transaction()
        self._is_abandoned = False
        self._owner = owner

    def lock(self, call: Call) -> bool:
        return bool(run_inside(self._connection, statements.LOCK, _place(call))[0][0])

    def read(self, call: Call) -> IdempotencyRecord | None:
        rows = run_inside(self._connection, statements.READ, _place(call))
        return _record(rows[0]) if rows else None

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        given, connection, before = self._given, self._connection, self._savepoint
        nested = given.begin_nested()
        if isinstance(given, Session):
            given.connection()  # only now a Session sets the savepoint
        self._savepoint = connection.get_nested_transaction()
        try:
            with _no_commit(connection):
                yield
            nested.commit()
        except BaseException:
            if given.get_nested_transaction() is nested:
                nested.rollback()
            else:
                self._abandon()
            raise
        finally:
            self._savepoint = before

    def write(self, claim: Claim, ending: Ending) -> IdempotencyRecord | None:
        if self._connection.get_nested_transaction() is not self._savepoint or self._is_abandoned:
            raise InvalidIdempotencyUsage("the function ended its caller's transaction")
        values = {**_claim_values(claim, self._owner), **_ending_values(ending)}
        rows = run_inside(self._connection, statements.WRITE, values)
        return _record(rows[0]) if rows else None

    def _abandon(self) -> None:
        """Drop the connection: nobody knows what is left of the caller's transaction."""
        self._is_abandoned = True
        if not self._connection.closed:
            self._connection.invalidate()


@contextmanager
def _no_commit(connection: sqlalchemy.Connection) -> Iterator[None]:
    """Refuse a commit before it reaches Postgres: the record would not be part of it."""

    def refuse(_connection: sqlalchemy.Connection) -> None:
        raise InvalidIdempotencyUsage("the caller commits this transaction, not the function")

    event.listen(connection, "commit", refuse)
    try:
        yield
    finally:
        event.remove(connection, "commit", refuse)


def _place(call: Call) -> dict[str, Any]:
    return {"scope": call.scope, "key": call.key}


def _claim_values(claim: Claim, owner: str) -> dict[str, Any]:
    return {
        **_place(claim.call),
        "fingerprint": claim.call.fingerprint,
        "repeatable": claim.repeatable,
        "token": claim.token,
        "owner": owner,
        "keep": float(claim.keep_seconds),
    }


def _ending_values(ending: Ending) -> dict[str, Any]:
    state, result, error = _columns(ending)
    return {
        "state": state.value,
        "result": result,
        "error": error,
        "released": isinstance(ending, Released),
    }


def _columns(ending: Ending) -> tuple[IdempotencyState, str | None, str | None]:
    match ending:
        case Succeeded(result=result):
            return IdempotencyState.SUCCEEDED, _dumps(result), None
        case Failed(error=error):
            return IdempotencyState.FAILED, None, _dumps(error)
        case Unknown(error=error):
            return IdempotencyState.UNKNOWN, None, _dumps(error)
        case Released():
            return IdempotencyState.FAILED, None, None


def _dumps(value: Json) -> str:
    return json.dumps(value, separators=(",", ":"))


def _record(row: Row) -> IdempotencyRecord:
    return IdempotencyRecord(
        call=Call(scope=row[0], key=row[1], fingerprint=row[2]),
        state=IdempotencyState(row[3]),
        token=row[4],
        owner=row[5],
        lease_left_seconds=row[6],
        result=row[7],
        error=row[8],
        claimed_at=row[9],
        ended_at=row[10],
        expires_at=row[11],
        settled_by=row[12],
        settled_because=row[13],
    )
