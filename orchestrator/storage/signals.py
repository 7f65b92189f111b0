"""The inbox: outside facts for sagas, kept until they are in the saga's log.

A signal is first kept, unique by (saga, name, deduplication id), also before its saga exists; then
it is delivered: appended to the log, in the order of arrival, in the statement that marks it. Both
halves may be done by anybody, any number of times.
"""

from __future__ import annotations

import json
from uuid import UUID

from orchestrator.entries import Json
from orchestrator.storage.database import Database

KEEP = """
INSERT INTO amends.signal (definition, key, name, dedup_id, payload)
VALUES (%(definition)s, %(key)s, %(name)s, %(dedup_id)s, %(payload)s::jsonb)
ON CONFLICT (definition, key, name, dedup_id) DO NOTHING
RETURNING arrival
"""

DELIVER = """
WITH picked AS (
    SELECT g.definition, g.key, g.name, g.dedup_id, g.payload, g.arrival, s.id
    FROM amends.signal g
    JOIN amends.saga s ON s.key = g.key AND s.definition = g.definition
    WHERE g.delivered_at IS NULL AND s.due_at IS NOT NULL
        AND (%(key)s::text IS NULL OR (g.definition = %(definition)s AND g.key = %(key)s))
        AND (%(saga_id)s::uuid IS NULL OR s.id = %(saga_id)s)
    ORDER BY g.arrival LIMIT %(limit)s
    FOR UPDATE OF g SKIP LOCKED
), counted AS (
    SELECT id, count(*)::int AS n FROM picked GROUP BY id
), moved AS (
    UPDATE amends.saga s SET seq = s.seq + counted.n, due_at = clock_timestamp(),
        updated_at = clock_timestamp()
    FROM counted WHERE s.id = counted.id AND s.due_at IS NOT NULL
    RETURNING s.id, s.seq - counted.n AS before
), numbered AS (
    SELECT picked.*, moved.before + row_number() OVER (
        PARTITION BY picked.id ORDER BY picked.arrival) AS seq
    FROM picked JOIN moved ON moved.id = picked.id
), logged AS (
    INSERT INTO amends.saga_log (saga_id, seq, kind, data)
    SELECT id, seq, 'SignalReceived',
        jsonb_build_object('name', name, 'dedup_id', dedup_id, 'payload', payload)
    FROM numbered
), marked AS (
    UPDATE amends.signal g SET delivered_at = clock_timestamp()
    FROM numbered n
    WHERE (g.definition, g.key, g.name, g.dedup_id)
        = (n.definition, n.key, n.name, n.dedup_id)
)
SELECT id FROM moved
"""


class Signals:
    """Keeps signals and delivers them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def keep(self, definition: str, key: str, name: str, dedup_id: str, payload: Json) -> bool:
        """Keep a signal; False when one of that deduplication id was kept before."""
        values = {
            "definition": definition,
            "key": key,
            "name": name,
            "dedup_id": dedup_id,
            "payload": json.dumps(payload),
        }
        return bool(self._database.run(KEEP, values, writes="signal.commit"))

    def deliver(
        self,
        *,
        definition: str | None = None,
        key: str | None = None,
        saga_id: UUID | None = None,
        limit: int = 500,
    ) -> list[UUID]:
        """Deliver what sagas that have not ended are still to hear; return those sagas.

        With `definition` and `key`, or with `saga_id`, only to that saga.
        """
        values = {"definition": definition, "key": key, "saga_id": saga_id, "limit": limit}
        rows = self._database.run(DELIVER, values, writes="signal.commit")
        return [row[0] for row in rows]
