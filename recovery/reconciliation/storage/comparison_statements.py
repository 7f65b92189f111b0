"""The SQL of a comparison. `comparison.py` says what each statement is for; here is how.

    report ──COPY──▶ gateway ┐
                             ├─▶ pair: one row per (kind, reference) of the day ─▶ FOUND
    saga log ─▶ candidate ─▶ internal ┘

A movement is of the day when the gateway says so; where it says nothing, when our log does.
"""

from __future__ import annotations

TABLES = """
CREATE TEMPORARY TABLE internal (
    place bigint GENERATED ALWAYS AS IDENTITY, kind text COLLATE "C", reference text COLLATE "C",
    amount_minor bigint, currency text, status text, at timestamptz, payment_reference text,
    order_reference text, key text, why text, saga_id uuid, step text, failed_at timestamptz,
    pruned boolean
);
CREATE TEMPORARY TABLE gateway (LIKE internal INCLUDING IDENTITY);
CREATE TEMPORARY TABLE candidate (
    place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id uuid NOT NULL, key text NOT NULL
);
CREATE TEMPORARY TABLE pair (
    kind text COLLATE "C", reference text COLLATE "C",
    i_minor bigint, i_currency text, i_status text, i_told bigint,
    g_minor bigint, g_currency text, g_status text, g_told bigint,
    payment_reference text, order_reference text, key text, saga_id uuid, step text,
    ours boolean, theirs boolean, failed_later boolean, unjudged boolean
);
SET statement_timeout = 0;
SET work_mem = '64MB';
"""

COPY = """
COPY {side} (kind, reference, amount_minor, currency, status, at, payment_reference,
    order_reference, key, why)
FROM STDIN
"""

CANDIDATES = """
INSERT INTO candidate (id, key)
SELECT s.id, s.key FROM amends.saga s
WHERE s.created_at < %(end)s::timestamptz + %(margin)s
    AND s.updated_at >= %(start)s::timestamptz - %(margin)s
    AND (%(sagas)s::text[] IS NULL OR s.definition = ANY(%(sagas)s::text[]))
ORDER BY s.id
"""
"""A saga's row changes with every entry of its log, so these are all that moved money that day.

`saga_log` has no index by time, and needs none: the sagas' rows are narrow, and few of them.
"""

_LOST = """
SELECT g.* FROM gateway g WHERE g.why IS NULL
    AND g.at >= %(start)s::timestamptz - %(margin)s AND g.at < %(end)s::timestamptz + %(margin)s
    AND NOT EXISTS (SELECT FROM internal i WHERE i.kind = g.kind AND i.reference = g.reference)
"""
"""Of the day before the whole report is there; what is lost of it was looked for with its day."""

NAMED = f"""
WITH lost AS MATERIALIZED (
    SELECT DISTINCT order_reference AS name FROM ({_LOST}) l WHERE order_reference IS NOT NULL
), named AS (
    SELECT s.id, s.key, s.definition FROM lost JOIN amends.saga s ON s.key = lost.name
    UNION
    SELECT s.id, s.key, s.definition FROM lost JOIN amends.saga s
        ON s.attributes @> jsonb_build_object('order_id', lost.name)
)
INSERT INTO candidate (id, key)
SELECT id, key FROM named
WHERE (%(sagas)s::text[] IS NULL OR definition = ANY(%(sagas)s::text[]))
    AND NOT EXISTS (SELECT FROM candidate c WHERE c.id = named.id)
ORDER BY id
"""
"""What we wrote down much later than the gateway: its report names the order."""

PRUNED = f"""
WITH lost AS MATERIALIZED (SELECT place, reference FROM ({_LOST}) l)
UPDATE gateway SET pruned = true, saga_id = found.saga_id
FROM (SELECT lost.place, t.saga_id FROM lost JOIN (
    SELECT t.saga_id, r.name FROM amends.tombstone t CROSS JOIN unnest(t.references) AS r(name)
) t ON t.name = lost.reference) AS found
WHERE gateway.place = found.place
"""

ADOPT = f"""
WITH lost AS MATERIALIZED (
    SELECT place, order_reference FROM ({_LOST}) l WHERE saga_id IS NULL
), named AS (
    SELECT lost.place, min(s.id::text)::uuid AS saga_id
    FROM lost JOIN amends.saga s ON s.key = lost.order_reference
    GROUP BY lost.place HAVING count(*) = 1
)
UPDATE gateway SET saga_id = named.saga_id FROM named WHERE gateway.place = named.place
"""
"""Whose order it is, where that is plain."""

PROJECT = """
WITH sagas AS MATERIALIZED (
    SELECT id, key FROM candidate WHERE place > %(after)s AND place <= %(upto)s
), told AS (
    SELECT l.saga_id, l.seq, l.recorded_at, l.data->>'step' AS step,
        l.kind IN ('StepSucceeded', 'StepSettled', 'StepProbed')
            AND l.data->>'direction' IN ('compensate', 'probe_undo') AS is_undo,
        m.value->>'kind' AS kind, m.value->>'currency' AS currency,
        m.value->>'reference' AS reference, (m.value->>'amount_minor')::numeric AS amount_minor,
        coalesce(m.value->>'reference', m.ordinality::text) AS name,
        l.data->'result'->>'status' = 'expired' AND m.value->>'kind' = 'void' AS has_lapsed
    FROM sagas s JOIN amends.saga_log l ON l.saga_id = s.id
    CROSS JOIN LATERAL jsonb_array_elements(
        CASE jsonb_typeof(l.data->'movements') WHEN 'array' THEN l.data->'movements' ELSE '[]' END
    ) WITH ORDINALITY m
    WHERE m.value->>'kind' IN ('authorize', 'capture', 'void', 'refund') AND (
        l.kind = 'StepSucceeded' AND l.data->>'direction' IN ('forward', 'compensate')
        OR l.kind = 'LateOutcomeRecorded' AND l.data->>'direction' = 'forward'
            AND l.data->>'outcome' = 'succeeded'
        OR l.kind IN ('StepSettled', 'StepProbed') AND (l.data->>'landed')::boolean
            AND (l.data->>'unverified') IS DISTINCT FROM 'true'
        OR l.kind = 'EffectReported')
), movements AS (
    SELECT saga_id, step, kind, currency, reference, min(recorded_at) AS at, max(seq) AS seq,
        (array_agg(amount_minor ORDER BY seq DESC))[1] AS amount_minor, bool_or(is_undo) AS is_undo,
        bool_or(has_lapsed) AS has_lapsed
    FROM told GROUP BY saga_id, step, kind, currency, reference, name
), failed AS (
    SELECT l.saga_id, l.seq, l.recorded_at, l.data->>'step' AS step,
        l.data->>'reference' AS reference
    FROM sagas s JOIN amends.saga_log l ON l.saga_id = s.id WHERE l.kind = 'UndoFailed'
)
INSERT INTO internal (kind, reference, amount_minor, currency, status, at, order_reference, why,
    saga_id, step, failed_at)
SELECT m.kind, m.reference,
    CASE WHEN m.amount_minor BETWEEN 0 AND 9223372036854775807 THEN m.amount_minor END, m.currency,
    CASE WHEN m.has_lapsed THEN 'lapsed' WHEN f.at IS NULL THEN 'moved' ELSE 'failed' END, m.at,
    s.key,
    CASE WHEN m.reference IS NULL THEN 'no reference'
        WHEN m.amount_minor IS NULL OR m.amount_minor NOT BETWEEN 0 AND 9223372036854775807
            THEN 'the amount is no number of minor units'
        WHEN m.currency IS NULL THEN 'no currency of three capital letters' END,
    m.saga_id, m.step, f.at
FROM movements m JOIN sagas s ON s.id = m.saga_id
CROSS JOIN LATERAL (
    SELECT min(f.recorded_at) AS at FROM failed f
    WHERE m.is_undo AND f.saga_id = m.saga_id AND f.step = m.step AND f.seq > m.seq
        AND (f.reference = m.reference OR NOT EXISTS (
            SELECT FROM movements o WHERE o.is_undo AND o.saga_id = m.saga_id AND o.step = m.step
                AND o.reference = f.reference))
) f
ORDER BY m.saga_id, m.seq, m.kind, m.reference
"""
"""`orchestrator.books.movements` in SQL; a test holds the two to each other."""

PAIR = """
WITH i AS (
    SELECT *, row_number() OVER w AS nth, count(*) OVER name AS told,
        bool_or(at >= %(start)s AND at < %(end)s) OVER name AS of_day
    FROM internal WHERE why IS NULL
    WINDOW name AS (PARTITION BY kind, reference), w AS (name ORDER BY place)
), g AS (
    SELECT *, row_number() OVER w AS nth,
        greatest(count(*) FILTER (WHERE NOT failed_refund) OVER name,
            count(*) FILTER (WHERE failed_refund) OVER name) AS told,
        bool_or(at >= %(start)s AND at < %(end)s) OVER name AS of_day
    FROM (SELECT *, kind = 'refund' AND status = 'failed' AS failed_refund
        FROM gateway WHERE why IS NULL) AS valid
    WINDOW name AS (PARTITION BY kind, reference), w AS (name ORDER BY failed_refund DESC, place)
)
INSERT INTO pair
SELECT coalesce(i.kind, g.kind), coalesce(i.reference, g.reference),
    i.amount_minor, i.currency, i.status, i.told, g.amount_minor, g.currency, g.status, g.told,
    g.payment_reference, coalesce(g.order_reference, i.order_reference), g.key,
    coalesce(i.saga_id, g.saga_id), i.step,
    i.nth IS NOT NULL, g.nth IS NOT NULL,
    coalesce(i.failed_at >= %(end)s, false),
    CASE WHEN i.nth IS NULL THEN coalesce(g.pruned, false)
        WHEN g.nth IS NULL THEN NOT %(before)s AND i.at < %(start)s::timestamptz + %(margin)s
            OR NOT %(after)s AND i.at >= %(end)s::timestamptz - %(margin)s
        ELSE false END
FROM (SELECT * FROM i WHERE nth = 1) i
FULL JOIN (SELECT * FROM g WHERE nth = 1) g ON g.kind = i.kind AND g.reference = i.reference
WHERE CASE WHEN g.nth IS NULL THEN i.of_day ELSE g.of_day END
"""
"""A refund and its failure are one thing that is told of twice, and the failure is what holds."""

_NOTHING_MOVED = "('failed', 'declined', 'blocked', 'lapsed')"

FOUND = f"""
SELECT v.type, p.kind, p.reference AS name, NULL AS side,
    i_minor, i_currency, i_status, g_minor, g_currency, g_status,
    payment_reference, order_reference, key, saga_id, step, NULL AS why
FROM pair p CROSS JOIN LATERAL (VALUES
    ('missing_internal', NOT ours AND NOT unjudged
        AND (g_status NOT IN {_NOTHING_MOVED} OR p.kind = 'refund')),
    ('missing_gateway', NOT theirs AND NOT unjudged AND i_status NOT IN {_NOTHING_MOVED}),
    ('amount_mismatch', i_currency = g_currency AND i_minor <> g_minor),
    ('status_mismatch', i_status <> g_status AND NOT (g_status = 'moved' AND failed_later)),
    ('currency_mismatch', i_currency <> g_currency),
    ('duplicate_internal', i_told > 1),
    ('duplicate_gateway', g_told > 1)
) AS v(type, holds) WHERE v.holds
UNION ALL
SELECT 'invalid_row', '', 'row ' || place, 'gateway', NULL, NULL, NULL, NULL, NULL, NULL,
    NULL, NULL, NULL, NULL, NULL, why
FROM gateway WHERE why IS NOT NULL
UNION ALL
SELECT 'invalid_row', coalesce(min(kind), ''),
    coalesce(saga_id::text || ' ' || step, 'row ' || min(place)), 'internal',
    NULL, NULL, NULL, NULL, NULL, NULL, NULL, min(order_reference), NULL, saga_id, step, min(why)
FROM internal
WHERE why IS NOT NULL AND (at IS NULL OR at >= %(start)s AND at < %(end)s)
GROUP BY saga_id, step, kind, CASE WHEN saga_id IS NULL THEN place END
"""

IN_ORDER = 'ORDER BY name COLLATE "C", kind COLLATE "C", type COLLATE "C", side COLLATE "C"'

TOTALS = """
SELECT count(*) FILTER (WHERE ours AND theirs AND i_told = 1 AND g_told = 1
        AND i_minor = g_minor AND i_currency = g_currency
        AND (i_status = g_status OR g_status = 'moved' AND failed_later)),
    count(*) FILTER (WHERE unjudged)
FROM pair
"""
