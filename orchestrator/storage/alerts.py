"""Alerts: reasons to tell a person, kept until that person answered or the reason is gone.

An alert is about something, and raised once for it (unique about, kind):

    saga_parked, unknown_too_long   `about` is the saga's id and the seq of the entry that began it,
                                    so parking again later is another alert.
    saga_overdue, sweeper_silent    `about` is `sagas` and `sweepers` for as long as it lasts. When
                                    it is over the row is renamed, so the next time is another one.
    late_effect                     as the first; written by who logs the fact, in the same commit.
    discrepancy                     `about` is chosen by who raises it, and renamed in the same way.

Acknowledging closes the row and leaves `about` as it is: the same thing is not raised again.
Everything is safe to do from many processes at once. What is due is taken under SKIP LOCKED and its
next moment written in the same statement, so a process that dies while it sends loses nothing:
another one sends again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from orchestrator.entries import Json
from orchestrator.storage import alert_statements as statements
from orchestrator.storage.alert_statements import LONG_AGO_SECONDS
from orchestrator.storage.database import Database, Row
from orchestrator.unsettled import Unsettled


class AlertKind(StrEnum):
    """What an alert is raised for."""

    SAGA_PARKED = "saga_parked"
    UNKNOWN_TOO_LONG = "unknown_too_long"
    SAGA_OVERDUE = "saga_overdue"
    SWEEPER_SILENT = "sweeper_silent"
    QUEUE_UNSERVED = "queue_unserved"
    DISCREPANCY = "discrepancy"
    LATE_EFFECT = "late_effect"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One alert. `due_at`: when it is to be sent (again); None once it is closed.

    Args:
        data: what was known when it was raised, without anything of the saga's payload.
        send_count: how often it was taken for sending.
        sent_at: when it last left the system; `last_error` is of the latest try only.
        closed_by: who acknowledged it, or `MOVED_ON`.
    """

    id: UUID
    kind: AlertKind
    about: str
    saga_id: UUID | None
    data: dict[str, Json]
    raised_at: datetime
    due_at: datetime | None
    send_count: int
    sent_at: datetime | None
    last_error: str | None
    closed_at: datetime | None
    closed_by: str | None


class Alerts:
    """Raises, closes, hands out and lists alerts. Each returns those that it changed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- raising -----------------------------------------------------------------------------------

    def raise_parked(self, changed_seconds: float = LONG_AGO_SECONDS) -> list[Alert]:
        """One for every parked saga that has none for its latest parking; at most 1,000 at once.

        Only sagas that changed within that time are looked at.
        """
        return self._write(statements.RAISE_PARKED, {"changed": changed_seconds})

    def raise_unknown(self, saga_id: UUID, found: Unsettled, age_seconds: float) -> list[Alert]:
        """One for a step that has been unsettled for that long."""
        values = {
            "saga_id": saga_id,
            "seq": found.seq,
            "step": found.step,
            "direction": found.direction.value,
            "since": found.since,
            "age": age_seconds,
        }
        return self._write(statements.RAISE_UNKNOWN, values)

    def raise_overdue(self, age_seconds: float) -> list[Alert]:
        """One, naming the oldest, while any saga has been due for longer than that."""
        return self._write(statements.RAISE_OVERDUE, {"age": age_seconds})

    def raise_silent(self, age_seconds: float) -> list[Alert]:
        """One while no sweeper was seen for that long."""
        return self._write(statements.RAISE_SILENT, {"age": age_seconds})

    def raise_unserved(self, queue: str, data: Mapping[str, Json]) -> list[Alert]:
        """One for a queue whose due attempts nobody takes.

        Args:
            data: count, age, money, who serves it, and what to do next.
        """
        values = {"about": f"queue:{queue}", "data": json.dumps(data)}
        return self._write(statements.RAISE_UNSERVED, values)

    def has_unserved(self, queue: str) -> bool:
        """Whether there is one for this queue, acknowledged or not."""
        return bool(self._database.run(statements.HAS_UNSERVED, {"about": f"queue:{queue}"}))

    def raise_discrepancy(
        self, about: str, saga_id: UUID | None, data: Mapping[str, Json]
    ) -> list[Alert]:
        """One for a movement of money in which our books and others' differ.

        Args:
            data: reason, question, and the command to type next.
        """
        values = {"about": about, "saga_id": saga_id, "data": json.dumps(data)}
        return self._write(statements.RAISE_DISCREPANCY, values)

    def is_swept(self, age_seconds: float) -> bool:
        """Whether a sweeper was seen within that time."""
        return bool(self._database.run(statements.IS_SWEPT, {"age": age_seconds})[0][0])

    def may_be_unsettled(
        self, age_seconds: float, after: UUID, limit: int
    ) -> list[tuple[UUID, bool]]:
        """Return the next sagas that try something again, in order of id.

        True: something in it was unknown that long ago, and may be still.
        """
        values = {"age": age_seconds, "after": after, "limit": limit}
        return [(row[0], row[1]) for row in self._database.run(statements.MAY_BE_UNSETTLED, values)]

    # -- closing -----------------------------------------------------------------------------------

    def close_parked(self, changed_seconds: float = LONG_AGO_SECONDS) -> list[Alert]:
        """Close those of sagas that are not parked any more, or parked again since.

        The log is asked only of sagas that changed within that time.
        """
        return self._write(statements.CLOSE_PARKED, {"changed": changed_seconds})

    def close_overdue(self, age_seconds: float) -> list[Alert]:
        """Let it be over when no saga has been due for so long."""
        return self._write(statements.CLOSE_OVERDUE, {"age": age_seconds})

    def close_silent(self, age_seconds: float) -> list[Alert]:
        """Let it be over when a sweeper was seen within that time."""
        return self._write(statements.CLOSE_SILENT, {"age": age_seconds})

    def close_unserved(self, but_for: Sequence[str]) -> list[Alert]:
        """Let those be over whose queues are not among these."""
        values = {"abouts": [f"queue:{each}" for each in but_for]}
        return self._write(statements.CLOSE_UNSERVED, values)

    def close_discrepancies(self, abouts: Sequence[str]) -> list[Alert]:
        """Let these be over."""
        return self._write(statements.CLOSE_DISCREPANCIES, {"abouts": list(abouts)})

    def close(self, ids: Sequence[UUID]) -> list[Alert]:
        """Close these because their reason is gone."""
        return self._write(statements.CLOSE, {"ids": list(ids)}) if ids else []

    def acknowledge(self, alert_id: UUID, *, actor: str, reason: str) -> Alert | None:
        """Close one in somebody's name; None when it is closed already."""
        values = {"id": alert_id, "actor": actor, "reason": reason}
        closed = self._write(statements.ACKNOWLEDGE, values)
        return closed[0] if closed else None

    def late_effects(self, hashes: Sequence[str]) -> list[tuple[UUID, UUID]]:
        """Return alert and saga of late effects that wait for who has one of these definitions.

        Of a saga that an operator resolved nobody decides any more.
        """
        rows = self._database.run(statements.LATE_EFFECTS, {"hashes": list(hashes)})
        return [(row[0], row[1]) for row in rows]

    # -- sending -----------------------------------------------------------------------------------

    def take(self) -> Alert | None:
        """Take the alert that has been due longest; it comes due again after its next pause.

        One of a kind that only a newer version knows is left to that.
        """
        taken = self._write(statements.TAKE, {"kinds": [each.value for each in AlertKind]})
        return taken[0] if taken else None

    def note(self, taken: Alert, error: str | None) -> None:
        """Note how sending went, unless somebody has taken it again meanwhile."""
        values = {"id": taken.id, "send_count": taken.send_count, "error": error}
        self._database.run(statements.NOTE, values, writes="alert.commit")

    # -- looking -----------------------------------------------------------------------------------

    def open(self, kind: AlertKind, after: UUID, limit: int) -> list[Alert]:
        """Return open alerts of one kind, in order of id."""
        values = {"kind": kind.value, "after": after, "limit": limit}
        return [_alert(row) for row in self._database.run(statements.OPEN, values)]

    def find(self, *, closed_too: bool, limit: int) -> list[Alert]:
        """Return the latest alerts."""
        rows = self._database.run(statements.FIND, {"closed": closed_too, "limit": limit})
        return [_alert(row) for row in rows]

    def by_prefix(self, prefix: str) -> list[Alert]:
        """Return up to two alerts whose id begins with `prefix` (hex digits, dashes allowed)."""
        digits = prefix.replace("-", "").lower()
        low, high = UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))
        return [
            _alert(row)
            for row in self._database.run(statements.BY_PREFIX, {"low": low, "high": high})
        ]

    def _write(self, statement: str, values: dict[str, Any]) -> list[Alert]:
        rows = self._database.run(statement, values, writes="alert.commit")
        return [_alert(row) for row in rows]


def _alert(row: Row) -> Alert:
    values = dict(zip(Alert.__dataclass_fields__, row, strict=True))
    return Alert(**values | {"kind": AlertKind(values["kind"])})
