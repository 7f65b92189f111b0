"""The hot statements: each is one transition of a saga, one round trip and one commit.

They are constants, so that Postgres prepares them once per connection. `saga_log.py` says what each
promises; here is how. Values are always parameters.
"""

from __future__ import annotations

from orchestrator.storage.rows import RING_PATIENCE_SECONDS

HOLDS_TOKEN = "t.token = %(token)s"
"""The fence: only who holds the attempt's token may say how it ended."""

_SCHEDULED = """
    INSERT INTO amends.attempt (saga_id, step, direction, number, queue, due_at, ring_at,
        rung_count, timeout_for, alone, token, owner, lease_until, timeout_at)
    SELECT {saga_id}, a.step, a.direction, a.number, a.queue,
        clock_timestamp() + make_interval(secs => a.delay),
        clock_timestamp()
            + make_interval(secs => CASE WHEN a.rung THEN {patience} ELSE a.delay END),
        a.rung::int, make_interval(secs => a.timeout), a.alone, a.token, a.owner,
        CASE WHEN a.token IS NOT NULL
            THEN clock_timestamp() + make_interval(secs => least(a.lease, a.timeout)) END,
        CASE WHEN a.token IS NOT NULL
            THEN clock_timestamp() + make_interval(secs => a.timeout) END
"""

_SCHEDULE = (
    "step text, direction text, number int, queue text, delay float8, timeout float8, "
    "alone bool, rung bool, token uuid, owner text, lease float8"
)

START = f"""
WITH started AS (
    INSERT INTO amends.saga (id, definition, version, definition_hash, key, fingerprint, state, seq,
        due_at, deadline_at, attributes, trace, parent_id, parent_step, replay_of, lock, log_format)
    SELECT n.id, n.definition, n.version, n.hash, n.key, n.fingerprint, 'running', 1,
        clock_timestamp() + make_interval(secs => n.due_in),
        clock_timestamp() + make_interval(secs => n.deadline),
        CASE jsonb_typeof(n.attributes) WHEN 'object' THEN n.attributes ELSE '{{}}' END, n.trace,
        n.parent_id, n.parent_step, n.replay_of, n.lock, coalesce(n.log_format, 1)
    FROM json_to_recordset(%(sagas)s::json) AS n(id uuid, definition text, version int, hash text,
        key text, fingerprint text, deadline float8, due_in float8, attributes jsonb,
        trace jsonb, parent_id uuid, parent_step text, replay_of uuid, lock text,
        log_format smallint)
    WHERE NOT EXISTS (SELECT FROM amends.tombstone o
        WHERE o.definition = n.definition AND o.key = n.key)
    ON CONFLICT (definition, key) DO NOTHING
    RETURNING id
), logged AS (
    INSERT INTO amends.saga_log (saga_id, seq, kind, data)
    SELECT started.id, 1, 'SagaStarted', e.started || jsonb_build_object(
        'installation', (SELECT i.name FROM amends.installation i))
    FROM json_to_recordset(%(sagas)s::json) AS e(id uuid, started jsonb) JOIN started USING (id)
), scheduled AS (
    {_SCHEDULED.format(saga_id="a.saga_id", patience=RING_PATIENCE_SECONDS)}
    FROM (SELECT n.*, NULL::uuid AS token, NULL::text AS owner, NULL::float8 AS lease
        FROM json_to_recordset(%(schedule)s::json) AS n(saga_id uuid, step text, direction text,
            number int, queue text, delay float8, timeout float8, alone bool, rung bool)) a
    WHERE a.saga_id IN (SELECT id FROM started)
)
SELECT id FROM started
"""
"""Whatever its values say: sagas that run, at seq 1, with attempts that nobody holds."""

START_LOCKED = START.replace(
    "SELECT id FROM started\n",
    """, locked AS (
    INSERT INTO amends.semantic_lock (saga_id, name, granted)
    SELECT started.id, e.lock, e.lock_granted
    FROM json_to_recordset(%(sagas)s::json) AS e(id uuid, lock text, lock_granted bool)
    JOIN started USING (id) WHERE e.lock IS NOT NULL
)
SELECT id FROM started
""",
)
"""As `START`, in line for what the sagas lock. Who would take a lock that is held is refused by
the unique index, and with it everything that the statement would have started."""

CALL_START = "SELECT amends.start_sagas(%(sagas)s::json, %(schedule)s::json)"
CALL_START_LOCKED = "SELECT amends.start_locking_sagas(%(sagas)s::json, %(schedule)s::json)"
"""Starts, by the owner's functions: `orchestrator.storage.functions` says why."""

HOLDERS = """
SELECT definition, key, id, fingerprint, state FROM amends.saga
WHERE definition = %(definition)s AND key = ANY(%(keys)s::text[])
UNION ALL
SELECT definition, key, saga_id, fingerprint, state FROM amends.tombstone
WHERE definition = %(definition)s AND key = ANY(%(keys)s::text[])
"""

_ROW = (
    "{s}.id, {s}.definition, {s}.version, {s}.definition_hash, {s}.key, {s}.fingerprint, "
    "{s}.state, {s}.seq, {s}.look_count, {s}.parent_id, {s}.parent_step, {s}.lock, "
    "{s}.log_format"
)

_ENTRIES_AFTER = """
    (SELECT json_agg(json_build_array(l.seq, l.kind, l.data, extract(epoch FROM l.recorded_at))
        ORDER BY l.seq)
     FROM amends.saga_log l WHERE l.saga_id = %(saga_id)s AND l.seq > {after})
"""
_ENTRIES = _ENTRIES_AFTER.format(after="%(after)s")
_ENTRIES_ON = f"c.seq, c.state, {_ENTRIES_AFTER.format(after='coalesce(c.seq, 0)')}"

_CHECKPOINT = """LEFT JOIN amends.checkpoint c
    ON c.saga_id = {s}.id AND c.form = %(form)s AND c.seq < {s}.seq"""
"""What was folded before, by our own rules; of nearly every saga there is none."""

CLAIM = f"""
WITH claimed AS (
    UPDATE amends.attempt t SET token = %(token)s, owner = %(owner)s,
        lease_until = clock_timestamp() + least(make_interval(secs => %(lease)s), t.timeout_for),
        timeout_at = clock_timestamp() + t.timeout_for
    FROM amends.saga s
    WHERE t.saga_id = %(saga_id)s AND t.step = %(step)s AND t.direction = %(direction)s
        AND t.number = %(number)s AND t.token IS NULL AND t.due_at <= clock_timestamp()
        AND s.id = t.saga_id AND s.definition_hash = ANY(%(hashes)s::text[])
        AND s.log_format <= %(log_format)s
    RETURNING t.saga_id, t.timeout_for, t.alone
), moved AS (
    UPDATE amends.saga s SET seq = s.seq + 1, step = %(step)s, direction = %(direction)s,
        attempt = %(number)s, updated_at = clock_timestamp(),
        state = CASE s.state WHEN 'waiting' THEN 'running' ELSE s.state END
    FROM claimed WHERE s.id = claimed.saga_id
    RETURNING {_ROW.format(s="s")}
), logged AS (
    INSERT INTO amends.saga_log (saga_id, seq, kind, data)
    SELECT id, seq, 'StepStarted', jsonb_build_object('step', %(step)s::text,
        'direction', %(direction)s::text, 'attempt', %(number)s::int, 'owner', %(owner)s::text)
    FROM moved
)
SELECT moved.*, claimed.alone, extract(epoch FROM claimed.timeout_for)::float8,
    extract(epoch FROM clock_timestamp())::float8, {_ENTRIES_ON}
FROM claimed CROSS JOIN moved {_CHECKPOINT.format(s="moved")}
"""

ADVANCE = f"""
WITH moved AS (
    UPDATE amends.saga SET
        seq = %(seq)s + %(entry_count)s,
        log_format = greatest(log_format, %(log_format)s),
        state = %(state)s,
        due_at = CASE WHEN %(ended)s THEN NULL
            WHEN %(due_in)s::float8 IS NULL THEN coalesce(due_at, clock_timestamp())
            ELSE clock_timestamp() + make_interval(secs => %(due_in)s) END,
        step = coalesce(%(step)s, step), direction = coalesce(%(direction)s, direction),
        attempt = coalesce(%(number)s, attempt), last_error = coalesce(%(last_error)s, last_error),
        look_count = CASE WHEN %(looked)s THEN look_count + 1 ELSE 0 END,
        updated_at = clock_timestamp(),
        ended_at = CASE WHEN %(ended)s THEN clock_timestamp() END
    WHERE id = %(saga_id)s AND seq = %(seq)s
        AND (%(token)s::uuid IS NULL OR EXISTS (
            SELECT FROM amends.attempt t
            WHERE t.saga_id = %(saga_id)s AND t.step = %(c_step)s AND t.direction = %(c_direction)s
                AND t.number = %(c_number)s AND {HOLDS_TOKEN}))
    RETURNING id
), closed AS (
    DELETE FROM amends.attempt t USING moved
    WHERE t.saga_id = moved.id AND (
        (t.step = %(c_step)s AND t.direction = %(c_direction)s AND t.number = %(c_number)s
            AND {HOLDS_TOKEN})
        OR (t.token IS NULL AND t.step || '/' || t.direction || '/' || t.number
            <> ALL(%(keep)s::text[])))
), logged AS (
    INSERT INTO amends.saga_log (saga_id, seq, kind, data)
    SELECT moved.id, %(seq)s + e.n, e.entry->>0, (e.entry->1)::jsonb
    FROM moved, json_array_elements(%(entries)s::json) WITH ORDINALITY AS e(entry, n)
), scheduled AS (
    {_SCHEDULED.format(saga_id="moved.id", patience=RING_PATIENCE_SECONDS)}
    FROM moved, json_to_recordset(%(schedule)s::json) AS a({_SCHEDULE})
    ON CONFLICT (saga_id, step, direction, number) DO UPDATE SET token = excluded.token,
        owner = excluded.owner, lease_until = excluded.lease_until,
        timeout_at = excluded.timeout_at
    WHERE attempt.token IS NULL AND excluded.token IS NOT NULL
)
SELECT id FROM moved
"""

ADVANCE_AND_TELL = ADVANCE.replace(
    "    RETURNING id\n), closed AS (",
    "    RETURNING id, seq, parent_id, parent_step\n), closed AS (",
).replace(
    "SELECT id FROM moved\n",
    """, told AS (
    INSERT INTO amends.signal (definition, key, name, dedup_id, payload)
    SELECT p.definition, p.key, 'child.' || moved.parent_step, moved.id || ':' || moved.seq,
        jsonb_build_object('saga_id', moved.id, 'state', %(state)s::text)
    FROM moved JOIN amends.saga p ON p.id = moved.parent_id
    ON CONFLICT (definition, key, name, dedup_id) DO NOTHING
), released AS (
    DELETE FROM amends.semantic_lock l USING moved
    WHERE %(ended)s AND l.saga_id = moved.id
    RETURNING l.name, l.saga_id
), woken AS (
    UPDATE amends.saga s SET due_at = clock_timestamp()
    FROM released r
    WHERE s.id = (SELECT l.saga_id FROM amends.semantic_lock l
        WHERE l.name = r.name AND l.saga_id <> r.saga_id ORDER BY l.position LIMIT 1)
        AND s.due_at IS NOT NULL
    RETURNING s.id
)
SELECT id FROM moved UNION ALL SELECT id FROM woken
""",
)
"""As `ADVANCE`, for a saga that others wait for: its parent hears of its state, and who is next in
line for its lock is looked at. Returns the saga and whom it woke."""


def _taking_over(statement: str) -> str:
    """Return the same for an attempt whose lease must be over.

    Who waited for the saga's row may find the lease extended meanwhile, which touches the attempt
    alone: so it is looked at with both rows held, saga first.
    """
    return statement.replace(
        "WITH moved AS (",
        f"""WITH locked AS MATERIALIZED (
    SELECT s.id FROM amends.saga s WHERE s.id = %(saga_id)s AND s.seq = %(seq)s FOR UPDATE
), expired AS MATERIALIZED (
    SELECT t.saga_id FROM locked JOIN amends.attempt t ON t.saga_id = locked.id
    WHERE t.step = %(c_step)s AND t.direction = %(c_direction)s AND t.number = %(c_number)s
        AND {HOLDS_TOKEN} AND t.lease_until < clock_timestamp()
    FOR UPDATE OF t
), moved AS (""",
    ).replace("    RETURNING id", "        AND EXISTS (SELECT FROM expired)\n    RETURNING id", 1)


TAKE_OVER = _taking_over(ADVANCE)
TAKE_OVER_AND_TELL = _taking_over(ADVANCE_AND_TELL)

ADVANCE_AND_HURRY = ADVANCE.replace(
    """SET token = excluded.token,
        owner = excluded.owner, lease_until = excluded.lease_until,
        timeout_at = excluded.timeout_at
    WHERE attempt.token IS NULL AND excluded.token IS NOT NULL""",
    """SET due_at = excluded.due_at,
        ring_at = excluded.ring_at, rung_count = attempt.rung_count + excluded.rung_count
    WHERE attempt.token IS NULL""",
)
"""As `ADVANCE`, for attempts that an operator does not let wait for their pause."""

ADVANCE_AND_MIGRATE = ADVANCE.replace(
    "        state = %(state)s,",
    """        state = %(state)s, version = %(version)s, definition_hash = %(definition_hash)s,
        attributes = %(attributes)s::jsonb,""",
)
"""As `ADVANCE`, for a saga that goes on under another version of its definition."""

GRANT = """
UPDATE amends.semantic_lock l SET granted = true
WHERE l.saga_id = %(saga_id)s AND (l.granted OR NOT EXISTS (
    SELECT FROM amends.semantic_lock o WHERE o.name = l.name AND o.saga_id <> l.saga_id
        AND (o.granted OR o.position < l.position)))
RETURNING l.saga_id
"""

DROP_DEAD_LOCKS = """
DELETE FROM amends.semantic_lock l
WHERE l.name = (SELECT m.name FROM amends.semantic_lock m WHERE m.saga_id = %(saga_id)s)
    AND NOT EXISTS (SELECT FROM amends.saga s WHERE s.id = l.saga_id AND s.due_at IS NOT NULL)
RETURNING l.saga_id
"""

NEXT_IN_LINE = """
SELECT l.saga_id FROM amends.semantic_lock l
WHERE l.name = %(name)s ORDER BY l.granted DESC, l.position LIMIT 1
"""

APPEND_OUTCOME = f"""
WITH closed AS (
    DELETE FROM amends.attempt t
    WHERE t.saga_id = %(saga_id)s AND t.step = %(c_step)s AND t.direction = %(c_direction)s
        AND t.number = %(c_number)s AND {HOLDS_TOKEN}
    RETURNING t.saga_id
), moved AS (
    UPDATE amends.saga s SET seq = s.seq + 1, due_at = clock_timestamp(),
        log_format = greatest(s.log_format, %(log_format)s),
        updated_at = clock_timestamp(), last_error = coalesce(%(last_error)s, s.last_error)
    FROM closed WHERE s.id = closed.saga_id
    RETURNING s.id, s.seq
), logged AS (
    INSERT INTO amends.saga_log (saga_id, seq, kind, data)
    SELECT id, seq, %(kind)s, %(data)s::jsonb FROM moved
)
SELECT seq FROM moved
"""

APPEND_FACT = """
WITH moved AS (
    UPDATE amends.saga s SET seq = s.seq + 1, due_at = clock_timestamp(),
        log_format = greatest(s.log_format, %(log_format)s),
        updated_at = clock_timestamp()
    WHERE s.id = %(saga_id)s AND s.state = ANY(%(states)s::text[])
        AND NOT (%(once)s AND EXISTS (SELECT FROM amends.saga_log l
            WHERE l.saga_id = s.id AND l.kind = %(kind)s))
    RETURNING s.id, s.seq
), logged AS (
    INSERT INTO amends.saga_log (saga_id, seq, kind, data)
    SELECT id, seq, %(kind)s, %(data)s::jsonb FROM moved
)
SELECT seq FROM moved
"""

REQUEST_CANCEL = """
WITH moved AS (
    UPDATE amends.saga s SET seq = s.seq + 1, due_at = clock_timestamp(),
        updated_at = clock_timestamp()
    WHERE s.id = %(saga_id)s AND s.state IN ('running', 'waiting')
        AND NOT EXISTS (SELECT FROM amends.saga_log l
            WHERE l.saga_id = s.id AND l.kind = 'CancelRequested')
    RETURNING s.id, s.seq
), logged AS (
    INSERT INTO amends.saga_log (saga_id, seq, kind, data)
    SELECT id, seq, 'CancelRequested',
        jsonb_build_object('reason', %(reason)s::text, 'actor', %(actor)s::text) FROM moved
)
SELECT seq FROM moved
"""

CALL_REQUEST_CANCEL = (
    "SELECT amends.request_cancel(%(saga_id)s::uuid, %(reason)s::text, %(actor)s::text)"
)

RAW_ENTRIES = """
SELECT l.seq, l.kind, l.data::text, extract(epoch FROM l.recorded_at)::float8
FROM amends.saga_log l WHERE l.saga_id = %(saga_id)s AND l.seq > %(after)s ORDER BY l.seq
"""

APPEND_LATE = """
WITH moved AS (
    UPDATE amends.saga s SET seq = s.seq + 1, updated_at = clock_timestamp(),
        log_format = greatest(s.log_format, %(log_format)s)
    WHERE s.id = %(saga_id)s AND s.state = ANY(%(states)s::text[])
        AND NOT EXISTS (SELECT FROM amends.saga_log l
            WHERE l.saga_id = s.id AND l.kind = %(kind)s AND l.data @> %(mark)s::jsonb)
    RETURNING s.id, s.seq, s.definition, s.key, s.state
), logged AS (
    INSERT INTO amends.saga_log (saga_id, seq, kind, data)
    SELECT id, seq, %(kind)s, %(data)s::jsonb FROM moved
), told AS (
    INSERT INTO amends.alert (id, kind, about, saga_id, data, due_at)
    SELECT gen_random_uuid(), 'late_effect', s.id || ':' || s.seq, s.id,
        jsonb_build_object('saga', s.definition, 'key', s.key, 'state', s.state,
            'step', %(step)s::text, 'question', %(question)s::text),
        clock_timestamp()
    FROM moved s WHERE %(question)s::text IS NOT NULL
)
SELECT seq FROM moved
"""
"""A fact about a saga that has ended, and in the same commit the alert that somebody must know."""

OF_STARTED_PARENTS = """
    WHERE (n.parent_id IS NULL OR EXISTS (SELECT FROM amends.saga p
            WHERE p.id = n.parent_id AND p.state IN ('running', 'waiting') FOR SHARE))
        AND NOT EXISTS (SELECT FROM amends.tombstone o"""

START_CHILD, START_LOCKED_CHILD = (
    each.replace("    WHERE NOT EXISTS (SELECT FROM amends.tombstone o", OF_STARTED_PARENTS[1:])
    for each in (START, START_LOCKED)
)
"""As `START`, for sagas that another waits for: only while that goes forward, under the lock of its
row. Whoever takes the parent back meets the child, or the child is not started."""

_ATTEMPTS = """
    (SELECT json_agg(json_build_array(t.step, t.direction, t.number, t.queue, t.token, t.owner,
        coalesce(t.lease_until < clock_timestamp(), false), t.alone,
        extract(epoch FROM t.timeout_for)) ORDER BY t.step, t.direction, t.number)
     FROM amends.attempt t WHERE t.saga_id = %(saga_id)s)
"""

READ = f"""
SELECT {_ROW.format(s="s")}, extract(epoch FROM clock_timestamp())::float8, {_ATTEMPTS}, {_ENTRIES}
FROM amends.saga s WHERE s.id = %(saga_id)s
"""

READ_ON = f"""
SELECT {_ROW.format(s="s")}, extract(epoch FROM clock_timestamp())::float8, {_ATTEMPTS},
    {_ENTRIES_ON}
FROM amends.saga s {_CHECKPOINT.format(s="s")} WHERE s.id = %(saga_id)s
"""
"""As `READ`, without the entries that a checkpoint stands for."""

KEEP_CHECKPOINT = """
INSERT INTO amends.checkpoint AS c (saga_id, form, seq, state)
SELECT s.id, %(form)s, %(seq)s, %(state)s::json FROM amends.saga s
WHERE s.id = %(saga_id)s AND s.seq >= %(seq)s
FOR KEY SHARE OF s
ON CONFLICT (saga_id, form) DO UPDATE SET seq = excluded.seq, state = excluded.state,
    written_at = clock_timestamp()
WHERE c.seq <= excluded.seq
RETURNING seq
"""

HAS = """
SELECT EXISTS (SELECT FROM amends.saga_log l
    WHERE l.saga_id = %(saga_id)s AND l.kind = %(kind)s AND l.data @> %(data)s::jsonb)
"""

ENTRIES = f"SELECT {_ENTRIES}"

PUT_OFF = """
UPDATE amends.attempt t SET rung_count = 0, put_off_at = coalesce(t.put_off_at, t.due_at),
    due_at = clock_timestamp() + make_interval(secs => %(pause)s),
    ring_at = clock_timestamp() + make_interval(secs => %(pause)s)
WHERE t.saga_id = %(saga_id)s AND t.step = %(step)s AND t.direction = %(direction)s
    AND t.number = %(number)s AND t.token IS NULL AND t.due_at <= clock_timestamp()
RETURNING t.saga_id
"""

HOLDER = """
SELECT t.token = %(token)s FROM amends.attempt t
WHERE t.saga_id = %(saga_id)s AND t.step = %(step)s AND t.direction = %(direction)s
    AND t.number = %(number)s
"""

EXTEND = """
WITH old AS (
    SELECT t.saga_id, t.step, t.direction, t.number FROM amends.attempt t
    WHERE t.saga_id = ANY(%(saga_ids)s::uuid[]) AND t.token = ANY(%(tokens)s::uuid[])
        AND t.lease_until < least(t.timeout_at,
            clock_timestamp() + make_interval(secs => %(lease)s::float8 * 2 / 3))
    FOR UPDATE SKIP LOCKED
), extended AS (
    UPDATE amends.attempt t
    SET lease_until = least(clock_timestamp() + make_interval(secs => %(lease)s), t.timeout_at)
    FROM old
    WHERE (t.saga_id, t.step, t.direction, t.number)
        = (old.saga_id, old.step, old.direction, old.number)
    RETURNING t.token, t.lease_until
)
SELECT t.token,
    extract(epoch FROM coalesce(e.lease_until, t.lease_until) - clock_timestamp())::float8
FROM amends.attempt t LEFT JOIN extended e ON e.token = t.token
WHERE t.saga_id = ANY(%(saga_ids)s::uuid[]) AND t.token = ANY(%(tokens)s::uuid[])
"""
