"""Makes yesterday of today, for what looks at days that are over: sagas, and the sandbox's ledger.

Both are append-only, so it is done behind their backs; all keeps its order and its distances.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from sqlalchemy import Engine

YESTERDAY: date = (datetime.now(UTC) - timedelta(days=1)).date()
NOON = datetime(YESTERDAY.year, YESTERDAY.month, YESTERDAY.day, 12, tzinfo=UTC)

MOVE_SAGAS = """
ALTER TABLE amends.saga_log DISABLE TRIGGER saga_log_rows_stay;
UPDATE amends.saga_log SET recorded_at = recorded_at - (
    (SELECT min(recorded_at) FROM amends.saga_log) - '{first}'::timestamptz);
ALTER TABLE amends.saga_log ENABLE ALWAYS TRIGGER saga_log_rows_stay;
UPDATE amends.saga s SET created_at = l.first, updated_at = l.last,
    ended_at = CASE WHEN ended_at IS NULL THEN NULL ELSE l.last END
FROM (SELECT saga_id, min(recorded_at) AS first, max(recorded_at) AS last
    FROM amends.saga_log GROUP BY saga_id) l WHERE l.saga_id = s.id;
"""


def move_sagas(engine: Engine, first: datetime = NOON) -> None:
    """Let all sagas have begun at that moment."""
    with engine.begin() as connection:
        connection.exec_driver_sql(MOVE_SAGAS.format(first=first.isoformat()))


def move_ledger(ledger: Path, first: datetime = NOON) -> None:
    """Let the ledger's first movement have been at that moment."""
    change(
        ledger,
        "UPDATE movement SET at = at - ((SELECT min(at) FROM movement) - ?)",
        first.timestamp(),
    )


def change(ledger: Path, statement: str, *values: object) -> None:
    """Change the ledger behind the sandbox's back."""
    with closing(sqlite3.connect(ledger, timeout=20)) as connection:
        [(trigger,)] = connection.execute(
            "SELECT sql FROM sqlite_master WHERE name = 'movement_no_update'"
        ).fetchall()
        connection.execute("DROP TRIGGER movement_no_update")
        connection.execute(statement, values)
        connection.execute(trigger)
        connection.commit()
