"""What is needed to let ended sagas go: which ones, their whole history as text, and the going.
What else nobody needs any more goes by functions of the same owner.

Protocol. Whoever prunes reads a saga with its log at one seq, makes sure of what only the log can
tell, archives it, and names id and seq to `Retention.prune`. There one function of the owner checks
again, under the row's lock, everything that tables can tell, and takes each saga one step further:
first it writes the tombstone; once every transaction can see that, it deletes the rows. In between
the saga is as alive as before: a late effect reopens it, its seq moves, and it stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from orchestrator.state import State
from orchestrator.storage.database import Database, Moved
from orchestrator.storage.idempotency_statements import PRUNE as PRUNE_RECORDS

CUTOFF = "SELECT clock_timestamp() - %(older_than)s::interval"

ENDED = """
SELECT s.id, s.seq, s.created_at, s.state, amends.kept_because(s, %(older_than)s::interval),
    jsonb_build_object('saga', to_jsonb(s),
        'entries', (SELECT jsonb_agg(jsonb_build_object('seq', l.seq, 'kind', l.kind,
                'data', l.data, 'recorded_at', l.recorded_at) ORDER BY l.seq)
            FROM amends.saga_log l WHERE l.saga_id = s.id),
        'signals', (SELECT coalesce(jsonb_agg(to_jsonb(g) ORDER BY g.arrival), '[]')
            FROM amends.signal g WHERE g.definition = s.definition AND g.key = s.key))::text
FROM amends.saga s
WHERE (s.created_at, s.id) > (%(after)s::timestamptz, %(after_id)s::uuid)
    AND s.created_at < %(cutoff)s AND s.ended_at < %(cutoff)s
    AND s.state = ANY(%(states)s::text[])
ORDER BY s.created_at, s.id LIMIT %(limit)s
"""

PRUNE = """
SELECT pruned_id, gone
FROM amends.prune(%(ids)s::uuid[], %(seqs)s::int[], %(older_than)s::interval)
"""

PRUNE_SIGNALS = "SELECT amends.prune_signals(%(older_than)s::interval, %(most)s)"
PRUNE_ALERTS = "SELECT amends.prune_alerts(%(older_than)s::interval, %(most)s)"


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedSaga:
    """An ended saga that is old enough.

    Args:
        kept_because: what the tables say against pruning it, in a word, or None.
        record: the saga's row, its whole log and its signals: one line of JSON, as stored.
    """

    id: UUID
    seq: int
    created_at: datetime
    state: State
    kept_because: str | None
    record: str


class Retention:
    """Finds what may go and lets it go; needs the rights of `amends_janitor`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ended(
        self, states: Sequence[State], older_than: timedelta, batch: int
    ) -> Iterator[list[EndedSaga]]:
        """Yield the sagas that ended longer ago than that, the oldest first, `batch` at a time.

        Memory holds one batch. A saga that stays is not met again.
        """
        [(cutoff,)] = self._database.run(CUTOFF, {"older_than": older_than})
        values = {
            "states": [each.value for each in states],
            "older_than": older_than,
            "cutoff": cutoff,
            "limit": batch,
        }
        after, after_id = "-infinity", UUID(int=0)
        while True:
            rows = self._database.run(ENDED, {**values, "after": after, "after_id": after_id})
            page = [
                EndedSaga(
                    id=row[0],
                    seq=row[1],
                    created_at=row[2],
                    state=State(row[3]),
                    kept_because=row[4],
                    record=row[5],
                )
                for row in rows
            ]
            if page:
                yield page
            if len(page) < batch:
                return
            after, after_id = page[-1].created_at.isoformat(), page[-1].id

    def prune(self, sagas: Sequence[EndedSaga], older_than: timedelta) -> dict[UUID, bool]:
        """Take sagas one step further; return those that may go, with whether they are gone.

        Committed on return, and safe to repeat. What is missing has moved, is locked, or is kept.
        """
        ids = [each.id for each in sagas]
        values = {"ids": ids, "seqs": [each.seq for each in sagas], "older_than": older_than}
        try:
            return dict(self._database.run(PRUNE, values, writes="prune.commit"))
        except Moved:
            return dict.fromkeys(ids, False)  # somebody else's transaction came first: not yet

    def prune_signals(self, older_than: timedelta, most: int) -> int:
        """Delete up to `most` old signals that nobody took and no saga waits for; return how many.

        They came for sagas that never started, or had been pruned.
        """
        values = {"older_than": older_than, "most": most}
        return int(self._database.run(PRUNE_SIGNALS, values, writes="prune_signals.commit")[0][0])

    def prune_alerts(self, older_than: timedelta, most: int) -> int:
        """Delete up to `most` alerts that were closed longer ago than that; return how many.

        One whose saga is in flight stays: it keeps the same alert from being raised again.
        """
        values = {"older_than": older_than, "most": most}
        return int(self._database.run(PRUNE_ALERTS, values, writes="prune_alerts.commit")[0][0])

    def prune_records(self, most: int) -> int:
        """Delete up to `most` expired records of idempotent calls; return how many."""
        values = {"limit": most}
        return int(self._database.run(PRUNE_RECORDS, values, writes="idempotency.prune")[0][0])
