"""One comparison, in temporary tables of a session of its own.

Every statement commits by itself and rows travel in batches: a transaction that stays open would
hold back every reader of events. Temporary tables need a primary, the right TEMPORARY, and no
pooler that hands each transaction another session.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Literal, cast

import psycopg
import sqlalchemy

from orchestrator.errors import LogUnavailableError
from orchestrator.redaction import redact
from orchestrator.storage.database import Database
from recovery.reconciliation.business_day import BusinessDay
from recovery.reconciliation.discrepancies import Discrepancy, DiscrepancyType
from recovery.reconciliation.records import InvalidRow, Row, as_told, trouble_with
from recovery.reconciliation.storage import comparison_statements as statements

BATCH = 10_000
SAGAS_AT_ONCE = 20_000
PAGE = 1_000
_LONGEST_RAW = 10_000
_LONGEST_WHY = 300

Side = Literal["internal", "gateway"]

_EVER = {
    "start": datetime.min.replace(tzinfo=UTC),
    "end": datetime.max.replace(tzinfo=UTC),
    "margin": timedelta(),
    "before": True,
    "after": True,
}


class Comparison:
    """Fill both sides, `pair` them once, then ask for what was found."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection
        self.bounds: dict[str, Any] = _EVER

    def fill(self, side: Side, rows: Iterable[Row]) -> None:
        """Take in rows of one side; what cannot be compared is kept as such."""
        left = iter(rows)
        while batch := list(islice(left, BATCH)):  # read first: no COPY waits for a network
            with (
                self.connection.cursor() as cursor,
                cursor.copy(cast("Any", statements.COPY.format(side=side))) as copy,
            ):
                for row in batch:
                    copy.write_row(_values(row))

    def project(self, day: BusinessDay, sagas: Sequence[str]) -> None:
        """Take our side from the saga log: who moved money that day, and whom the report names.

        Args:
            sagas: only of these definitions; empty means all.
        """
        values = {**_bounds(day), "sagas": list(sagas) or None}
        self._run("ANALYZE gateway")
        count = self._run(statements.CANDIDATES, values)
        self._project(0, count)
        self._run("ANALYZE internal")
        more = self._run(statements.NAMED, values)
        self._project(count, count + more)
        self._run(statements.PRUNED, values)
        self._run(statements.ADOPT, values)

    def pair(self, day: BusinessDay | None, *, before: bool = True, after: bool = True) -> None:
        """Put the two sides beside each other; without a day every row belongs to it.

        Args:
            before, after: whether the report's rows of the neighbouring days are there too.
        """
        if day is not None:
            self.bounds = {**_bounds(day), "before": before, "after": after}
        self._run("ANALYZE gateway")
        self._run("ANALYZE internal")
        self._run(statements.PAIR, self.bounds)

    def totals(self) -> tuple[int, int]:
        """Return how many movements match, and how many nobody can judge.

        That is what lies near midnight where a neighbouring day's report is not there, and what the
        gateway tells of sagas that were pruned.
        """
        row = self.connection.execute(cast("Any", statements.TOTALS)).fetchone()
        assert row is not None, "an aggregate has a row"
        return int(row[0]), int(row[1])

    def found(self) -> Iterator[Discrepancy]:
        """Yield every discrepancy, ordered by name, kind and type."""
        declare = (
            f"DECLARE found CURSOR WITH HOLD FOR SELECT * FROM ({statements.FOUND}) f "
            f"{statements.IN_ORDER}"
        )
        with psycopg.ClientCursor(self.connection) as cursor:
            cursor.execute(cast("Any", declare), self.bounds)
            while rows := cursor.execute(cast("Any", f"FETCH {PAGE} FROM found")).fetchall():
                for kind, *rest in rows:
                    yield Discrepancy(
                        type=DiscrepancyType(kind), **dict(zip(_FIELDS[1:], rest, strict=True))
                    )

    def _project(self, low: int, high: int) -> None:
        for after in range(low, high, SAGAS_AT_ONCE):
            upto = min(after + SAGAS_AT_ONCE, high)
            self._run(statements.PROJECT, {"after": after, "upto": upto})

    def _run(self, statement: str, values: dict[str, Any] | None = None) -> int:
        return self.connection.execute(cast("Any", statement), values).rowcount


_FIELDS = (
    "type",
    "kind",
    "name",
    "side",
    "internal_minor",
    "internal_currency",
    "internal_status",
    "gateway_minor",
    "gateway_currency",
    "gateway_status",
    "payment_reference",
    "order_reference",
    "key",
    "saga_id",
    "step",
    "why",
)
"""The columns of `FOUND`."""

assert set(_FIELDS) == {each.name for each in fields(Discrepancy)}


@contextmanager
def session(database: Database) -> Iterator[psycopg.Connection[Any]]:
    """Lend a session that ends with the block, and whatever it locked or made with it.

    Its locks are given back by name: the server hears of a closed connection a moment later only.

    Raises:
        LogUnavailableError: Postgres does not answer.
    """
    try:
        pooled = database.engine.raw_connection()
    except (psycopg.Error, sqlalchemy.exc.DBAPIError, sqlalchemy.exc.TimeoutError) as error:
        raise LogUnavailableError(f"no connection to Postgres: {error}") from error
    connection = cast("psycopg.Connection[Any]", pooled.driver_connection)
    pooled.detach()
    try:
        connection.autocommit = True
        yield connection
    except psycopg.OperationalError as error:
        raise LogUnavailableError(f"Postgres did not answer: {error}") from error
    finally:
        with suppress(psycopg.Error):
            connection.execute("SELECT pg_advisory_unlock_all()")
        connection.close()


def comparison(connection: psycopg.Connection[Any]) -> Comparison:
    """Begin a comparison on a session; there is one per session."""
    connection.execute(cast("Any", statements.TABLES))
    return Comparison(connection)


def _values(row: Row) -> tuple[Any, ...]:
    """The row as COPY takes it, with names masked as the saga log masks them."""
    if isinstance(row, InvalidRow):
        return (*(None,) * 9, _why(row))
    if (why := trouble_with(row)) is not None:
        return (*(None,) * 9, _why(InvalidRow(why=why, raw=as_told(row))))
    return (
        row.kind,
        redact(row.reference),
        row.amount_minor,
        row.currency,
        row.status,
        row.at.astimezone(UTC),  # Postgres takes no offset of 16 hours or more
        row.payment_reference and redact(row.payment_reference),
        row.order_reference and redact(row.order_reference),
        row.key and redact(row.key),
        None,
    )


def _why(row: InvalidRow) -> str:
    """Why it is invalid, and the row itself: redacted, then cut, on one line for a person."""
    said = redact(f"{row.why}: {row.raw}"[:_LONGEST_RAW] if row.raw else row.why)[:_LONGEST_WHY]
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in said)


def _bounds(day: BusinessDay) -> dict[str, Any]:
    return {"start": day.start, "end": day.end, "margin": day.margin}
