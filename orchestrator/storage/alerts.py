"""Alerts: reasons to tell a person, kept until that person answered or the reason is gone.

An alert is about something, and raised once for it (unique about, kind):

    saga_parked, unknown_too_long   `about` is the saga's id and the seq of the entry that began it,
                                    so parking again later is another alert.
    saga_overdue, sweeper_silent    `about` is `sagas` and `sweepers` for as long as it lasts. When
                                    it is over the row is renamed, so the next time is another one.

Acknowledging closes the row and leaves `about` as it is: the same thing is not raised again.
Everything is safe to do from many processes at once. What is due is taken under SKIP LOCKED and its
next moment written in the same statement, so a process that dies while it sends loses nothing:
another one sends again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from orchestrator.entries import Json
from orchestrator.storage.database import Database, Row
from orchestrator.unsettled import Unsettled

FIRST_PAUSE_SECONDS = 60.0
"""An alert is sent again after this long, then after twice as long each time."""

LONGEST_PAUSE_SECONDS = 21_600.0

MOVED_ON = "moved on"
"""Who closed an alert whose reason is gone."""

RAISED_AT_ONCE = 500

_COLUMNS = (
    "id, kind, about, saga_id, data, raised_at, due_at, send_count, sent_at, last_error, "
    "closed_at, closed_by"
)
_OF_A = ", ".join(f"a.{each}" for each in _COLUMNS.split(", "))

_INSERT = "INSERT INTO amends.alert (id, kind, about, saga_id, data, due_at)"
_ONCE = f"ON CONFLICT (about, kind) DO NOTHING RETURNING {_COLUMNS}"
_SAGA = "'saga', s.definition, 'key', s.key, 'state', s.state"

_PARKED_AT = """
    SELECT l.seq, l.data FROM amends.saga_log l
    WHERE l.saga_id = s.id AND l.kind = 'SagaParked' ORDER BY l.seq DESC LIMIT 1
"""

_IS_PARKED = "(s.state = 'failed_compensation' OR s.state = 'stuck')"
"""Spelled as in the partial index `saga_parked`: most of the time it holds nothing."""

# In order, so that two processes that raise the same at once wait for each other in one direction.
RAISE_PARKED = f"""
{_INSERT}
SELECT gen_random_uuid(), 'saga_parked', s.id || ':' || p.seq, s.id,
    jsonb_build_object({_SAGA}, 'reason', p.data->'reason', 'question', p.data->'question',
        'steps', coalesce(p.data->'steps', '[]')),
    clock_timestamp()
FROM amends.saga s CROSS JOIN LATERAL ({_PARKED_AT}) p
WHERE {_IS_PARKED} AND NOT EXISTS (SELECT FROM amends.alert a
    WHERE a.about = s.id || ':' || p.seq AND a.kind = 'saga_parked')
ORDER BY s.id LIMIT {RAISED_AT_ONCE}
{_ONCE}
"""

RAISE_UNKNOWN = f"""
{_INSERT}
SELECT gen_random_uuid(), 'unknown_too_long', s.id || ':' || %(seq)s::int, s.id,
    jsonb_build_object({_SAGA}, 'step', %(step)s::text, 'direction', %(direction)s::text,
        'since', %(since)s::timestamptz),
    clock_timestamp()
FROM amends.saga s
WHERE s.id = %(saga_id)s AND %(since)s < clock_timestamp() - make_interval(secs => %(age)s)
{_ONCE}
"""

# Asked once: a clock that ticks while Postgres reads cannot be sought in an index.
_IS_OVERDUE = "s.due_at < (SELECT clock_timestamp()) - make_interval(secs => %(age)s)"

RAISE_OVERDUE = f"""
{_INSERT}
SELECT gen_random_uuid(), 'saga_overdue', 'sagas', s.id,
    jsonb_build_object({_SAGA}, 'due_at', s.due_at), clock_timestamp()
FROM amends.saga s WHERE {_IS_OVERDUE} ORDER BY s.due_at LIMIT 1
{_ONCE}
"""

_SWEEPER_SEEN = (
    "EXISTS (SELECT FROM amends.process p WHERE p.kind = 'sweeper' "
    "AND p.seen_at > clock_timestamp() - make_interval(secs => %(age)s))"
)

RAISE_SILENT = f"""
{_INSERT}
SELECT gen_random_uuid(), 'sweeper_silent', 'sweepers', NULL,
    jsonb_build_object('last_seen_at',
        (SELECT max(p.seen_at) FROM amends.process p WHERE p.kind = 'sweeper')),
    clock_timestamp()
WHERE NOT {_SWEEPER_SEEN}
{_ONCE}
"""

IS_SWEPT = f"SELECT {_SWEEPER_SEEN}"

_CLOSED = f"due_at = NULL, closed_at = clock_timestamp(), closed_by = '{MOVED_ON}'"

CLOSE_PARKED = f"""
WITH picked AS (
    SELECT a.id FROM amends.alert a
    WHERE a.due_at IS NOT NULL AND a.kind = 'saga_parked' AND NOT EXISTS (
        SELECT FROM amends.saga s CROSS JOIN LATERAL ({_PARKED_AT}) p
        WHERE s.id = a.saga_id AND {_IS_PARKED} AND a.about = s.id || ':' || p.seq)
    FOR UPDATE OF a SKIP LOCKED
)
UPDATE amends.alert a SET {_CLOSED} FROM picked WHERE a.id = picked.id RETURNING {_OF_A}
"""

CLOSE = f"""
UPDATE amends.alert SET {_CLOSED}
WHERE id = ANY(%(ids)s::uuid[]) AND due_at IS NOT NULL RETURNING {_COLUMNS}
"""

_OVER = f"""
UPDATE amends.alert SET about = about || ' until ' || clock_timestamp(), due_at = NULL,
    closed_at = coalesce(closed_at, clock_timestamp()),
    closed_by = coalesce(closed_by, '{MOVED_ON}')
"""

CLOSE_OVERDUE = f"""
{_OVER}
WHERE about = 'sagas' AND kind = 'saga_overdue'
    AND NOT EXISTS (SELECT FROM amends.saga s WHERE {_IS_OVERDUE})
RETURNING {_COLUMNS}
"""

CLOSE_SILENT = f"""
{_OVER}
WHERE about = 'sweepers' AND kind = 'sweeper_silent' AND {_SWEEPER_SEEN}
RETURNING {_COLUMNS}
"""

# Sagas that something is to settle: its next attempt, or a probe, is always written down.
MAY_BE_UNSETTLED = """
SELECT DISTINCT t.saga_id FROM amends.attempt t JOIN amends.saga s ON s.id = t.saga_id
WHERE (t.number > 1 OR t.direction = 'probe') AND t.saga_id > %(after)s
    AND s.state IN ('running', 'compensating')
    AND EXISTS (SELECT FROM amends.saga_log l
        WHERE l.saga_id = t.saga_id AND l.kind = 'StepUnknown'
            AND l.recorded_at < clock_timestamp() - make_interval(secs => %(age)s))
ORDER BY t.saga_id LIMIT %(limit)s
"""

OPEN = f"""
SELECT {_COLUMNS} FROM amends.alert
WHERE due_at IS NOT NULL AND kind = %(kind)s AND id > %(after)s ORDER BY id LIMIT %(limit)s
"""

TAKE = f"""
WITH picked AS (
    SELECT a.id FROM amends.alert a WHERE a.due_at <= clock_timestamp()
    ORDER BY a.due_at LIMIT 1
    FOR UPDATE SKIP LOCKED
)
UPDATE amends.alert a SET send_count = a.send_count + 1,
    due_at = clock_timestamp() + make_interval(secs =>
        least({FIRST_PAUSE_SECONDS} * 2.0 ^ least(a.send_count, 16), {LONGEST_PAUSE_SECONDS}))
FROM picked WHERE a.id = picked.id
RETURNING {_OF_A}
"""

NOTE = """
UPDATE amends.alert SET last_error = %(error)s,
    sent_at = CASE WHEN %(error)s::text IS NULL THEN clock_timestamp() ELSE sent_at END
WHERE id = %(id)s AND send_count = %(send_count)s
"""

ACKNOWLEDGE = f"""
UPDATE amends.alert SET due_at = NULL, closed_at = clock_timestamp(), closed_by = %(actor)s,
    data = data || jsonb_build_object('acknowledged', %(reason)s::text)
WHERE id = %(id)s AND due_at IS NOT NULL
RETURNING {_COLUMNS}
"""

FIND = f"""
SELECT {_COLUMNS} FROM amends.alert
WHERE due_at IS NOT NULL OR %(closed)s ORDER BY raised_at DESC, id LIMIT %(limit)s
"""

BY_PREFIX = f"SELECT {_COLUMNS} FROM amends.alert WHERE id BETWEEN %(low)s AND %(high)s LIMIT 2"


class AlertKind(StrEnum):
    """What an alert is raised for."""

    SAGA_PARKED = "saga_parked"
    UNKNOWN_TOO_LONG = "unknown_too_long"
    SAGA_OVERDUE = "saga_overdue"
    SWEEPER_SILENT = "sweeper_silent"


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

    def raise_parked(self) -> list[Alert]:
        """One for every parked saga that has none for its latest parking; at most 500 at once."""
        return self._write(RAISE_PARKED)

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
        return self._write(RAISE_UNKNOWN, values)

    def raise_overdue(self, age_seconds: float) -> list[Alert]:
        """One, naming the oldest, while any saga has been due for longer than that."""
        return self._write(RAISE_OVERDUE, {"age": age_seconds})

    def raise_silent(self, age_seconds: float) -> list[Alert]:
        """One while no sweeper was seen for that long."""
        return self._write(RAISE_SILENT, {"age": age_seconds})

    def is_swept(self, age_seconds: float) -> bool:
        """Whether a sweeper was seen within that time."""
        return bool(self._database.run(IS_SWEPT, {"age": age_seconds})[0][0])

    def may_be_unsettled(self, age_seconds: float, after: UUID, limit: int) -> list[UUID]:
        """Return sagas in which something may have been unsettled for so long, in order of id."""
        values = {"age": age_seconds, "after": after, "limit": limit}
        return [row[0] for row in self._database.run(MAY_BE_UNSETTLED, values)]

    # -- closing -----------------------------------------------------------------------------------

    def close_parked(self) -> list[Alert]:
        """Close those of sagas that are not parked any more, or again with another question."""
        return self._write(CLOSE_PARKED)

    def close_overdue(self, age_seconds: float) -> list[Alert]:
        """Let it be over when no saga has been due for so long."""
        return self._write(CLOSE_OVERDUE, {"age": age_seconds})

    def close_silent(self, age_seconds: float) -> list[Alert]:
        """Let it be over when a sweeper was seen within that time."""
        return self._write(CLOSE_SILENT, {"age": age_seconds})

    def close(self, ids: Sequence[UUID]) -> list[Alert]:
        """Close these because their reason is gone."""
        return self._write(CLOSE, {"ids": list(ids)}) if ids else []

    def acknowledge(self, alert_id: UUID, *, actor: str, reason: str) -> Alert | None:
        """Close one in somebody's name; None when it is closed already."""
        values = {"id": alert_id, "actor": actor, "reason": reason}
        closed = self._write(ACKNOWLEDGE, values)
        return closed[0] if closed else None

    # -- sending -----------------------------------------------------------------------------------

    def take(self) -> Alert | None:
        """Take the alert that has been due longest; it comes due again after its next pause."""
        taken = self._write(TAKE)
        return taken[0] if taken else None

    def note(self, taken: Alert, error: str | None) -> None:
        """Note how sending went, unless somebody has taken it again meanwhile."""
        values = {"id": taken.id, "send_count": taken.send_count, "error": error}
        self._database.run(NOTE, values, writes="alert.commit")

    # -- looking -----------------------------------------------------------------------------------

    def open(self, kind: AlertKind, after: UUID, limit: int) -> list[Alert]:
        """Return open alerts of one kind, in order of id."""
        values = {"kind": kind.value, "after": after, "limit": limit}
        return [_alert(row) for row in self._database.run(OPEN, values)]

    def find(self, *, closed_too: bool, limit: int) -> list[Alert]:
        """Return the latest alerts."""
        rows = self._database.run(FIND, {"closed": closed_too, "limit": limit})
        return [_alert(row) for row in rows]

    def by_prefix(self, prefix: str) -> list[Alert]:
        """Return up to two alerts whose id begins with `prefix` (hex digits, dashes allowed)."""
        digits = prefix.replace("-", "").lower()
        low, high = UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))
        return [_alert(row) for row in self._database.run(BY_PREFIX, {"low": low, "high": high})]

    def _write(self, statement: str, values: dict[str, Any] | None = None) -> list[Alert]:
        rows = self._database.run(statement, values or {}, writes="alert.commit")
        return [_alert(row) for row in rows]


def _alert(row: Row) -> Alert:
    values = dict(zip(Alert.__dataclass_fields__, row, strict=True))
    return Alert(**values | {"kind": AlertKind(values["kind"])})
