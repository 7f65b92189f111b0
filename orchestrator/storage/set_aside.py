"""Setting a saga aside: parking one that cannot be read or decided, without reading it.

The statement asks nothing of the log but where it ends, so it works whatever stands in it. Entries
behind the row's seq were written by no statement of the engine: the row's seq is moved past them,
so that facts can be appended again, and they are named in the entry that parks the saga.

It is idempotent. A saga that is set aside already is put off, ever longer, without a second entry.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from psycopg.errors import UniqueViolation

from orchestrator.storage.database import Database

FIRST_LOOK_SECONDS = 30.0
"""It is tried again after this long, then after twice that, since its trouble may be mended."""

MAX_LOOK_SECONDS = 3600.0

_IS_ASIDE = """
    s.state IN ('stuck', 'failed_compensation') AND coalesce((
        SELECT l.kind = 'SagaParked' AND l.data->>'reason' = %(reason)s
        FROM amends.saga_log l
        WHERE l.saga_id = s.id AND l.kind IN ('SagaParked', 'SagaUnparked', 'EntriesVoided')
            AND l.seq <= s.seq
        ORDER BY l.seq DESC LIMIT 1), false)
"""

SET_ASIDE = f"""
WITH seen AS (
    SELECT s.id, {_IS_ASIDE} AS is_aside,
        greatest(s.seq, (SELECT max(l.seq) FROM amends.saga_log l WHERE l.saga_id = s.id)) AS last,
        ARRAY(SELECT l.seq FROM amends.saga_log l
            WHERE l.saga_id = s.id AND l.seq > s.seq ORDER BY l.seq) AS ahead
    FROM amends.saga s WHERE s.id = %(saga_id)s AND s.due_at IS NOT NULL
    FOR UPDATE OF s
), judged AS (
    SELECT *, NOT is_aside OR cardinality(ahead) > 0 AS is_new FROM seen
), moved AS (
    UPDATE amends.saga s SET
        seq = j.last + j.is_new::int,
        state = CASE WHEN s.state IN ('compensating', 'failed_compensation')
            THEN 'failed_compensation' ELSE 'stuck' END,
        due_at = clock_timestamp() + make_interval(secs => least({MAX_LOOK_SECONDS},
            {FIRST_LOOK_SECONDS} * 2.0 ^ CASE WHEN j.is_new THEN 0
                ELSE least(s.look_count + 1, 16) END)),
        look_count = CASE WHEN j.is_new THEN 0 ELSE s.look_count + 1 END,
        last_error = %(error)s, updated_at = clock_timestamp()
    FROM judged j WHERE s.id = j.id
    RETURNING s.id, s.definition, s.key, s.seq, s.state, s.parent_id, s.parent_step, j.is_new,
        j.ahead
), logged AS (
    INSERT INTO amends.saga_log (saga_id, seq, kind, data)
    SELECT id, seq, 'SagaParked', jsonb_build_object('state', state, 'reason', %(reason)s::text,
        'question', %(question)s::text)
        || CASE WHEN cardinality(ahead) > 0 THEN jsonb_build_object('entries', to_jsonb(ahead))
            ELSE '{{}}' END
    FROM moved WHERE is_new
), withdrawn AS (
    DELETE FROM amends.attempt t USING moved
    WHERE t.saga_id = moved.id AND (t.token IS NULL OR t.lease_until < clock_timestamp())
), told AS (
    INSERT INTO amends.signal (definition, key, name, dedup_id, payload)
    SELECT p.definition, p.key, 'child.' || moved.parent_step, moved.id || ':' || moved.seq,
        jsonb_build_object('saga_id', moved.id, 'state', moved.state)
    FROM moved JOIN amends.saga p ON p.id = moved.parent_id WHERE moved.is_new
    ON CONFLICT (definition, key, name, dedup_id) DO NOTHING
)
SELECT id, definition, key, is_new FROM moved
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aside:
    """A saga that was set aside; `is_new`: just now, and not before."""

    id: UUID
    definition: str
    key: str
    is_new: bool


class SetAside:
    """Parks what cannot be handled."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def set_aside(self, saga_id: UUID, *, reason: str, question: str, error: str) -> Aside | None:
        """Park the saga with the question, or put it off further; None if it has ended, or is gone.

        Attempts that nobody runs are withdrawn; one that runs can still record its outcome.

        Raises:
            Moved: somebody is at work on its row; it is set aside by whoever looks at it next.
            LogUnavailableError: Postgres did not answer.
        """
        values = {"saga_id": saga_id, "reason": reason, "question": question, "error": error}
        rows = self._database.run(SET_ASIDE, values, writes="aside.commit")
        if not rows:
            return None
        return Aside(id=rows[0][0], definition=rows[0][1], key=rows[0][2], is_new=rows[0][3])


def is_log_ahead(error: BaseException) -> bool:
    """Whether a write failed because its place in the log was taken by no statement of ours."""
    return isinstance(error, UniqueViolation)
