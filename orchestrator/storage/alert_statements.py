"""The SQL of alerts. `alerts.py` says what each statement promises; here is how.

With nothing to tell, each costs a look into a partial index that is empty. The clock is asked once
per statement: one that ticks while Postgres reads cannot be sought in an index.
"""

from __future__ import annotations

FIRST_PAUSE_SECONDS = 60.0
"""An alert is sent again after this long, then after twice as long each time."""

LONGEST_PAUSE_SECONDS = 21_600.0

RAISED_AT_ONCE = 1000
LONG_AGO_SECONDS = 1e9

MOVED_ON = "moved on"
"""Who closed an alert whose reason is gone."""

_COLUMNS = (
    "id, kind, about, saga_id, data, raised_at, due_at, send_count, sent_at, last_error, "
    "closed_at, closed_by"
)
_OF_A = ", ".join(f"a.{each}" for each in _COLUMNS.split(", "))

_INSERT = "INSERT INTO amends.alert (id, kind, about, saga_id, data, due_at)"
_ONCE = f"ON CONFLICT (about, kind) DO NOTHING RETURNING {_COLUMNS}"
_SAGA = "'saga', s.definition, 'key', s.key, 'state', s.state"

_PARKED_AT = """
    SELECT l.seq, l.data FROM amends.saga_log l
    WHERE l.saga_id = s.id AND l.kind = 'SagaParked' ORDER BY l.seq DESC LIMIT 1
"""

_IS_PARKED = "(s.state = 'failed_compensation' OR s.state = 'stuck')"
"""Spelled as in the partial index `saga_parked`: most of the time it holds nothing."""

_CHANGED = "s.updated_at > (SELECT clock_timestamp()) - make_interval(secs => %(changed)s)"

# The parked ones first, whatever the planner thinks: by id it would read every saga there is. Then
# in order, so that two processes that raise the same wait for each other in one direction. An entry
# begins one alert only, so `about` alone finds it.
RAISE_PARKED = f"""
WITH parked AS MATERIALIZED (SELECT * FROM amends.saga s WHERE {_IS_PARKED} AND {_CHANGED})
{_INSERT}
SELECT gen_random_uuid(), 'saga_parked', s.id || ':' || p.seq, s.id,
    jsonb_build_object({_SAGA}, 'reason', p.data->'reason', 'question', p.data->'question',
        'steps', coalesce(p.data->'steps', '[]')),
    clock_timestamp()
FROM parked s CROSS JOIN LATERAL ({_PARKED_AT}) p
WHERE NOT EXISTS (SELECT FROM amends.alert a WHERE a.about = s.id || ':' || p.seq)
ORDER BY s.id LIMIT {RAISED_AT_ONCE}
{_ONCE}
"""

RAISE_UNKNOWN = f"""
{_INSERT}
SELECT gen_random_uuid(), 'unknown_too_long', s.id || ':' || %(seq)s::int, s.id,
    jsonb_build_object({_SAGA}, 'step', %(step)s::text, 'direction', %(direction)s::text,
        'since', %(since)s::timestamptz),
    clock_timestamp()
FROM amends.saga s
WHERE s.id = %(saga_id)s AND %(since)s < clock_timestamp() - make_interval(secs => %(age)s)
{_ONCE}
"""

_IS_OVERDUE = "s.due_at < (SELECT clock_timestamp()) - make_interval(secs => %(age)s)"

RAISE_OVERDUE = f"""
{_INSERT}
SELECT gen_random_uuid(), 'saga_overdue', 'sagas', s.id,
    jsonb_build_object({_SAGA}, 'due_at', s.due_at), clock_timestamp()
FROM amends.saga s WHERE {_IS_OVERDUE} ORDER BY s.due_at LIMIT 1
{_ONCE}
"""

_SWEEPER_SEEN = (
    "EXISTS (SELECT FROM amends.process p WHERE p.kind = 'sweeper' "
    "AND p.seen_at > clock_timestamp() - make_interval(secs => %(age)s))"
)

RAISE_SILENT = f"""
{_INSERT}
SELECT gen_random_uuid(), 'sweeper_silent', 'sweepers', NULL,
    jsonb_build_object('last_seen_at',
        (SELECT max(p.seen_at) FROM amends.process p WHERE p.kind = 'sweeper')),
    clock_timestamp()
WHERE NOT {_SWEEPER_SEEN}
{_ONCE}
"""

RAISE_UNSERVED = f"""
{_INSERT}
VALUES (gen_random_uuid(), 'queue_unserved', %(about)s, NULL, %(data)s, clock_timestamp())
{_ONCE}
"""

HAS_UNSERVED = """
SELECT FROM amends.alert WHERE about = %(about)s AND kind = 'queue_unserved'
"""

RAISE_DISCREPANCY = f"""
{_INSERT}
SELECT gen_random_uuid(), 'discrepancy', %(about)s, %(saga_id)s::uuid,
    coalesce((SELECT jsonb_build_object({_SAGA}) FROM amends.saga s WHERE s.id = %(saga_id)s::uuid),
        '{{}}') || %(data)s::jsonb,
    clock_timestamp()
{_ONCE}
"""

IS_SWEPT = f"SELECT {_SWEEPER_SEEN}"

_CLOSED = f"due_at = NULL, closed_at = clock_timestamp(), closed_by = '{MOVED_ON}'"

CLOSE_PARKED = f"""
WITH picked AS (
    SELECT a.id FROM amends.alert a
    WHERE a.due_at IS NOT NULL AND a.kind = 'saga_parked' AND NOT EXISTS (
        SELECT FROM amends.saga s WHERE s.id = a.saga_id AND {_IS_PARKED}
            AND (NOT {_CHANGED} OR a.about = s.id || ':' || (SELECT p.seq FROM ({_PARKED_AT}) p)))
    FOR UPDATE OF a SKIP LOCKED
)
UPDATE amends.alert a SET {_CLOSED} FROM picked WHERE a.id = picked.id RETURNING {_OF_A}
"""

CLOSE = f"""
UPDATE amends.alert SET {_CLOSED}
WHERE id = ANY(%(ids)s::uuid[]) AND due_at IS NOT NULL RETURNING {_COLUMNS}
"""

_OVER = f"""
UPDATE amends.alert SET about = about || ' until ' || clock_timestamp(), due_at = NULL,
    closed_at = coalesce(closed_at, clock_timestamp()),
    closed_by = coalesce(closed_by, '{MOVED_ON}')
"""

CLOSE_OVERDUE = f"""
{_OVER}
WHERE about = 'sagas' AND kind = 'saga_overdue' AND (SELECT {_IS_OVERDUE} FROM amends.saga s
    WHERE s.due_at IS NOT NULL ORDER BY s.due_at LIMIT 1) IS NOT TRUE
RETURNING {_COLUMNS}
"""

CLOSE_SILENT = f"""
{_OVER}
WHERE about = 'sweepers' AND kind = 'sweeper_silent' AND {_SWEEPER_SEEN}
RETURNING {_COLUMNS}
"""

CLOSE_UNSERVED = f"""
{_OVER}
WHERE kind = 'queue_unserved' AND (due_at IS NOT NULL OR closed_by <> '{MOVED_ON}')
    AND about NOT LIKE '%% until %%' AND about <> ALL(%(abouts)s::text[])
RETURNING {_COLUMNS}
"""

CLOSE_DISCREPANCIES = f"""
{_OVER}
WHERE about = ANY(%(abouts)s::text[]) AND kind = 'discrepancy'
RETURNING {_COLUMNS}
"""

# Whatever is to settle an outcome, another attempt or a probe, is always written down.
MAY_BE_UNSETTLED = """
WITH tried AS MATERIALIZED (
    SELECT DISTINCT t.saga_id FROM amends.attempt t
    WHERE (t.number > 1 OR t.direction IN ('probe', 'probe_undo')) AND t.saga_id > %(after)s
    ORDER BY t.saga_id LIMIT %(limit)s
)
SELECT tried.saga_id, EXISTS (SELECT FROM amends.saga s
    JOIN amends.saga_log l ON l.saga_id = s.id AND l.kind = 'StepUnknown'
        AND l.recorded_at < clock_timestamp() - make_interval(secs => %(age)s)
    WHERE s.id = tried.saga_id AND s.state IN ('running', 'compensating')
        AND s.created_at < clock_timestamp() - make_interval(secs => %(age)s))
FROM tried ORDER BY tried.saga_id
"""

LATE_EFFECTS = """
WITH open AS MATERIALIZED (
    SELECT a.id, a.saga_id FROM amends.alert a
    WHERE a.due_at IS NOT NULL AND a.kind = 'late_effect'
)
SELECT open.id, s.id FROM open JOIN amends.saga s ON s.id = open.saga_id
WHERE s.state <> 'resolved' AND s.definition_hash = ANY(%(hashes)s::text[])
ORDER BY open.id LIMIT 200
"""

OPEN = f"""
WITH open AS MATERIALIZED (
    SELECT {_COLUMNS} FROM amends.alert WHERE due_at IS NOT NULL AND kind = %(kind)s
)
SELECT {_COLUMNS} FROM open WHERE id > %(after)s ORDER BY id LIMIT %(limit)s
"""

TAKE = f"""
WITH picked AS (
    SELECT a.id FROM amends.alert a
    WHERE a.due_at <= (SELECT clock_timestamp()) AND a.kind = ANY(%(kinds)s::text[])
    ORDER BY a.due_at LIMIT 1
    FOR UPDATE SKIP LOCKED
)
UPDATE amends.alert a SET send_count = a.send_count + 1,
    due_at = clock_timestamp() + make_interval(secs =>
        least({FIRST_PAUSE_SECONDS} * 2.0 ^ least(a.send_count, 16), {LONGEST_PAUSE_SECONDS}))
FROM picked WHERE a.id = picked.id
RETURNING {_OF_A}
"""

NOTE = """
UPDATE amends.alert SET last_error = %(error)s,
    sent_at = CASE WHEN %(error)s::text IS NULL THEN clock_timestamp() ELSE sent_at END
WHERE id = %(id)s AND send_count = %(send_count)s
"""

ACKNOWLEDGE = f"""
UPDATE amends.alert SET due_at = NULL, closed_at = clock_timestamp(), closed_by = %(actor)s,
    data = data || jsonb_build_object('acknowledged', %(reason)s::text)
WHERE id = %(id)s AND due_at IS NOT NULL
RETURNING {_COLUMNS}
"""

FIND = f"""
SELECT {_COLUMNS} FROM amends.alert
WHERE due_at IS NOT NULL OR %(closed)s ORDER BY raised_at DESC, id LIMIT %(limit)s
"""

BY_PREFIX = f"SELECT {_COLUMNS} FROM amends.alert WHERE id BETWEEN %(low)s AND %(high)s LIMIT 2"
