"""Sagas as people and services look at them: by id, by key, by attribute, by state.

Nothing here is on the road of an attempt. Lists are bounded and paged by position, so that looking
never hurts working.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from orchestrator.definition import SagaDefinition
from orchestrator.entries import Json
from orchestrator.state import PARKED, State
from orchestrator.storage.database import Database, Row

MAX_LIMIT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaSummary:
    """One saga, as a line of a list. `step`, `direction`, `attempt`: what it last did."""

    id: UUID
    definition: str
    version: int
    key: str
    state: State
    seq: int
    step: str | None
    direction: str | None
    attempt: int | None
    last_error: str | None
    attributes: Mapping[str, Json]
    due_at: datetime | None
    deadline_at: datetime | None
    created_at: datetime
    updated_at: datetime
    ended_at: datetime | None

    @property
    def is_terminal(self) -> bool:
        return self.due_at is None

    @property
    def is_parked(self) -> bool:
        return self.state in PARKED


SagaExecution = SagaSummary
"""The seed's name for what is seen of a saga's run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow:
    """A scheduled or running attempt, as `show` prints it."""

    step: str
    direction: str
    number: int
    queue: str
    due_at: datetime
    owner: str | None
    lease_until: datetime | None


_COLUMNS = (
    "id, definition, version, key, state, seq, step, direction, attempt, last_error, attributes, "
    "due_at, deadline_at, created_at, updated_at, ended_at"
)

GET = f"SELECT {_COLUMNS} FROM amends.saga WHERE id = %(id)s"

CHILD = f"""
SELECT {_COLUMNS} FROM amends.saga WHERE parent_id = %(parent_id)s AND parent_step = %(step)s
ORDER BY created_at DESC LIMIT 1
"""

FIND = f"""
SELECT {_COLUMNS} FROM amends.saga
WHERE (%(definition)s::text IS NULL OR definition = %(definition)s)
    AND (%(key)s::text IS NULL OR key = %(key)s)
    AND (%(states)s::text[] IS NULL OR state = ANY(%(states)s))
    AND (%(attributes)s::jsonb IS NULL OR attributes @> %(attributes)s::jsonb)
    AND (%(before)s::timestamptz IS NULL
        OR (created_at, id) < (%(before)s::timestamptz, %(before_id)s::uuid))
ORDER BY created_at DESC, id DESC
LIMIT %(limit)s
"""

BY_PREFIX = f"SELECT {_COLUMNS} FROM amends.saga WHERE id BETWEEN %(low)s AND %(high)s LIMIT 2"

COUNTS = """
SELECT definition, state, count(*) FROM amends.saga
WHERE %(definition)s::text IS NULL OR definition = %(definition)s
GROUP BY definition, state ORDER BY definition, state
"""

STATES = "SELECT id, state FROM amends.saga WHERE id = ANY(%(ids)s::uuid[])"

ATTEMPTS = """
SELECT step, direction, number, queue, due_at, owner, lease_until FROM amends.attempt
WHERE saga_id = %(id)s ORDER BY due_at
"""


CHANGED = """
SELECT s.definition, s.version, count(*) FROM amends.saga s
JOIN unnest(%(names)s::text[], %(versions)s::int[], %(hashes)s::text[]) AS d(name, version, hash)
    ON d.name = s.definition AND d.version = s.version
WHERE s.due_at IS NOT NULL AND s.definition_hash <> d.hash
GROUP BY s.definition, s.version ORDER BY s.definition, s.version
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedVersion:
    """A version whose steps are not what they were; `sagas` of the old shape are in flight."""

    definition: str
    version: int
    sagas: int


class Reads:
    """Read-only questions about sagas."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, saga_id: UUID) -> SagaSummary | None:
        """Return the saga, or None."""
        rows = self._database.run(GET, {"id": saga_id})
        return _summary(rows[0]) if rows else None

    def by_prefix(self, prefix: str) -> list[SagaSummary]:
        """Return up to two sagas whose id begins with `prefix` (hex digits, dashes allowed)."""
        digits = prefix.replace("-", "").lower()
        low, high = UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))
        return [_summary(row) for row in self._database.run(BY_PREFIX, {"low": low, "high": high})]

    def find(
        self,
        *,
        definition: str | None = None,
        key: str | None = None,
        states: Sequence[State] | None = None,
        attributes: Mapping[str, Json] | None = None,
        before: SagaSummary | None = None,
        limit: int = 100,
    ) -> list[SagaSummary]:
        """Return the newest sagas that match, at most `limit` (1 to 1,000).

        `before` continues below the last saga of the page before.
        """
        rows = self._database.run(
            FIND,
            {
                "definition": definition,
                "key": key,
                "states": None if states is None else [each.value for each in states],
                "attributes": None if attributes is None else json.dumps(dict(attributes)),
                "before": before and before.created_at,
                "before_id": before and before.id,
                "limit": max(1, min(limit, MAX_LIMIT)),
            },
        )
        return [_summary(row) for row in rows]

    def child_of(self, parent_id: UUID, step: str) -> SagaSummary | None:
        """Return the saga that this step of the parent started last, or None."""
        rows = self._database.run(CHILD, {"parent_id": parent_id, "step": step})
        return _summary(rows[0]) if rows else None

    def counts(self, definition: str | None = None) -> dict[str, dict[State, int]]:
        """Return how many sagas are in which state, by definition."""
        found: dict[str, dict[State, int]] = {}
        for name, state, count in self._database.run(COUNTS, {"definition": definition}):
            found.setdefault(name, {})[State(state)] = count
        return found

    def states(self, ids: Sequence[UUID]) -> dict[UUID, State]:
        """Return the states of those of `ids` that exist."""
        return {row[0]: State(row[1]) for row in self._database.run(STATES, {"ids": list(ids)})}

    def has_schema(self) -> bool:
        """Return whether the database was migrated at all."""
        return bool(self._database.run("SELECT to_regclass('amends.saga') IS NOT NULL", {})[0][0])

    def changed_versions(self, definitions: Iterable[SagaDefinition[Any]]) -> list[ChangedVersion]:
        """Return the versions that sagas in flight were started with in another shape."""
        known = list(definitions)
        rows = self._database.run(
            CHANGED,
            {
                "names": [each.name for each in known],
                "versions": [each.version for each in known],
                "hashes": [each.hash for each in known],
            },
        )
        return [ChangedVersion(definition=row[0], version=row[1], sagas=row[2]) for row in rows]

    def attempts(self, saga_id: UUID) -> list[AttemptRow]:
        """Return the saga's scheduled and running attempts, the earliest due first."""
        return [_attempt(row) for row in self._database.run(ATTEMPTS, {"id": saga_id})]


def _summary(row: Row) -> SagaSummary:
    names: tuple[Any, ...] = tuple(SagaSummary.__dataclass_fields__)
    values = dict(zip(names, row, strict=True))
    values["state"] = State(values["state"])
    return SagaSummary(**values)


def _attempt(row: Row) -> AttemptRow:
    return AttemptRow(**dict(zip(AttemptRow.__dataclass_fields__, row, strict=True)))
