"""Which sagas wait for a person, keep failing or are overdue; which a verb for many is meant for.

Each question reads a bounded part of what is in flight, oldest first, through an index: looking
never hurts working, not even when everything is parked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from orchestrator.entries import Json
from orchestrator.state import PARKED, State
from orchestrator.storage.database import Database, Row
from orchestrator.storage.unclaimed import NEXT_LOOK_SECONDS

CONSIDERED = 1000
"""So many of each kind are looked at, the oldest; more than a list shows, so that it can order."""

_NOW = "(SELECT clock_timestamp())"
"""Asked once: a clock that ticks while Postgres reads cannot be sought in an index."""

_IS_PARKED = "(s.state = 'failed_compensation' OR s.state = 'stuck')"
"""Spelled as in the partial index `saga_parked`."""

_PARKED_AT = """
    SELECT l.recorded_at, l.data->>'reason' AS reason, coalesce(l.data->'steps', '[]') AS steps
    FROM amends.saga_log l
    WHERE l.saga_id = s.id AND l.kind = 'SagaParked' ORDER BY l.seq DESC LIMIT 1
"""

_OF_DEFINITION = "(%(definition)s::text IS NULL OR s.definition = %(definition)s)"

PARKED_SAGAS = f"""
SELECT s.id, p.reason, p.recorded_at
FROM (SELECT s.id FROM amends.saga s WHERE {_IS_PARKED} AND {_OF_DEFINITION}
    ORDER BY s.created_at LIMIT {CONSIDERED}) s
CROSS JOIN LATERAL ({_PARKED_AT}) p
ORDER BY p.reason IN ('unknown', 'poison') DESC, p.recorded_at LIMIT %(limit)s
"""

# What merely waited for its signal has failed at nothing.
FAILING = f"""
SELECT t.saga_id, 'retrying', f.since
FROM (SELECT t.saga_id, t.step, t.direction FROM amends.attempt t
    JOIN amends.saga s ON s.id = t.saga_id
    WHERE t.number > 1 AND {_OF_DEFINITION} ORDER BY t.saga_id LIMIT {CONSIDERED}) t
CROSS JOIN LATERAL (SELECT min(l.recorded_at) AS since FROM amends.saga_log l
    WHERE l.saga_id = t.saga_id AND l.kind IN ('StepFailed', 'StepUnknown')
        AND l.data->>'step' = t.step AND l.data->>'direction' = t.direction) f
WHERE f.since < {_NOW} - make_interval(secs => %(age)s)
ORDER BY f.since LIMIT %(limit)s
"""

OVERDUE = f"""
SELECT s.id, 'overdue', s.due_at FROM amends.saga s
WHERE s.due_at < {_NOW} - make_interval(secs => %(age)s) AND {_OF_DEFINITION}
ORDER BY s.due_at LIMIT %(limit)s
"""

# One for each queue is enough to go by; `amends doctor` counts them.
UNCLAIMED = f"""
SELECT saga_id, 'unclaimed', due_at FROM (
    SELECT DISTINCT ON (t.queue) t.saga_id, coalesce(t.put_off_at, t.due_at) AS due_at
    FROM amends.attempt t JOIN amends.saga s ON s.id = t.saga_id
    WHERE coalesce(t.lease_until, t.ring_at)
            <= {_NOW} + make_interval(secs => {NEXT_LOOK_SECONDS})
        AND t.token IS NULL
        AND coalesce(t.put_off_at, t.due_at) <= {_NOW} - make_interval(secs => %(age)s)
        AND {_OF_DEFINITION}
    ORDER BY t.queue, coalesce(t.put_off_at, t.due_at)) oldest
ORDER BY due_at LIMIT %(limit)s
"""

_MATCHING = f"""
FROM amends.saga s LEFT JOIN LATERAL ({_PARKED_AT}) p ON {_IS_PARKED}
WHERE s.due_at IS NOT NULL AND s.state = ANY(%(states)s::text[]) AND {_OF_DEFINITION}
    AND (%(version)s::int IS NULL OR s.version = %(version)s)
    AND (%(attributes)s::jsonb IS NULL OR s.attributes @> %(attributes)s::jsonb)
    AND (%(reason)s::text IS NULL OR p.reason = %(reason)s)
    AND (p.steps IS NULL OR %(step)s::text IS NULL OR p.steps ? %(step)s)
    AND ({_IS_PARKED} OR EXISTS (SELECT FROM amends.attempt t
        WHERE t.saga_id = s.id AND t.token IS NULL AND t.due_at > clock_timestamp()
            AND (%(step)s::text IS NULL OR t.step = %(step)s)))
"""

MATCHING = f"SELECT s.id, s.seq {_MATCHING} ORDER BY s.created_at, s.id LIMIT %(limit)s"
HOW_MANY = f"SELECT count(*) {_MATCHING}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Concern:
    """A saga that somebody should look at: why (a parked saga's reason, or as below)."""

    saga_id: UUID
    why: str
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which sagas a verb for many is meant for: parked ones, or those that wait out a pause.

    Args:
        reason: why it is parked.
        step: a step that is asked about or, of one that is not parked, that is tried again.
    """

    definition: str | None = None
    version: int | None = None
    states: Sequence[State] = tuple(PARKED)
    reason: str | None = None
    step: str | None = None
    attributes: Mapping[str, Json] | None = None


class Attention:
    """Read-only questions about what needs a person."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def parked(self, definition: str | None, limit: int) -> list[Concern]:
        """Return parked sagas: first those of an unknown outcome, then the rest, oldest first."""
        return self._concerns(PARKED_SAGAS, definition, limit, 0.0)

    def failing(self, definition: str | None, limit: int, age_seconds: float) -> list[Concern]:
        """Return sagas of which a step has been tried again for that long, the longest first."""
        return self._concerns(FAILING, definition, limit, age_seconds)

    def overdue(self, definition: str | None, limit: int, age_seconds: float) -> list[Concern]:
        """Return sagas that have been due for that long, the longest first."""
        return self._concerns(OVERDUE, definition, limit, age_seconds)

    def unclaimed(self, definition: str | None, limit: int, age_seconds: float) -> list[Concern]:
        """Return, per queue, the saga whose due attempt nobody has taken for longest."""
        return self._concerns(UNCLAIMED, definition, limit, age_seconds)

    def matching(self, wanted: Filter, limit: int) -> list[tuple[UUID, int]]:
        """Return id and seq of the sagas that are wanted, oldest first."""
        rows = self._database.run(MATCHING, {**_values(wanted), "limit": limit})
        return [(row[0], row[1]) for row in rows]

    def how_many(self, wanted: Filter) -> int:
        """Return how many sagas are wanted."""
        return int(self._database.run(HOW_MANY, _values(wanted))[0][0])

    def _concerns(
        self, statement: str, definition: str | None, limit: int, age: float
    ) -> list[Concern]:
        values = {"definition": definition, "limit": limit, "age": age}
        return [_concern(row) for row in self._database.run(statement, values)]


def _concern(row: Row) -> Concern:
    return Concern(saga_id=row[0], why=row[1], since=row[2])


def _values(wanted: Filter) -> dict[str, Any]:
    attributes = None if wanted.attributes is None else json.dumps(dict(wanted.attributes))
    return {
        "definition": wanted.definition,
        "version": wanted.version,
        "states": [each.value for each in wanted.states],
        "reason": wanted.reason,
        "step": wanted.step,
        "attributes": attributes,
    }
