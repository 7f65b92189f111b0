"""Attempts that are due and that nobody takes: of which queues, since when, and who serves those.

Whatever is unclaimed is looked at again within half a minute, so all of it is found at one end of
the index by which a sweep looks, whatever else waits for its time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from orchestrator.storage.database import Database

COUNTED = 10_000
"""So many unclaimed attempts are looked at; a count that is as high says so much or more."""

SAGAS = 100
"""So many sagas of a queue are named, the longest waiting."""

NEXT_LOOK_SECONDS = 120.0
"""By then at the latest whatever is due and unclaimed, or put off, is rung again."""

SEEN_SECONDS = 60.0
"""A process seen so recently serves its queues."""

_NOW = "(SELECT clock_timestamp())"

UNCLAIMED = f"""
WITH late AS MATERIALIZED (
    SELECT t.queue, coalesce(t.put_off_at, t.due_at) AS due_at, t.saga_id, s.definition_hash
    FROM amends.attempt t JOIN amends.saga s ON s.id = t.saga_id
    WHERE coalesce(t.lease_until, t.ring_at)
            <= {_NOW} + make_interval(secs => {NEXT_LOOK_SECONDS})
        AND t.token IS NULL
        AND coalesce(t.put_off_at, t.due_at) <= {_NOW} - make_interval(secs => %(age)s)
    LIMIT {COUNTED}
), by_queue AS (
    SELECT queue, count(*) AS attempts, min(due_at) AS oldest,
        (array_agg(saga_id ORDER BY due_at))[1:{SAGAS}] AS sagas,
        array_agg(DISTINCT definition_hash) AS hashes
    FROM late GROUP BY queue
)
SELECT q.queue, q.attempts, q.oldest, q.sagas,
    (SELECT count(*) FROM amends.process p
        WHERE p.kind LIKE 'worker%%' AND q.queue = ANY(p.queues) AND p.definition_hashes && q.hashes
            AND p.seen_at > {_NOW} - make_interval(secs => {SEEN_SECONDS})),
    running.attempts, running.oldest
FROM by_queue q CROSS JOIN LATERAL (
    SELECT count(*) AS attempts, min(t.timeout_at - t.timeout_for) AS oldest
    FROM amends.attempt t WHERE t.token IS NOT NULL AND t.queue = q.queue
) running
ORDER BY q.oldest
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnclaimedQueue:
    """A queue whose due attempts nobody takes.

    Args:
        attempts: how many, counted up to 10,000; `oldest`: when the longest waiting came due.
        sagas: the longest waiting, at most 100.
        served_by: processes seen within a minute that serve it and know one of these sagas.
        running: claimed attempts of the queue; `running_since`: when the oldest was claimed.
    """

    queue: str
    attempts: int
    oldest: datetime
    sagas: Sequence[UUID]
    served_by: int
    running: int
    running_since: datetime | None


def unclaimed_queues(database: Database, age_seconds: float) -> list[UnclaimedQueue]:
    """Return the queues with attempts that came due so long ago and are unclaimed, worst first."""
    names = tuple(UnclaimedQueue.__dataclass_fields__)
    rows = database.run(UNCLAIMED, {"age": age_seconds})
    return [UnclaimedQueue(**dict(zip(names, row, strict=True))) for row in rows]
