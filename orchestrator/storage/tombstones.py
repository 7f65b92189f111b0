"""What is left of a pruned saga, and how a late effect brings it back in front of a person."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from orchestrator.entries import Entry, LateOutcomeRecorded, SagaParked, SagaStarted, encode
from orchestrator.planning import PARKED_LOOK_SECONDS
from orchestrator.state import State
from orchestrator.storage.database import Database
from orchestrator.storage.rows import SagaRow

REASON = "late_effect_on_pruned"

FIND = """
SELECT saga_id, definition, version, definition_hash, key, fingerprint, state, "references",
    ended_at
FROM amends.tombstone WHERE saga_id = %(saga_id)s
"""

REVIVE = """
WITH back AS (
    INSERT INTO amends.saga (id, definition, version, definition_hash, key, fingerprint, state, seq,
        due_at, attributes, step, direction, attempt)
    SELECT t.saga_id, t.definition, t.version, t.definition_hash, t.key, t.fingerprint, 'stuck',
        json_array_length(%(entries)s::json), clock_timestamp() + make_interval(secs => %(due)s),
        '{}', %(step)s, %(direction)s, %(attempt)s
    FROM amends.tombstone t WHERE t.saga_id = %(saga_id)s
    ON CONFLICT DO NOTHING
    RETURNING id
), logged AS (
    INSERT INTO amends.saga_log (saga_id, seq, kind, data)
    SELECT back.id, e.n, e.entry->>0, (e.entry->1)::jsonb
    FROM back, json_array_elements(%(entries)s::json) WITH ORDINALITY AS e(entry, n)
)
SELECT id FROM back
"""

_KNOWN = """EXISTS (SELECT FROM amends.saga_log l
    WHERE l.saga_id = %(saga_id)s AND l.kind = 'LateOutcomeRecorded'
        AND l.data @> jsonb_build_object('step', %(step)s::text,
            'direction', %(direction)s::text, 'attempt', %(attempt)s::int))"""

ADD = f"""
WITH moved AS (
    UPDATE amends.saga s SET seq = s.seq + 1, due_at = clock_timestamp(), look_count = 0,
        updated_at = clock_timestamp()
    WHERE s.id = %(saga_id)s AND s.due_at IS NOT NULL AND NOT {_KNOWN}
    RETURNING s.id, s.seq
), logged AS (
    INSERT INTO amends.saga_log (saga_id, seq, kind, data)
    SELECT id, seq, 'LateOutcomeRecorded', %(late)s::jsonb FROM moved
)
SELECT seq FROM moved
"""

IS_KNOWN = f"SELECT {_KNOWN}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tombstone:
    """A pruned saga: its identity, how and when it ended, and its references outside."""

    saga_id: UUID
    definition: str
    version: int
    definition_hash: str
    key: str
    fingerprint: str
    state: State
    references: Sequence[str]
    ended_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Revived:
    """A pruned saga that is back, and the entries that were appended now: none if it knew."""

    saga: SagaRow
    entries: Sequence[Entry]


class Tombstones:
    """Reads tombstones; nobody but the owner's function writes them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, saga_id: UUID) -> Tombstone | None:
        """Return what is left of a pruned saga, or None."""
        rows = self._database.run(FIND, {"saga_id": saga_id})
        if not rows:
            return None
        values = dict(zip(Tombstone.__dataclass_fields__, rows[0], strict=True))
        return Tombstone(**{**values, "state": State(values["state"])})

    def revive(self, saga_id: UUID, late: LateOutcomeRecorded) -> Revived | None:
        """Bring a pruned saga back as `stuck`, with the late outcome and the question it raises.

        Its tombstone stays, so its key still finds it. A saga that is back already gets the late
        outcome added, once. None, and nothing is written: there is no tombstone, the saga is back
        and has ended again, or the attempt failed, which is no effect.

        Raises:
            LogUnavailableError: Postgres did not answer; repeating is safe.
        """
        tombstone = self.find(saga_id)
        if tombstone is None or late.outcome == "failed":
            return None
        entries = (SagaStarted(payload=None), _question(tombstone, late), late)
        values = _values(saga_id, late, entries)
        if self._database.run(REVIVE, values, writes="revive.commit"):
            return Revived(saga=_row(tombstone, len(entries)), entries=entries)
        if added := self._database.run(ADD, values, writes="revive.commit"):
            return Revived(saga=_row(tombstone, added[0][0]), entries=(late,))
        if self._database.run(IS_KNOWN, values)[0][0]:
            return Revived(saga=_row(tombstone, len(entries)), entries=())
        return None


def _question(tombstone: Tombstone, late: LateOutcomeRecorded) -> SagaParked:
    verb = "took" if late.outcome == "succeeded" else "may have taken"
    what = "the undoing of " if late.direction == "compensate" else ""
    named = f" as {late.reference}" if late.reference else ""
    known = ", which it knew" if late.reference in tombstone.references else ""
    return SagaParked(
        state=State.STUCK,
        reason=REASON,
        question=f"{what}{late.step} {verb} effect{named}{known}, and that was heard only after "
        f"the saga had ended as {tombstone.state} and was pruned: look it up in the archive and on "
        "the other side, put right what is wrong there, and resolve the saga",
        steps=[late.step],
    )


def _values(saga_id: UUID, late: LateOutcomeRecorded, entries: Sequence[Entry]) -> dict[str, Any]:
    return {
        "saga_id": saga_id,
        "step": late.step,
        "direction": late.direction,
        "attempt": late.attempt,
        "entries": json.dumps([encode(each) for each in entries]),
        "late": json.dumps(encode(late)[1]),
        "due": PARKED_LOOK_SECONDS,
    }


def _row(tombstone: Tombstone, seq: int) -> SagaRow:
    return SagaRow(
        id=tombstone.saga_id,
        definition=tombstone.definition,
        version=tombstone.version,
        definition_hash=tombstone.definition_hash,
        key=tombstone.key,
        fingerprint=tombstone.fingerprint,
        state=State.STUCK,
        seq=seq,
    )
