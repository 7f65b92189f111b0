"""The SQL of what was found. `findings.py` says what each statement promises."""

from __future__ import annotations

from recovery.reconciliation.storage.comparison_statements import FOUND

GONE = "a later run"
"""Who closed a row that is not found any more."""

_VALUES = (
    "internal_minor, internal_currency, internal_status, "
    "gateway_minor, gateway_currency, gateway_status, why"
)
_KNOWN = ", ".join(f"d.{each}" for each in _VALUES.split(", "))
_AGAIN = ", ".join(f"excluded.{each}" for each in _VALUES.split(", "))

NEXT_RUN = """
SELECT coalesce(max(run_count), 0) + 1 FROM reconciliation.run
WHERE gateway = %(gateway)s AND day = %(day)s
"""

KEEP = f"""
INSERT INTO reconciliation.discrepancy AS d (gateway, day, type, kind, name, side,
    internal_minor, internal_currency, internal_status,
    gateway_minor, gateway_currency, gateway_status,
    payment_reference, order_reference, key, saga_id, step, why, found_run)
SELECT %(gateway)s, %(day)s, f.*, %(run)s
FROM ({FOUND}) f
ON CONFLICT (gateway, day, type, kind, name) DO UPDATE SET
    ({_VALUES}) = ROW({_AGAIN}),
    payment_reference = excluded.payment_reference, order_reference = excluded.order_reference,
    key = excluded.key, saga_id = coalesce(d.saga_id, excluded.saga_id),
    step = coalesce(d.step, excluded.step), found_run = excluded.found_run,
    (state, version, closed_at, closed_by, reason) = (SELECT
        CASE WHEN n.reopens THEN 'open' ELSE d.state END,
        d.version + CASE WHEN n.reopens AND d.state <> 'open' THEN 1 ELSE 0 END,
        CASE WHEN n.reopens THEN NULL ELSE d.closed_at END,
        CASE WHEN n.reopens THEN NULL ELSE d.closed_by END,
        CASE WHEN n.reopens THEN NULL ELSE d.reason END
        FROM (SELECT d.state IN ('open', 'gone') OR d.state = 'acted' AND d.act_count < 2
            OR ({_KNOWN}) IS DISTINCT FROM ({_AGAIN}) AS reopens) n),
    (act_count, last_error) = (SELECT
        CASE WHEN n.is_news THEN 0 ELSE d.act_count END,
        CASE WHEN n.is_news THEN NULL ELSE d.last_error END
        FROM (SELECT d.state = 'gone' OR ({_KNOWN}) IS DISTINCT FROM ({_AGAIN}) AS is_news) n)
"""

LEAVE = f"""
UPDATE reconciliation.discrepancy SET state = 'gone', version = version + 1,
    closed_at = clock_timestamp(), closed_by = '{GONE}'
WHERE gateway = %(gateway)s AND day = %(day)s AND closed_at IS NULL AND found_run < %(run)s
"""

END = """
INSERT INTO reconciliation.run AS r (gateway, day, run_count, matched_count, unjudged_count)
VALUES (%(gateway)s, %(day)s, %(run)s, %(matched)s, %(unjudged)s)
ON CONFLICT (gateway, day) DO UPDATE SET run_count = excluded.run_count,
    matched_count = excluded.matched_count, unjudged_count = excluded.unjudged_count,
    ended_at = clock_timestamp()
"""

FOUND_COLUMNS = (
    "type, kind, name, side, internal_minor, internal_currency, internal_status, gateway_minor, "
    "gateway_currency, gateway_status, payment_reference, order_reference, key, saga_id, step, why"
)
_LIFE = (
    "id, gateway, day, state, version, found_at, acted_at, act_count, action, last_error, "
    "closed_at, closed_by, reason, history"
)
_ROW = f"{_LIFE}, {FOUND_COLUMNS}"

TO_ACT = f"""
SELECT {_ROW} FROM reconciliation.discrepancy
WHERE gateway = %(gateway)s AND day = %(day)s AND state = 'open'
    AND (name COLLATE "C", kind COLLATE "C", type COLLATE "C") > (%(name)s, %(kind)s, %(type)s)
ORDER BY name COLLATE "C", kind COLLATE "C", type COLLATE "C" LIMIT %(limit)s
"""

ACTED = """
UPDATE reconciliation.discrepancy SET state = 'acted', version = version + 1,
    acted_at = clock_timestamp(), act_count = act_count + 1, action = %(action)s,
    last_error = NULL, saga_id = coalesce(%(saga_id)s, saga_id)
WHERE id = %(id)s AND version = %(version)s AND state = 'open'
"""

FAILED = """
UPDATE reconciliation.discrepancy SET last_error = %(error)s
WHERE id = %(id)s AND version = %(version)s
"""

CLOSE = f"""
UPDATE reconciliation.discrepancy SET state = %(state)s, version = version + 1,
    closed_at = clock_timestamp(), closed_by = %(actor)s, reason = %(reason)s,
    history = history || jsonb_build_object('state', %(state)s::text, 'actor', %(actor)s::text,
        'reason', %(reason)s::text, 'at', clock_timestamp())
WHERE id = %(id)s AND version = %(version)s AND closed_at IS NULL
RETURNING {_ROW}
"""

FIND = f"""
SELECT {_ROW} FROM reconciliation.discrepancy
WHERE (%(gateway)s::text IS NULL OR gateway = %(gateway)s)
    AND (%(day)s::date IS NULL OR day = %(day)s)
    AND (%(closed_too)s OR closed_at IS NULL)
ORDER BY day DESC, gateway, name COLLATE "C", kind COLLATE "C", type COLLATE "C"
LIMIT %(limit)s
"""

BY_PREFIX = f"""
SELECT {_ROW} FROM reconciliation.discrepancy WHERE id BETWEEN %(low)s AND %(high)s LIMIT 2
"""

COUNTS = """
SELECT type, count(*) FROM reconciliation.discrepancy d JOIN reconciliation.run r
    USING (gateway, day)
WHERE gateway = %(gateway)s AND day = %(day)s AND (closed_at IS NULL OR NOT %(open_only)s)
    AND found_run = run_count
GROUP BY type ORDER BY type COLLATE "C"
"""

RUN = """
SELECT gateway, day, run_count, matched_count, unjudged_count, ended_at
FROM reconciliation.run WHERE gateway = %(gateway)s AND day = %(day)s
"""

MISSED = """
SELECT o.day FROM (SELECT %(before)s::date - n AS day FROM generate_series(1, %(days)s) n) o
WHERE o.day > (SELECT min(r.day) FROM reconciliation.run r WHERE r.gateway = %(gateway)s)
    AND NOT EXISTS (
        SELECT FROM reconciliation.run r WHERE r.gateway = %(gateway)s AND r.day = o.day)
ORDER BY o.day DESC LIMIT 1
"""

WAITING = """
SELECT DISTINCT day FROM reconciliation.discrepancy
WHERE gateway = %(gateway)s AND state = 'open' AND closed_at IS NULL
    AND day <= %(latest)s AND day >= %(latest)s::date - %(days)s::integer
ORDER BY day
"""

CLOSED_IDS = """
SELECT id FROM reconciliation.discrepancy
WHERE gateway = %(gateway)s AND day = %(day)s AND closed_at IS NOT NULL
    AND (acted_at IS NOT NULL OR last_error IS NOT NULL OR reason IS NOT NULL)
"""
"""A person may have closed one that was just being told of, and was not noted as acted upon."""

LOCK = "SELECT pg_try_advisory_lock(hashtext('amends.reconciliation'), hashtext(%(of)s))"
NOW = "SELECT clock_timestamp()"
