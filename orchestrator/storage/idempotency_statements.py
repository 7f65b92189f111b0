"""The statements of the idempotency store: each is one transition of a record and one commit.

`idempotency.py` says what each promises. A record is *free* when it has expired, or when its caller
is gone and running the same call again does no harm. Released records are expired ones.
"""

from __future__ import annotations

_AT = "i.scope = %(scope)s AND i.key = %(key)s"

_RECORD = """
    i.scope, i.key, i.fingerprint,
    CASE WHEN i.state = 'in_progress' AND i.lease_until < clock_timestamp() THEN 'unknown'
        ELSE i.state END,
    i.token, i.owner, extract(epoch FROM i.lease_until - clock_timestamp())::float8,
    i.result, i.error, i.claimed_at, i.ended_at, i.expires_at, i.settled_by, i.settled_because
"""

_FREE = """
    (coalesce(i.expires_at <= clock_timestamp(), false)
        OR (i.state = 'in_progress' AND i.lease_until < clock_timestamp() AND i.repeatable
            AND %(repeatable)s AND i.fingerprint = %(fingerprint)s))
"""

_LAPSED = "(i.state = 'in_progress' AND i.lease_until < clock_timestamp())"

OWNS = "i.token = %(token)s"
"""The fence: only who holds the key's token may say how the call ended."""

_WHOLE = """
    fingerprint = excluded.fingerprint, state = excluded.state, repeatable = excluded.repeatable,
    token = excluded.token, owner = excluded.owner, lease_until = excluded.lease_until,
    timeout_at = excluded.timeout_at, keep_for = excluded.keep_for, result = excluded.result,
    error = excluded.error, claimed_at = excluded.claimed_at, ended_at = excluded.ended_at,
    expires_at = excluded.expires_at, settled_by = NULL, settled_because = NULL
"""
"""Everything: an expired record leaves nothing behind."""

CLAIM = f"""
WITH seen AS (
    SELECT i.*, {_FREE} AS is_free FROM amends.idempotency_record i WHERE {_AT}
), claimed AS (
    INSERT INTO amends.idempotency_record AS i (scope, key, fingerprint, state, repeatable, token,
        owner, lease_until, timeout_at, keep_for, claimed_at, expires_at)
    SELECT %(scope)s, %(key)s, %(fingerprint)s, 'in_progress', %(repeatable)s, %(token)s,
        %(owner)s, clock_timestamp() + make_interval(secs => least(%(lease)s, %(timeout)s)),
        clock_timestamp() + make_interval(secs => %(timeout)s),
        make_interval(secs => %(keep)s), clock_timestamp(),
        CASE WHEN %(repeatable)s
            THEN clock_timestamp() + make_interval(secs => %(timeout)s + %(keep)s) END
    WHERE NOT EXISTS (SELECT FROM seen WHERE NOT is_free)
    ON CONFLICT (scope, key) DO UPDATE SET {_WHOLE}
    WHERE {_FREE}
    RETURNING i.*
)
SELECT {_RECORD} FROM claimed i
UNION ALL
SELECT {_RECORD} FROM seen i WHERE NOT is_free AND NOT EXISTS (SELECT FROM claimed)
"""

FINISH = f"""
WITH ended AS (
    UPDATE amends.idempotency_record i SET state = %(state)s, result = %(result)s::json,
        error = %(error)s::json, lease_until = NULL, timeout_at = NULL,
        ended_at = clock_timestamp(),
        expires_at = CASE WHEN %(state)s <> 'unknown' THEN clock_timestamp()
            + CASE WHEN %(released)s THEN interval '0' ELSE i.keep_for END END
    WHERE {_AT} AND {OWNS} AND (i.state = 'in_progress'
        OR (%(state)s = 'succeeded' AND i.state = 'failed' AND i.settled_by IS NOT NULL))
    RETURNING i.*
)
SELECT {_RECORD} FROM ended i
UNION ALL
SELECT {_RECORD} FROM amends.idempotency_record i
WHERE {_AT} AND NOT EXISTS (SELECT FROM ended)
"""

EXTEND = """
WITH due AS (
    SELECT i.scope, i.key, c.lease FROM amends.idempotency_record i
    JOIN unnest(%(scopes)s::text[], %(keys)s::text[], %(tokens)s::uuid[], %(leases)s::float8[])
        AS c(scope, key, token, lease) ON (c.scope, c.key, c.token) = (i.scope, i.key, i.token)
    WHERE i.state = 'in_progress' AND i.lease_until < i.timeout_at
    FOR UPDATE OF i SKIP LOCKED
)
UPDATE amends.idempotency_record i
SET lease_until = least(clock_timestamp() + make_interval(secs => due.lease), i.timeout_at)
FROM due WHERE (due.scope, due.key) = (i.scope, i.key)
"""

SETTLE = f"""
WITH settled AS (
    UPDATE amends.idempotency_record i SET state = %(state)s, result = %(result)s::json,
        error = %(error)s::json, lease_until = NULL, timeout_at = NULL,
        ended_at = clock_timestamp(),
        expires_at = clock_timestamp()
            + CASE WHEN %(released)s THEN interval '0' ELSE i.keep_for END,
        settled_by = %(by)s, settled_because = %(because)s
    WHERE {_AT} AND (i.state = 'unknown' OR {_LAPSED})
        AND i.token = coalesce(%(seen)s::uuid, i.token)
    RETURNING i.*
), told AS (
    INSERT INTO amends.idempotency_settlement
        (scope, key, token, outcome, settled_by, settled_because)
    SELECT scope, key, token, CASE WHEN %(released)s THEN 'released' ELSE state END,
        settled_by, settled_because
    FROM settled
)
SELECT {_RECORD} FROM settled i
"""

SETTLEMENTS = """
SELECT scope, key, token, outcome, settled_by, settled_because, settled_at
FROM amends.idempotency_settlement ORDER BY settled_at DESC LIMIT %(limit)s
"""

READ = f"""
SELECT {_RECORD} FROM amends.idempotency_record i
WHERE {_AT} AND (i.expires_at > clock_timestamp() OR i.expires_at IS NULL)
"""

UNKNOWN = f"""
SELECT {_RECORD} FROM amends.idempotency_record i
WHERE i.expires_at IS NULL AND (i.state = 'unknown' OR {_LAPSED})
ORDER BY i.claimed_at LIMIT %(limit)s
"""

PRUNE = "SELECT amends.prune_idempotency_records(%(limit)s)"

LOCK = """
SELECT pg_try_advisory_xact_lock(hashtextextended(%(scope)s || chr(31) || %(key)s, 0))
"""

WRITE = f"""
INSERT INTO amends.idempotency_record AS i (scope, key, fingerprint, state, repeatable, token,
    owner, keep_for, result, error, claimed_at, ended_at, expires_at)
VALUES (%(scope)s, %(key)s, %(fingerprint)s, %(state)s, %(repeatable)s, %(token)s, %(owner)s,
    make_interval(secs => %(keep)s), %(result)s::json, %(error)s::json, clock_timestamp(),
    clock_timestamp(), clock_timestamp() + make_interval(secs => %(keep)s))
ON CONFLICT (scope, key) DO UPDATE SET {_WHOLE}
WHERE {_FREE}
RETURNING {_RECORD}
"""
