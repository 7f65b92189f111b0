"""Reads whole tables as an auditor does: every row as text, and the verdicts on one order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy
from sqlalchemy import select

from steps.storage.tables import verdict
from steps.verdict import Decision

_TABLES = """
SELECT quote_ident(table_schema) || '.' || quote_ident(table_name) FROM information_schema.tables
WHERE table_schema NOT IN ('pg_catalog', 'information_schema') AND table_type = 'BASE TABLE'
ORDER BY 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptVerdict:
    """What the screening said of an order, and under which rules."""

    decision: Decision
    reasons: tuple[str, ...]
    ruleset: str


def every_row(engine: sqlalchemy.Engine) -> Iterator[tuple[str, str]]:
    """Yield (table, row) for every row of every table of the database."""
    with engine.connect() as connection:
        for table in connection.exec_driver_sql(_TABLES).scalars().all():
            rows = connection.exec_driver_sql(f"SELECT t::text FROM {table} t")
            yield from ((table, row) for row in rows.scalars())


def verdicts(engine: sqlalchemy.Engine, order_id: str) -> list[KeptVerdict]:
    """Return every verdict on an order, in the order in which they were given."""
    wanted = (verdict.c.decision, verdict.c.reasons, verdict.c.ruleset)
    statement = select(*wanted).where(verdict.c.order_id == order_id).order_by(verdict.c.decided_at)
    with engine.connect() as connection:
        return [
            KeptVerdict(
                decision=Decision(row.decision), reasons=tuple(row.reasons), ruleset=row.ruleset
            )
            for row in connection.execute(statement)
        ]
