"""Everything about sagas as it stood at one moment, read in batches, for who judges it.

One transaction, REPEATABLE READ and read-only, so that a saga's row, its log, its attempts and its
checkpoint are of the same moment, however long the reading takes. It is refused on a standby: what
is replayed there is behind, and may be ended in the middle. Memory holds one batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import sqlalchemy

from orchestrator import checkpoints
from orchestrator.entries import Json, Recorded, decoded
from orchestrator.errors import AmendsError
from orchestrator.state import State
from orchestrator.storage.database import Database, Row, run_inside
from orchestrator.storage.histories import SagaHistory

ROWS = 500
ENTRIES_AT_ONCE = 20_000
"""Of so many entries the logs are read at once; a longer log is read alone."""

MOMENT = "SELECT clock_timestamp(), pg_is_in_recovery()"

_SAGA = "s.id, s.definition, s.definition_hash, s.key, s.state, s.seq, s.log_format, s.due_at, "
_ENDED = "s.ended_at"

SAGAS = f"""
SELECT {_SAGA} {_ENDED} FROM amends.saga s
WHERE s.id > %(after)s::uuid AND (s.due_at IS NOT NULL OR s.updated_at >= %(since)s::timestamptz)
ORDER BY s.id LIMIT {ROWS}
"""

OF_ORDERS = f"""
SELECT {_SAGA} {_ENDED} FROM amends.saga s WHERE s.key = ANY(%(orders)s::text[])
UNION
SELECT {_SAGA} {_ENDED} FROM unnest(%(orders)s::text[]) AS o(name)
JOIN amends.saga s ON s.attributes @> jsonb_build_object('order_id', o.name)
"""

LOGS = """
SELECT l.saga_id, json_agg(json_build_array(l.seq, l.kind, l.data,
    extract(epoch FROM l.recorded_at)) ORDER BY l.seq)
FROM amends.saga_log l WHERE l.saga_id = ANY(%(ids)s::uuid[]) GROUP BY l.saga_id
"""

ATTEMPTS = """
SELECT t.saga_id, t.step, t.direction, t.number, t.token IS NOT NULL, t.due_at, t.ring_at,
    t.lease_until
FROM amends.attempt t WHERE t.saga_id = ANY(%(ids)s::uuid[])
"""

CHECKPOINTS = """
SELECT c.saga_id, c.seq, c.state FROM amends.checkpoint c
WHERE c.saga_id = ANY(%(ids)s::uuid[]) AND c.form = %(form)s
"""


class ReplicaError(AmendsError):
    """The server is a standby; ask the primary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptState:
    """A row of `attempt`. `lease_until`: of one that is claimed."""

    step: str
    direction: str
    number: int
    is_claimed: bool
    due_at: datetime
    ring_at: datetime
    lease_until: datetime | None = None

    @property
    def name(self) -> tuple[str, str, int]:
        return (self.step, self.direction, self.number)


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaRecord:
    """One saga with all rows that belong to it.

    `checkpoint`: seq and state, of the form that this process writes, if there is one.
    """

    history: SagaHistory
    log_format: int = 1
    due_at: datetime | None = None
    ended_at: datetime | None = None
    attempts: Sequence[AttemptState] = ()
    checkpoint: tuple[int, Json] | None = None


class Moment:
    """The database as it stood at `now`."""

    def __init__(self, connection: sqlalchemy.Connection, now: datetime) -> None:
        self._connection = connection
        self.now = now

    def sagas(self, since: datetime) -> Iterator[SagaRecord]:
        """Yield the sagas that have not ended, and those that moved since then."""
        after = UUID(int=0)
        while rows := self._run(SAGAS, {"after": after, "since": since}):
            for batch in _batches(rows):
                yield from self._records(batch)
            after = rows[-1][0]

    def of_orders(self, orders: Sequence[str]) -> list[SagaRecord]:
        """Return the sagas of these orders: by their key, or by what the payload calls it."""
        return list(self._records(self._run(OF_ORDERS, {"orders": list(orders)})))

    def _records(self, rows: Sequence[Row]) -> Iterator[SagaRecord]:
        ids = [row[0] for row in rows]
        logs: dict[UUID, Any] = dict(self._run(LOGS, {"ids": ids}))
        kept = {
            row[0]: (row[1], row[2])
            for row in self._run(CHECKPOINTS, {"ids": ids, "form": checkpoints.form()})
        }
        attempts: dict[UUID, list[AttemptState]] = {}
        for saga_id, *values in self._run(ATTEMPTS, {"ids": ids}):
            attempts.setdefault(saga_id, []).append(_attempt(values))
        for row in rows:
            yield _record(row, logs, attempts.get(row[0], []), kept.get(row[0]))

    def _run(self, statement: str, values: Mapping[str, Any]) -> list[Row]:
        return [tuple(row) for row in run_inside(self._connection, statement, values)]


@contextmanager
def moment(database: Database) -> Iterator[Moment]:
    """Hold the database still for a reader, without keeping anybody from writing.

    Raises:
        ReplicaError: the server is a standby.
    """
    with database.engine.connect() as opened:
        connection = opened.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
        with connection.begin():
            for name in ("statement_timeout", "idle_in_transaction_session_timeout"):
                connection.exec_driver_sql(f"SET LOCAL {name} = 0")
            [(now, is_standby)] = run_inside(connection, MOMENT, {})
            if is_standby:
                raise ReplicaError(
                    "the server is a standby, which is behind and may end this reading: "
                    "verify on the primary (AMENDS_DATABASE_URL)"
                )
            yield Moment(connection, now)


def _batches(rows: Sequence[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    for row in rows:
        if batch and sum(each[5] for each in batch) + row[5] > ENTRIES_AT_ONCE:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _record(
    row: Row,
    logs: Mapping[UUID, Sequence[Sequence[Any]]],
    attempts: Sequence[AttemptState],
    checkpoint: tuple[int, Json] | None,
) -> SagaRecord:
    saga_id, definition, definition_hash, key, state, seq, log_format, due_at, ended_at = row
    return SagaRecord(
        history=SagaHistory(
            id=saga_id,
            definition=definition,
            definition_hash=definition_hash,
            key=key,
            state=State(state),
            seq=seq,
            is_due=due_at is not None,
            open_attempts=len(attempts),
            entries=[
                Recorded(seq=at, at=datetime.fromtimestamp(epoch, UTC), entry=decoded(kind, data))
                for at, kind, data, epoch in logs.get(saga_id, ())
            ],
        ),
        log_format=log_format,
        due_at=due_at,
        ended_at=ended_at,
        attempts=attempts,
        checkpoint=checkpoint,
    )


def _attempt(values: Sequence[Any]) -> AttemptState:
    step, direction, number, is_claimed, due_at, ring_at, lease_until = values
    return AttemptState(
        step=step,
        direction=direction,
        number=number,
        is_claimed=is_claimed,
        due_at=due_at,
        ring_at=ring_at,
        lease_until=lease_until,
    )
