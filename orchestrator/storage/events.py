"""Life-cycle events for other services: one cursor read of the log, and where each reader stands.

Theory of operation. Transactions commit in another order than they begin, so no order that is
known when an entry is written (seq, time, a sequence) is safe to resume from: an entry may become
visible behind the reader. What is safe is the number of the writing transaction together with a
horizon: below the lowest transaction still running nothing can appear any more. A page is read in
the order (txid, saga_id, seq), below the horizon, after the reader's position.

Within a saga that order is not that of seq: a transaction that got its number early, as that of a
transactional step, may append its entry last. Seqs of one saga become visible in order, though, for
the saga's row is locked until the commit. So whatever a page holds, the entries of the same saga
with a lower seq and a higher txid are there to be read as well: they are delivered before it, and
once more at their own place.

A position is acknowledged forward only. Two readers of one name both read from there on: what they
both read is delivered twice, and nothing is skipped, whichever acknowledges first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self
from uuid import UUID

from orchestrator.entries import Json
from orchestrator.storage.database import Database, Row

_IS_EVENT = "l.kind LIKE 'Saga%%' OR l.kind = 'UnwindingStarted' OR l.kind = 'CancelRequested'"
"""Word for word the predicate of the index `saga_log_events`."""

_HORIZON = "pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
_AFTER = "(l.txid, l.saga_id, l.seq) > (%(txid)s::bigint, %(saga_id)s::uuid, %(seq)s::int)"

READ = f"""
WITH page AS MATERIALIZED (
    SELECT l.txid, l.saga_id, l.seq, l.kind, l.data, l.recorded_at FROM amends.saga_log l
    WHERE ({_IS_EVENT}) AND {_AFTER} AND l.txid < {_HORIZON}
    ORDER BY l.txid, l.saga_id, l.seq LIMIT %(limit)s
)
SELECT p.txid, p.saga_id, p.seq, e.seq, e.kind, e.data - 'payload' - 'trace', e.recorded_at,
    s.definition, s.version, s.key, s.attributes, s.parent_id
FROM page p CROSS JOIN LATERAL (
    SELECT p.seq, p.kind, p.data, p.recorded_at
    UNION ALL
    SELECT l.seq, l.kind, l.data, l.recorded_at FROM amends.saga_log l
    WHERE l.saga_id = p.saga_id AND l.seq < p.seq AND l.txid > p.txid AND ({_IS_EVENT})
) e JOIN amends.saga s ON s.id = p.saga_id
ORDER BY p.txid, p.saga_id, p.seq, e.seq
"""

POSITION = "SELECT txid, saga_id, seq FROM amends.subscription WHERE name = %(name)s"

ACKNOWLEDGE = """
INSERT INTO amends.subscription AS c (name, txid, saga_id, seq)
SELECT %(name)s, l.txid, l.saga_id, l.seq FROM amends.saga_log l
WHERE l.saga_id = %(saga_id)s AND l.seq = %(seq)s AND l.txid = %(txid)s
ON CONFLICT (name) DO UPDATE SET txid = excluded.txid, saga_id = excluded.saga_id,
    seq = excluded.seq, updated_at = clock_timestamp()
WHERE (c.txid, c.saga_id, c.seq) <= (excluded.txid, excluded.saga_id, excluded.seq)
RETURNING 1
"""

IS_AHEAD = f"""
SELECT %(txid)s >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint
    OR EXISTS (SELECT FROM amends.saga_log l WHERE ({_IS_EVENT})
        AND l.txid >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint)
"""

LAG = f"""
SELECT
    (SELECT extract(epoch FROM clock_timestamp() - l.recorded_at)::float8 FROM amends.saga_log l
     WHERE ({_IS_EVENT}) AND {_AFTER} AND l.txid < {_HORIZON}
     ORDER BY l.txid, l.saga_id, l.seq LIMIT 1),
    (SELECT extract(epoch FROM clock_timestamp() - l.recorded_at)::float8 FROM amends.saga_log l
     WHERE ({_IS_EVENT}) AND l.txid >= {_HORIZON} ORDER BY l.txid LIMIT 1)
"""

NAMES = "SELECT name FROM amends.subscription ORDER BY name"

FORGET = "DELETE FROM amends.subscription WHERE name = %(name)s RETURNING 1"


class TransactionNumbersBeganAnewError(Exception):
    """The log's transaction numbers are ahead of the database's, as after a restore of a dump."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A place in the order of events; as text ``txid/saga_id/seq``."""

    txid: int
    saga_id: UUID
    seq: int

    def __str__(self) -> str:
        return f"{self.txid}/{self.saga_id}/{self.seq}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the position that was written as `text`.

        Raises:
            ValueError: it is none.
        """
        txid, saga_id, seq = text.split("/")
        return cls(txid=int(txid), saga_id=UUID(saga_id), seq=int(seq))


BEGINNING = Position(txid=0, saga_id=UUID(int=0), seq=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaEvent:
    """Something in a saga's life, as other services hear of it.

    Args:
        id: ``saga_id:seq``, the same at every delivery: what to tell a repetition by.
        kind: the entry's, like ``SagaCompleted``; a newer version may have kinds of its own.
        data: the entry's fields but payload and trace; a field that holds its default is left out.
        version, attributes: as the saga has them now.
        position: what acknowledging this event acknowledges.
    """

    id: str
    saga_id: UUID
    seq: int
    definition: str
    version: int
    key: str
    kind: str
    data: Mapping[str, Json]
    at: datetime
    attributes: Mapping[str, Json]
    parent_id: UUID | None
    position: Position


@dataclass(frozen=True, slots=True, kw_only=True)
class EventLag:
    """How far a reader is behind; None: not at all.

    Args:
        unread_seconds: the age of the oldest event that it could have acknowledged.
        held_seconds: the age of the oldest event that nobody can read yet, because a transaction
            that began before it, anywhere in the cluster, is still running.
    """

    unread_seconds: float | None
    held_seconds: float | None


class Events:
    """Reads the events of all sagas and keeps where each reader stands."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def position(self, name: str) -> Position:
        """Return what the reader has acknowledged; the beginning if nothing yet."""
        rows = self._database.run(POSITION, {"name": name})
        return Position(**dict(zip(_PLACE, rows[0], strict=True))) if rows else BEGINNING

    def read(self, after: Position, limit: int) -> list[SagaEvent]:
        """Return the events after a position, about `limit`: overtaken ones come on top.

        Raises:
            TransactionNumbersBeganAnewError: nothing newer could ever be read.
        """
        rows = self._database.run(READ, {**_values(after), "limit": limit})
        if not rows and self._database.run(IS_AHEAD, {"txid": after.txid})[0][0]:
            raise TransactionNumbersBeganAnewError
        return list(_events(rows, after))

    def acknowledge(self, name: str, position: Position) -> bool:
        """Move the reader forward to `position`; False when it is further, or there is no event."""
        values = {"name": name, **_values(position)}
        return bool(self._database.run(ACKNOWLEDGE, values, writes="acknowledge.commit"))

    def lag(self, name: str) -> EventLag:
        """Return how far the reader is behind."""
        [(unread, held)] = self._database.run(LAG, _values(self.position(name)))
        return EventLag(unread_seconds=unread, held_seconds=held)

    def names(self) -> list[str]:
        """Return the readers that have acknowledged anything."""
        return [row[0] for row in self._database.run(NAMES, {})]

    def forget(self, name: str) -> bool:
        """Forget the reader; False when there was none of that name."""
        return bool(self._database.run(FORGET, {"name": name}, writes="forget.commit"))


_PLACE = ("txid", "saga_id", "seq")
_VALUES = ("kind", "data", "at", "definition", "version", "key", "attributes", "parent_id")


def _values(position: Position) -> dict[str, int | UUID]:
    return {"txid": position.txid, "saga_id": position.saga_id, "seq": position.seq}


def _events(rows: Sequence[Row], before: Position) -> Iterator[SagaEvent]:
    """One event per row; what comes before its place is acknowledged with its place only."""
    for txid, saga_id, place_seq, seq, *values in rows:
        if seq == place_seq:
            before = Position(txid=txid, saga_id=saga_id, seq=seq)
        yield SagaEvent(
            id=f"{saga_id}:{seq}",
            saga_id=saga_id,
            seq=seq,
            position=before,
            **dict(zip(_VALUES, values, strict=True)),
        )
