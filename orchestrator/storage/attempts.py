"""What recovery asks the database: which attempts and sagas are due and nobody is moving.

Every question is safe to ask from many processes at once. Rows are picked with SKIP LOCKED and
their next moment is written in the same statement, so two sweepers share the work instead of
doubling it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from orchestrator.doorbell import Ring
from orchestrator.entries import log_format
from orchestrator.state import State
from orchestrator.storage.database import Database, Row
from orchestrator.storage.rows import RING_PATIENCE_SECONDS, AttemptId, OpenAttempt

BLIND_PATIENCE_SECONDS = 30.0
"""How long a ring is trusted while the depth of its queue cannot be read; no ring is for longer."""

LOOK_BATCH = 100
"""So many due sagas are taken at once. Written into the statement: a limit that Postgres does not
know it guesses as a tenth of the table, and then it plans anew each time."""

LOOKING_SECONDS = 10.0
"""How long one sweeper has a due saga to itself."""

FOREIGN_LOOK_SECONDS = 30.0
"""A saga of a definition this process has not comes due again after this long, then twice that."""

MAX_FOREIGN_LOOK_SECONDS = 3600.0

SEEN_SECONDS = 60.0
"""A process seen so recently looks after the sagas of its definitions itself."""

_NOW = "(SELECT clock_timestamp())"
"""Asked once per statement. A clock that ticks while Postgres reads cannot be sought in an index:
it would read all that merely waits, at every sweep."""

_IS_KNOWN = "s.definition_hash = ANY(%(hashes)s::text[]) AND s.log_format <= %(log_format)s"
"""Whether this process has the saga's definition and can read its log."""

EXPIRED = f"""
WITH over AS MATERIALIZED (
SELECT t.saga_id, t.step, t.direction, t.number, t.queue, t.token, t.owner,
    t.lease_until >= t.timeout_at AS ran_out, t.lease_until
FROM amends.attempt t JOIN amends.saga s ON s.id = t.saga_id
WHERE coalesce(t.lease_until, t.ring_at) <= {_NOW} AND t.token IS NOT NULL
    AND {_IS_KNOWN}
    AND (%(since)s::timestamptz IS NULL
        OR (coalesce(t.lease_until, t.ring_at), t.saga_id, t.step, t.direction, t.number)
            > (%(since)s, %(saga_id)s, %(step)s, %(direction)s, %(number)s::int))
ORDER BY coalesce(t.lease_until, t.ring_at), t.saga_id, t.step, t.direction, t.number
LIMIT %(limit)s
), free AS MATERIALIZED (
    SELECT s.id FROM amends.saga s WHERE s.id IN (SELECT saga_id FROM over)
    FOR UPDATE SKIP LOCKED
)
SELECT over.*, over.saga_id IN (SELECT id FROM free) FROM over
ORDER BY lease_until, saga_id, step, direction, number
"""
# A saga whose row somebody holds is looked at again soon, instead of waiting here: a stopped
# process may hold it for long.

OWNED = """
SELECT t.saga_id, t.step, t.direction, t.number, t.queue, t.token, t.owner, false,
    t.lease_until
FROM amends.attempt t WHERE t.owner = ANY(%(owners)s::text[]) AND t.token IS NOT NULL
"""

_RINGS = """
    RETURNING t.saga_id, t.step, t.direction, t.number, t.queue, picked.definition
"""

RING_FIRST = f"""
WITH picked AS (
    SELECT t.saga_id, t.step, t.direction, t.number, s.definition
    FROM amends.attempt t JOIN amends.saga s ON s.id = t.saga_id
    WHERE coalesce(t.lease_until, t.ring_at) <= {_NOW} AND t.token IS NULL
        AND t.rung_count = 0 AND {_IS_KNOWN}
    ORDER BY coalesce(t.lease_until, t.ring_at) LIMIT %(limit)s
    FOR UPDATE OF t SKIP LOCKED
)
UPDATE amends.attempt t SET rung_count = 1,
    ring_at = clock_timestamp() + make_interval(secs => {RING_PATIENCE_SECONDS})
FROM picked WHERE (t.saga_id, t.step, t.direction, t.number)
    = (picked.saga_id, picked.step, picked.direction, picked.number)
{_RINGS}
"""

# A queue's messages are counted whoever they are for, and so is what they are to be held against:
# those of another deployment's sagas must not pass for ours.
RUNG = f"""
SELECT t.queue, count(*),
    count(*) FILTER (WHERE t.ring_at <= clock_timestamp()
        AND {_IS_KNOWN})
FROM amends.attempt t JOIN amends.saga s ON s.id = t.saga_id
WHERE t.token IS NULL AND t.rung_count > 0
GROUP BY t.queue
"""

ANY_OVERDUE = f"""
SELECT t.saga_id FROM amends.attempt t
WHERE coalesce(t.lease_until, t.ring_at) <= {_NOW} AND t.token IS NULL AND t.rung_count > 0
ORDER BY coalesce(t.lease_until, t.ring_at) LIMIT 1
"""

LATE_QUEUES = f"""
SELECT DISTINCT late.queue FROM (
    SELECT t.queue FROM amends.attempt t JOIN amends.saga s ON s.id = t.saga_id
    WHERE coalesce(t.lease_until, t.ring_at)
            <= {_NOW} + make_interval(secs => {BLIND_PATIENCE_SECONDS})
        AND t.token IS NULL AND t.rung_count > 0
        AND t.due_at <= {_NOW} - make_interval(secs => %(age)s)
        AND t.queue = ANY(%(queues)s::text[]) AND s.definition_hash = ANY(%(hashes)s::text[])
    LIMIT 1000) late
"""

MOST_FETCHED = 500
"""More messages than any worker fetches ahead of its slots."""

DOUBT = f"""
WITH picked AS (
    SELECT t.saga_id, t.step, t.direction, t.number FROM amends.attempt t
    WHERE coalesce(t.lease_until, t.ring_at) > {_NOW} AND t.token IS NULL
        AND t.rung_count > 0 AND t.queue = ANY(%(queues)s::text[])
    ORDER BY coalesce(t.lease_until, t.ring_at) LIMIT {MOST_FETCHED}
    FOR UPDATE OF t SKIP LOCKED
)
UPDATE amends.attempt t SET ring_at = clock_timestamp()
FROM picked WHERE (t.saga_id, t.step, t.direction, t.number)
    = (picked.saga_id, picked.step, picked.direction, picked.number)
"""

RING_AGAIN = f"""
WITH picked AS (
    SELECT t.saga_id, t.step, t.direction, t.number, s.definition
    FROM amends.attempt t JOIN amends.saga s ON s.id = t.saga_id
    WHERE coalesce(t.lease_until, t.ring_at) <= {_NOW} AND t.token IS NULL
        AND t.rung_count > 0 AND t.queue = %(queue)s
        AND {_IS_KNOWN}
    ORDER BY coalesce(t.lease_until, t.ring_at) LIMIT %(limit)s
    FOR UPDATE OF t SKIP LOCKED
)
UPDATE amends.attempt t SET rung_count = t.rung_count + 1,
    ring_at = clock_timestamp() + make_interval(secs => %(patience)s)
FROM picked WHERE (t.saga_id, t.step, t.direction, t.number)
    = (picked.saga_id, picked.step, picked.direction, picked.number)
{_RINGS}
"""

TRUST = """
UPDATE amends.attempt t SET ring_at = clock_timestamp() + make_interval(secs => %(patience)s)
FROM unnest(%(saga_ids)s::uuid[], %(steps)s::text[], %(directions)s::text[], %(numbers)s::int[])
    AS r(saga_id, step, direction, number)
WHERE (t.saga_id, t.step, t.direction, t.number) = (r.saga_id, r.step, r.direction, r.number)
    AND t.token IS NULL
"""

UNRING = """
UPDATE amends.attempt t SET ring_at = clock_timestamp()
    + make_interval(secs => coalesce(%(pause)s, least(2.0 ^ least(t.rung_count, 10), 10)))
FROM unnest(%(saga_ids)s::uuid[], %(steps)s::text[], %(directions)s::text[], %(numbers)s::int[])
    AS r(saga_id, step, direction, number)
WHERE (t.saga_id, t.step, t.direction, t.number) = (r.saga_id, r.step, r.direction, r.number)
    AND t.token IS NULL AND t.due_at <= clock_timestamp()
"""

NEXT_TIMER = f"""
SELECT extract(epoch FROM t.ring_at - clock_timestamp())::float8 FROM amends.attempt t
WHERE coalesce(t.lease_until, t.ring_at) > {_NOW} AND t.token IS NULL
    AND t.rung_count = 0
ORDER BY coalesce(t.lease_until, t.ring_at) LIMIT 1
"""

DUE = f"""
WITH picked AS (
    SELECT s.id FROM amends.saga s
    WHERE s.due_at <= {_NOW} AND ({_IS_KNOWN}
        OR NOT EXISTS (SELECT FROM amends.process p
            WHERE p.seen_at > clock_timestamp() - make_interval(secs => {SEEN_SECONDS})
                AND s.definition_hash = ANY(p.definition_hashes)
                AND s.log_format <= p.log_format))
    ORDER BY s.due_at LIMIT {LOOK_BATCH}
    FOR UPDATE SKIP LOCKED
)
UPDATE amends.saga s SET
    look_count = s.look_count + (NOT ({_IS_KNOWN}))::int,
    due_at = clock_timestamp() + make_interval(secs =>
        CASE WHEN {_IS_KNOWN} THEN {LOOKING_SECONDS}
        ELSE least({FOREIGN_LOOK_SECONDS} * 2.0 ^ least(s.look_count, 16),
            {MAX_FOREIGN_LOOK_SECONDS}) END)
FROM picked WHERE s.id = picked.id
RETURNING s.id, s.definition, s.version, s.state, {_IS_KNOWN}
"""

WAKE_FOREIGN = """
UPDATE amends.saga SET due_at = clock_timestamp(), look_count = 0
WHERE due_at > clock_timestamp() AND look_count > 0
    AND state NOT IN ('stuck', 'failed_compensation')
    AND definition_hash = ANY(%(hashes)s::text[]) AND log_format <= %(log_format)s
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """The rung and unclaimed attempts of one queue, whoever knows their sagas.

    `overdue` are those of our definitions that rang a good while ago.
    """

    queue: str
    rung: int
    overdue: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DueSaga:
    """A saga whose time has come; `is_known`: this process has its definition."""

    id: UUID
    definition: str
    version: int
    state: State
    is_known: bool


class Attempts:
    """Due attempts and sagas, of the definitions whose hashes are given."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def expired(
        self,
        hashes: Sequence[str],
        limit: int,
        *,
        after: OpenAttempt | None = None,
    ) -> list[OpenAttempt]:
        """Return attempts whose lease is over, the longest over first; go on behind `after`.

        Those of sagas whose rows somebody holds just now are told apart: `is_held_up`.

        Whether the process of one that ran out of time lived then, the register of processes says.
        """
        values = {
            "hashes": list(hashes),
            "log_format": log_format(),
            "limit": limit,
            "since": after and after.lease_until,
            "saga_id": after and after.id.saga_id,
            "step": after and after.id.step,
            "direction": after and after.id.direction,
            "number": after and after.id.number,
        }
        rows = self._database.run(EXPIRED, values, writes="sweep.commit")
        return [_open_attempt(row[:-1], is_expired=True, is_held_up=not row[-1]) for row in rows]

    def owned_by(self, owners: Sequence[str]) -> list[OpenAttempt]:
        """Return the attempts that these processes hold."""
        rows = self._database.run(OWNED, {"owners": list(owners)})
        return [_open_attempt(row, is_expired=False) for row in rows]

    def ring_first(self, hashes: Sequence[str], limit: int) -> list[Ring]:
        """Take due attempts that were never rung, and note that they are rung now."""
        values = {"hashes": list(hashes), "log_format": log_format(), "limit": limit}
        rows = self._database.run(RING_FIRST, values, writes="sweep.commit")
        return [_ring(row) for row in rows]

    def next_timer(self) -> float | None:
        """Return in how many seconds the next attempt comes due that was never rung, or None."""
        rows = self._database.run(NEXT_TIMER, {})
        return rows[0][0] if rows else None

    def backlogs(self, hashes: Sequence[str]) -> list[Backlog]:
        """Return, per queue where ours are late, how many attempts were rung and are unclaimed.

        Counting reads every unclaimed attempt, so it is done only when one is overdue.
        """
        if not self._database.run(ANY_OVERDUE, {}):
            return []
        rows = self._database.run(RUNG, {"hashes": list(hashes), "log_format": log_format()})
        return [Backlog(queue=row[0], rung=row[1], overdue=row[2]) for row in rows if row[2]]

    def late_queues(
        self, queues: Sequence[str], hashes: Sequence[str], age_seconds: float
    ) -> list[str]:
        """Return those of the queues with attempts, rung and unclaimed, due since so long ago."""
        values = {"queues": list(queues), "hashes": list(hashes), "age": age_seconds}
        return [row[0] for row in self._database.run(LATE_QUEUES, values)]

    def doubt(self, queues: Sequence[str]) -> None:
        """Trust the oldest rings of these queues no longer: who had fetched them may be dead."""
        if queues:
            self._database.run(DOUBT, {"queues": list(queues)}, writes="sweep.commit")

    def ring_again(
        self, queue: str, hashes: Sequence[str], limit: int, patience_seconds: float
    ) -> list[Ring]:
        """Take up to `limit` overdue attempts of `queue`, longest unheard first; note the ring."""
        rows = self._database.run(
            RING_AGAIN,
            {
                "queue": queue,
                "hashes": list(hashes),
                "log_format": log_format(),
                "limit": limit,
                "patience": patience_seconds,
            },
            writes="sweep.commit",
        )
        return [_ring(row) for row in rows]

    def unring(self, rings: Sequence[Ring], pause_seconds: float | None = None) -> None:
        """Note that these were not rung after all: look at them again after a pause.

        Without a pause given: after one that doubles with every ring, up to 10 s. Attempts that
        are claimed, gone or not due are left as they are.
        """
        values = {**_named(rings), "pause": pause_seconds}
        self._database.run(UNRING, values, writes="sweep.commit")

    def trust(self, rings: Sequence[Ring], patience_seconds: float) -> None:
        """Note that these were published: ring again only after that long without a claim."""
        values = {**_named(rings), "patience": patience_seconds}
        self._database.run(TRUST, values, writes="sweep.commit")

    def due_sagas(self, hashes: Sequence[str]) -> list[DueSaga]:
        """Take up to 100 sagas whose time has come; a foreign one is put off, longer each time."""
        rows = self._database.run(
            DUE, {"hashes": list(hashes), "log_format": log_format()}, writes="sweep.commit"
        )
        return [
            DueSaga(
                id=row[0],
                definition=row[1],
                version=row[2],
                state=State(row[3]),
                is_known=row[4],
            )
            for row in rows
        ]

    def wake_foreign(self, hashes: Sequence[str]) -> None:
        """Make sagas due that others put off because only this process has their definition."""
        self._database.run(
            WAKE_FOREIGN,
            {"hashes": list(hashes), "log_format": log_format()},
            writes="sweep.commit",
        )


def attempt_of(ring: Ring) -> AttemptId:
    """Return the attempt that a ring is for."""
    return AttemptId(
        saga_id=ring.saga_id, step=ring.step, direction=ring.direction, number=ring.attempt
    )


def _named(rings: Sequence[Ring]) -> dict[str, Any]:
    return {
        "saga_ids": [each.saga_id for each in rings],
        "steps": [each.step for each in rings],
        "directions": [each.direction for each in rings],
        "numbers": [each.attempt for each in rings],
    }


def _ring(row: Row) -> Ring:
    saga_id, step, direction, number, queue, definition = row
    return Ring(
        definition=definition,
        saga_id=saga_id,
        step=step,
        direction=direction,
        attempt=number,
        queue=queue,
    )


def _open_attempt(row: Sequence[Any], *, is_expired: bool, is_held_up: bool = False) -> OpenAttempt:
    saga_id, step, direction, number, queue, token, owner, ran_out, lease_until = row
    return OpenAttempt(
        id=AttemptId(saga_id=saga_id, step=step, direction=direction, number=number),
        queue=queue,
        token=token,
        owner=owner,
        is_expired=is_expired,
        ran_out=ran_out,
        is_held_up=is_held_up,
        lease_until=lease_until,
    )
