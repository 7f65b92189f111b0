"""What was found of a day, as rows with a life, and the runs that found it.

    open ──acted upon──▶ acted          counts as open; found again, it is acted upon once more
      │                    │
      ├────────────────────┴─▶ gone     a later run does not find it any more; found again: open
      └─▶ resolved, accepted            a person has said so; found again with other values: open

A row is named by (gateway, day, type, kind, name), so running twice gives the same rows. `version`
counts the changes of state, and whoever closes a row names the one that was seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime
from enum import StrEnum
from typing import Any, cast
from uuid import UUID

import psycopg

from orchestrator.seam import durable
from orchestrator.storage.database import Database, Row
from recovery.reconciliation.discrepancies import Discrepancy, DiscrepancyType
from recovery.reconciliation.storage import finding_statements as statements
from recovery.reconciliation.storage.comparison import Comparison


class FindingState(StrEnum):
    """Where a discrepancy stands. The first two are open."""

    OPEN = "open"
    ACTED = "acted"
    RESOLVED = "resolved"
    ACCEPTED = "accepted"
    GONE = "gone"

    @property
    def is_open(self) -> bool:
        return self in {FindingState.OPEN, FindingState.ACTED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A discrepancy as a row.

    Args:
        action: what was done about it last.
        history: every time that a person closed it: state, actor, reason, at.
    """

    id: UUID
    gateway: str
    day: date
    state: FindingState
    version: int
    found_at: datetime
    acted_at: datetime | None
    act_count: int
    action: str | None
    last_error: str | None
    closed_at: datetime | None
    closed_by: str | None
    reason: str | None
    history: Sequence[Mapping[str, Any]]
    discrepancy: Discrepancy

    @property
    def is_another_now(self) -> bool:
        """It was acted upon, and has come to differ in another way since."""
        return self.acted_at is not None and not self.act_count and self.last_error is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The latest comparison of a gateway's day."""

    gateway: str
    day: date
    run_count: int
    matched_count: int
    unjudged_count: int
    ended_at: datetime


class Findings:
    """Keeps, hands out and closes what was found."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def now(self) -> datetime:
        """Return the database's time."""
        moment: datetime = self._database.run(statements.NOW, {})[0][0]
        return moment

    def keep(self, compared: Comparison, gateway: str, day: date) -> Run:
        """Keep all that a comparison found, close what it found no more, and end the run.

        One transaction: a run is there wholly or not at all.
        """

        def write() -> None:
            with compared.connection.transaction():
                values = _names(gateway, day) | compared.bounds
                values["run"] = _one(compared.connection, statements.NEXT_RUN, values)[0]
                values["matched"], values["unjudged"] = compared.totals()
                for statement in (statements.KEEP, statements.LEAVE, statements.END):
                    compared.connection.execute(cast("Any", statement), values)

        durable("reconciliation.commit", write)
        run = self.run_of(gateway, day)
        assert run is not None, "it was just written"
        return run

    def run_of(self, gateway: str, day: date) -> Run | None:
        """Return the latest run of that day, or None."""
        rows = self._database.run(statements.RUN, _names(gateway, day))
        return Run(**dict(zip(Run.__dataclass_fields__, rows[0], strict=True))) if rows else None

    def missed(self, gateway: str, before: date, days: int) -> date | None:
        """Return the latest of so many days before one that no run was of, since the first was."""
        values = {"gateway": gateway, "before": before, "days": days}
        rows = self._database.run(statements.MISSED, values)
        return rows[0][0] if rows else None

    def waiting(self, gateway: str, latest: date, days: int) -> list[date]:
        """Return the days up to `latest` on which something waits for an action, oldest first."""
        values = {"gateway": gateway, "latest": latest, "days": days}
        return [row[0] for row in self._database.run(statements.WAITING, values)]

    def to_act_on(
        self, gateway: str, day: date, after: Finding | None, limit: int
    ) -> list[Finding]:
        """Return the next rows that wait for an action, ordered by name, kind and type."""
        last = ("", "", "") if after is None else _place(after)
        values = _names(gateway, day) | dict(zip(("name", "kind", "type"), last, strict=True))
        return [
            _finding(row)
            for row in self._database.run(statements.TO_ACT, values | {"limit": limit})
        ]

    def acted(self, finding: Finding, action: str, saga_id: UUID | None) -> None:
        """Note what was done; unless a person has closed it meanwhile."""
        values = {"id": finding.id, "version": finding.version}
        values |= {"action": action, "saga_id": saga_id}
        self._database.run(statements.ACTED, values, writes="reconciliation.commit")

    def failed(self, finding: Finding, error: str) -> None:
        """Note why it could not be acted upon; it stays open, and the next run tries again."""
        values = {"id": finding.id, "version": finding.version, "error": error}
        self._database.run(statements.FAILED, values, writes="reconciliation.commit")

    def close(
        self, finding: Finding, state: FindingState, *, actor: str, reason: str
    ) -> Finding | None:
        """Close one in a person's name; None when it is not what was seen any more."""
        values = {"id": finding.id, "version": finding.version, "state": state.value}
        values |= {"actor": actor, "reason": reason}
        rows = self._database.run(statements.CLOSE, values, writes="reconciliation.commit")
        return _finding(rows[0]) if rows else None

    def find(
        self,
        *,
        gateway: str | None = None,
        day: date | None = None,
        closed_too: bool = False,
        limit: int = 100,
    ) -> list[Finding]:
        """Return rows, the newest day first, then by name, kind and type."""
        values = {"gateway": gateway, "day": day, "closed_too": closed_too, "limit": limit}
        return [_finding(row) for row in self._database.run(statements.FIND, values)]

    def by_prefix(self, prefix: str) -> list[Finding]:
        """Return up to two rows whose id begins with `prefix` (hex digits, dashes allowed)."""
        digits = prefix.replace("-", "").lower()
        low, high = UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))
        return [
            _finding(row)
            for row in self._database.run(statements.BY_PREFIX, {"low": low, "high": high})
        ]

    def counts(self, gateway: str, day: date, *, open_only: bool = False) -> dict[str, int]:
        """Return how many of each type the latest run found, or of those how many are open."""
        values = _names(gateway, day) | {"open_only": open_only}
        return dict(self._database.run(statements.COUNTS, values))

    def closed_ids(self, gateway: str, day: date) -> list[UUID]:
        """Return those that a person may have been told of and that are closed now."""
        return [row[0] for row in self._database.run(statements.CLOSED_IDS, _names(gateway, day))]


def lock(connection: psycopg.Connection[Any], gateway: str, day: date) -> bool:
    """Take that day for as long as the session lives; False when somebody else has it."""
    return bool(_one(connection, statements.LOCK, {"of": f"{gateway} {day}"})[0])


def _one(connection: psycopg.Connection[Any], statement: str, values: dict[str, Any]) -> Row:
    row = connection.execute(cast("Any", statement), values).fetchone()
    assert row is not None, "the statement always has a row"
    return cast("Row", row)


def _names(gateway: str, day: date) -> dict[str, Any]:
    return {"gateway": gateway, "day": day}


def _place(finding: Finding) -> Sequence[str]:
    found = finding.discrepancy
    return found.name, found.kind, found.type.value


_LIFE_FIELDS = tuple(each.name for each in fields(Finding) if each.name != "discrepancy")


def _finding(row: Row) -> Finding:
    life = dict(zip(_LIFE_FIELDS, row, strict=False))
    found = dict(zip(statements.FOUND_COLUMNS.split(", "), row[len(_LIFE_FIELDS) :], strict=True))
    return Finding(
        **life | {"state": FindingState(life["state"])},
        discrepancy=Discrepancy(**found | {"type": DiscrepancyType(found["type"])}),
    )
