"""The inbox: outside facts for sagas, kept until they are in the saga's log.

A signal is first kept, unique by (saga, name, deduplication id), also before its saga exists; then
it is delivered: appended to the log, in the order of arrival, in the statement that marks it. Both
halves may be done by anybody, any number of times.

Most are delivered by whoever sent them, and what came before its saga, once that saga waits. What a
crash left over is found by its arrival: the newest at every look, older ones window by window, for
those that nobody will ever hear (their saga has ended, or never began) may be many.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from orchestrator.entries import Json
from orchestrator.storage.database import Database

BATCH = 500
WINDOW = 2_000
"""Undelivered signals that are looked at together."""

KEEP = """
INSERT INTO amends.signal (definition, key, name, dedup_id, payload)
VALUES (%(definition)s, %(key)s, %(name)s, %(dedup_id)s, %(payload)s::jsonb)
ON CONFLICT (definition, key, name, dedup_id) DO NOTHING
RETURNING arrival
"""

_HEARS = """
    SELECT s.id, s.definition, s.key FROM amends.saga s
    WHERE s.due_at IS NOT NULL
        AND (s.id = %(saga_id)s OR (s.key = %(key)s AND s.definition = %(definition)s))
    FOR UPDATE
"""

_NEWEST = """
    SELECT definition, key, arrival FROM amends.signal
    WHERE delivered_at IS NULL
    ORDER BY arrival DESC LIMIT %(window)s
"""

_OLDER = """
    SELECT definition, key, arrival FROM amends.signal
    WHERE delivered_at IS NULL AND arrival > %(after)s
    ORDER BY arrival LIMIT %(window)s
"""

_ALL_HEAR = """
    SELECT s.id, s.definition, s.key
    FROM (SELECT definition, key, min(arrival) AS since FROM looked GROUP BY definition, key) waits
    JOIN amends.saga s ON s.key = waits.key AND s.definition = waits.definition
    WHERE s.due_at IS NOT NULL
    ORDER BY waits.since LIMIT %(limit)s
    FOR UPDATE OF s SKIP LOCKED
"""

_PAYLOAD = """CASE WHEN g.name LIKE 'child.%%' THEN coalesce((
        SELECT jsonb_build_object('saga_id', c.id, 'state', c.state) FROM amends.saga c
        WHERE c.parent_id = hears.id AND 'child.' || c.parent_step = g.name
            AND c.id::text = g.payload->>'saga_id'), jsonb_build_object()) ELSE g.payload END"""
"""Anybody who may send a signal may send one like a child's: of a child its row is believed."""

# The saga is locked before its signals are: who delivers a later one has seen every earlier one.
_DELIVER = """
hears AS (
    {hears}
), picked AS (
    SELECT g.definition, g.key, g.name, g.dedup_id, {payload} AS payload, g.arrival, hears.id
    FROM hears JOIN amends.signal g ON g.key = hears.key AND g.definition = hears.definition
    WHERE g.delivered_at IS NULL
    ORDER BY g.arrival LIMIT %(limit)s
    FOR UPDATE OF g
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
"""

_HEARD = "n.id, n.definition, n.key, n.name, n.dedup_id, n.payload"

_HEAR = _DELIVER.format(hears=_HEARS, payload=_PAYLOAD)
DELIVER = f"WITH {_HEAR} SELECT {_HEARD} FROM numbered n ORDER BY n.seq"

_DELIVER_LOOKED = f"""
WITH looked AS MATERIALIZED ({{looked}}), {_DELIVER.format(hears=_ALL_HEAR, payload=_PAYLOAD)}
SELECT w.looked, w.last, {_HEARD}
FROM (SELECT count(*) AS looked, max(arrival) AS last FROM looked) w
LEFT JOIN numbered n ON true ORDER BY n.id, n.seq
"""

DELIVER_NEWEST = _DELIVER_LOOKED.format(looked=_NEWEST)
DELIVER_OLDER = _DELIVER_LOOKED.format(looked=_OLDER)


CALL_DELIVER = """
SELECT * FROM amends.deliver_signals(%(saga_id)s::uuid, %(definition)s::text, %(key)s::text)
"""
"""As `DELIVER`, by the owner's function: who only starts sagas delivers what it sends."""

AWAITED_BY = """
SELECT s.id FROM (
    SELECT g.definition, g.key, min(g.arrival) AS since
    FROM (SELECT definition, key, arrival FROM amends.signal
        WHERE delivered_at IS NULL ORDER BY arrival DESC LIMIT %(limit)s) g
    GROUP BY g.definition, g.key) g
JOIN amends.saga s ON s.key = g.key AND s.definition = g.definition
WHERE s.due_at IS NOT NULL ORDER BY g.since LIMIT %(limit)s
"""

UNDELIVERED = """
SELECT g.name, g.dedup_id, g.received_at FROM amends.signal g
WHERE g.definition = %(definition)s AND g.key = %(key)s AND g.delivered_at IS NULL
ORDER BY g.arrival LIMIT %(limit)s
"""


@dataclass(frozen=True, slots=True)
class Heard:
    """A signal that was just delivered to a saga."""

    saga_id: UUID
    definition: str
    key: str
    name: str
    dedup_id: str
    payload: Json


@dataclass(frozen=True, slots=True)
class Undelivered:
    """A signal that its saga has not heard, without its payload."""

    name: str
    dedup_id: str
    received_at: datetime


class Signals:
    """Keeps signals and delivers them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._looked_up_to = 0

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
    ) -> list[Heard]:
        """Deliver what one saga, named by its id or its key, is to hear, and return that.

        Raises:
            Moved: somebody holds its row; what it is to hear stays in the inbox.
        """
        values = {"definition": definition, "key": key, "saga_id": saga_id}
        rows = self._database.run(CALL_DELIVER, values, writes="signal.commit")
        return [Heard(*row) for row in rows]

    def deliver_all(self) -> list[Heard]:
        """Deliver what is looked at, and return it; its sagas are due now.

        Looked at are the newest undelivered signals, and if there are more than `WINDOW` the next
        of the older ones. A saga whose row somebody holds hears them another time.
        """
        heard, looked, _ = self._deliver_looked(DELIVER_NEWEST)
        if looked < WINDOW:
            return heard
        older, _, last = self._deliver_looked(DELIVER_OLDER)
        self._looked_up_to = last or 0
        return heard + older

    def _deliver_looked(self, statement: str) -> tuple[list[Heard], int, int | None]:
        values = {"limit": BATCH, "window": WINDOW, "after": self._looked_up_to}
        rows = self._database.run(statement, values, writes="signal.commit")
        looked, last = rows[0][:2]
        return [Heard(*row[2:]) for row in rows if row[2] is not None], looked, last

    def awaited_by(self) -> list[UUID]:
        """Return which sagas the newest undelivered signals are for: to deliver to one by one."""
        return [row[0] for row in self._database.run(AWAITED_BY, {"limit": BATCH})]

    def undelivered(self, definition: str, key: str) -> list[Undelivered]:
        """Return up to 500 signals that a saga has not heard, the oldest first.

        Of a saga in flight they are on their way; one that has ended hears nothing more.
        """
        values = {"definition": definition, "key": key, "limit": BATCH}
        return [Undelivered(*row) for row in self._database.run(UNDELIVERED, values)]
