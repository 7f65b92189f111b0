"""Let ended sagas go, by one function of the owner, and keep everything else from going.

Revision ID: 0003
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TOMBSTONE = """
ALTER TABLE amends.tombstone
    ADD COLUMN version integer NOT NULL,
    ADD COLUMN definition_hash text NOT NULL;
CREATE UNIQUE INDEX tombstone_saga ON amends.tombstone (saga_id);
"""

REFUSALS = """
CREATE OR REPLACE FUNCTION amends.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'amends.% keeps what it holds: % refused', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'insufficient_privilege',
              HINT = 'Facts are corrected by later facts; ended sagas leave by `amends prune`.';
END $$;

DROP TRIGGER saga_log_rows_stay ON amends.saga_log;
CREATE TRIGGER saga_log_rows_stay BEFORE UPDATE ON amends.saga_log
    FOR EACH ROW EXECUTE FUNCTION amends.refuse_change();
CREATE TRIGGER saga_stays BEFORE TRUNCATE ON amends.saga
    FOR EACH STATEMENT EXECUTE FUNCTION amends.refuse_change();
CREATE TRIGGER tombstone_rows_stay BEFORE DELETE ON amends.tombstone
    FOR EACH ROW EXECUTE FUNCTION amends.refuse_change();
CREATE TRIGGER tombstone_stays BEFORE TRUNCATE ON amends.tombstone
    FOR EACH STATEMENT EXECUTE FUNCTION amends.refuse_change();

CREATE FUNCTION amends.refuse_loss_of_saga() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ids uuid[] := ARRAY(SELECT id FROM gone);
BEGIN
    IF EXISTS (SELECT FROM gone g
        LEFT JOIN (SELECT * FROM amends.tombstone WHERE saga_id = ANY(ids)) t
            ON t.saga_id = g.id AND t.definition = g.definition AND t.key = g.key
        WHERE t.saga_id IS NULL OR g.due_at IS NOT NULL)
    THEN
        RAISE EXCEPTION 'amends.saga: only an ended saga with a tombstone may be deleted'
            USING ERRCODE = 'insufficient_privilege', HINT = 'Use `amends prune`.';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER saga_rows_stay AFTER DELETE ON amends.saga REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION amends.refuse_loss_of_saga();

CREATE FUNCTION amends.refuse_loss_of_entries() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ids uuid[] := ARRAY(SELECT DISTINCT saga_id FROM gone);
BEGIN
    IF EXISTS (SELECT FROM amends.saga WHERE id = ANY(ids))
        OR cardinality(ids) > (SELECT count(*) FROM amends.tombstone WHERE saga_id = ANY(ids))
    THEN
        RAISE EXCEPTION 'amends.saga_log: only the entries of a pruned saga may be deleted'
            USING ERRCODE = 'insufficient_privilege', HINT = 'Use `amends prune`.';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER saga_log_goes_with_its_saga AFTER DELETE ON amends.saga_log
    REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION amends.refuse_loss_of_entries();

ALTER TABLE amends.saga_log ENABLE ALWAYS TRIGGER saga_log_rows_stay;
ALTER TABLE amends.saga_log ENABLE ALWAYS TRIGGER saga_log_goes_with_its_saga;
ALTER TABLE amends.saga ENABLE ALWAYS TRIGGER saga_rows_stay;
ALTER TABLE amends.saga ENABLE ALWAYS TRIGGER saga_stays;
ALTER TABLE amends.tombstone ENABLE ALWAYS TRIGGER tombstone_rows_stay;
ALTER TABLE amends.tombstone ENABLE ALWAYS TRIGGER tombstone_stays;
"""

KEPT_BECAUSE = """
CREATE FUNCTION amends.kept_because(s amends.saga, older_than interval) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN CASE
        WHEN s.due_at IS NOT NULL OR s.ended_at IS NULL THEN 'not_ended'
        WHEN s.ended_at >= clock_timestamp() - older_than THEN 'too_young'
        WHEN EXISTS (SELECT FROM amends.attempt a WHERE a.saga_id = s.id) THEN 'open_attempt'
        WHEN EXISTS (SELECT FROM amends.semantic_lock l WHERE l.saga_id = s.id) THEN 'holds_lock'
        WHEN EXISTS (SELECT FROM amends.alert a WHERE a.saga_id = s.id AND a.due_at IS NOT NULL)
            THEN 'open_alert'
        WHEN EXISTS (SELECT FROM amends.saga r
            WHERE (r.parent_id = s.id OR r.id = s.parent_id)
                AND (r.ended_at IS NULL OR r.ended_at >= clock_timestamp() - older_than))
            THEN 'parent_or_child'
        WHEN EXISTS (SELECT FROM amends.subscription c, amends.saga_log l
            WHERE l.saga_id = s.id AND (l.txid, l.saga_id, l.seq) > (c.txid, c.saga_id, c.seq)
                AND (l.kind LIKE 'Saga%' OR l.kind = 'UnwindingStarted'
                    OR l.kind = 'CancelRequested'))
            THEN 'unread_events'
    END;
END $$;
"""

PRUNE = """
CREATE FUNCTION amends.prune(sagas uuid[], seqs integer[], older_than interval)
    RETURNS TABLE (pruned_id uuid, gone boolean)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    locked uuid[];
    prunable uuid[];
    ready uuid[];
BEGIN
    IF older_than IS NULL OR older_than < interval '1 day' THEN
        RAISE EXCEPTION 'nothing that ended less than a day ago is pruned'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;

    locked := ARRAY(
        SELECT s.id FROM amends.saga s WHERE s.id = ANY(sagas) ORDER BY s.id
        FOR UPDATE SKIP LOCKED);
    -- A statement of its own: it sees what was written before the locks were had.
    prunable := ARRAY(
        SELECT s.id FROM amends.saga s JOIN unnest(sagas, seqs) AS a(id, seq) USING (id, seq)
        WHERE s.id = ANY(locked) AND amends.kept_because(s, older_than) IS NULL);

    -- A start whose snapshot is older than the tombstone would take the key for free once the row
    -- is gone. So a row goes only when no such snapshot is left. An owner who is no superuser sees
    -- the snapshots of others, and not their type.
    ready := ARRAY(
        SELECT s.id FROM amends.saga s JOIN amends.tombstone t ON t.saga_id = s.id
        WHERE s.id = ANY(prunable) AND t.state = s.state AND t.ended_at = s.ended_at
            AND t.pruned_at > clock_timestamp() - interval '1 day'
            AND age(t.xmin) > (SELECT coalesce(max(age(p.backend_xmin)), -1)
                FROM pg_stat_activity p
                WHERE p.pid <> pg_backend_pid() AND p.datname = current_database()
                    AND coalesce(p.backend_type, '') NOT IN ('autovacuum worker', 'walsender')));
    DELETE FROM amends.signal g USING amends.saga s
        WHERE s.id = ANY(ready) AND g.definition = s.definition AND g.key = s.key
            AND g.received_at < clock_timestamp() - older_than;
    DELETE FROM amends.saga s WHERE s.id = ANY(ready);
    DELETE FROM amends.saga_log l WHERE l.saga_id = ANY(ready);

    INSERT INTO amends.tombstone AS t (definition, key, saga_id, version, definition_hash,
        fingerprint, state, "references", ended_at)
    SELECT s.definition, s.key, s.id, s.version, s.definition_hash, s.fingerprint, s.state,
        ARRAY(SELECT DISTINCT r #>> '{}' FROM amends.saga_log l,
                jsonb_path_query(l.data, '$.**.reference ? (@.type() == "string")') AS r
            WHERE l.saga_id = s.id AND l.kind NOT LIKE 'Saga%' AND length(r #>> '{}') <= 200
            ORDER BY 1),
        s.ended_at
    FROM amends.saga s WHERE s.id = ANY(prunable)
    ON CONFLICT (definition, key) DO UPDATE SET
        version = excluded.version, definition_hash = excluded.definition_hash,
        state = excluded.state, ended_at = excluded.ended_at, pruned_at = clock_timestamp(),
        "references" = ARRAY(
            SELECT DISTINCT unnest(t."references" || excluded."references") ORDER BY 1)
    WHERE t.saga_id = excluded.saga_id AND ((t.state, t.ended_at)
        IS DISTINCT FROM (excluded.state, excluded.ended_at)
            OR t.pruned_at <= clock_timestamp() - interval '1 day');

    RETURN QUERY SELECT p, p = ANY(ready) FROM unnest(prunable) AS p;
END $$;

CREATE FUNCTION amends.prune_signals(older_than interval, most integer) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    deleted bigint;
BEGIN
    IF older_than IS NULL OR older_than < interval '1 day' THEN
        RAISE EXCEPTION 'no signal that came less than a day ago is pruned'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    DELETE FROM amends.signal g
    WHERE (g.definition, g.key, g.name, g.dedup_id) IN (
        SELECT o.definition, o.key, o.name, o.dedup_id FROM amends.signal o
        WHERE o.delivered_at IS NULL AND o.received_at < clock_timestamp() - older_than
            AND NOT EXISTS (
                SELECT FROM amends.saga s WHERE s.definition = o.definition AND s.key = o.key)
        LIMIT most FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END $$;
REVOKE ALL ON FUNCTION amends.prune(uuid[], integer[], interval) FROM PUBLIC;
REVOKE ALL ON FUNCTION amends.prune_signals(interval, integer) FROM PUBLIC;
"""

ROLES = """
DO $$
BEGIN
    BEGIN
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'amends_janitor') THEN
            CREATE ROLE amends_janitor NOLOGIN;
        END IF;
    EXCEPTION
        WHEN duplicate_object OR unique_violation THEN NULL;
        WHEN insufficient_privilege THEN
            RAISE NOTICE 'role amends_janitor must be created by an administrator';
    END;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'amends_janitor') THEN
        GRANT USAGE ON SCHEMA amends TO amends_janitor;
        GRANT SELECT ON ALL TABLES IN SCHEMA amends TO amends_janitor;
        GRANT EXECUTE ON FUNCTION amends.prune(uuid[], integer[], interval) TO amends_janitor;
        GRANT EXECUTE ON FUNCTION amends.prune_signals(interval, integer) TO amends_janitor;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'amends_client') THEN
        GRANT DELETE ON amends.subscription TO amends_client;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'amends_worker') THEN
        REVOKE INSERT ON amends.tombstone FROM amends_worker;
        GRANT DELETE ON amends.subscription TO amends_worker;
    END IF;
END $$;
"""


def upgrade() -> None:
    for statement in (TOMBSTONE, REFUSALS, KEPT_BECAUSE, PRUNE, ROLES):
        op.execute(statement)


def downgrade() -> None:
    raise RuntimeError("the saga log is not taken down by a migration; drop the schema by hand")
