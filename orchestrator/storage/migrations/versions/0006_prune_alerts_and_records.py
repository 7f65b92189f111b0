"""Let closed alerts and expired idempotency records go, each by a function of the owner.

Revision ID: 0006
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# A closed alert keeps what it is about from being raised again, so it stays while that may last.
ALERTS = """
CREATE FUNCTION amends.prune_alerts(older_than interval, most integer) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    deleted bigint;
BEGIN
    IF older_than IS NULL OR older_than < interval '1 day' THEN
        RAISE EXCEPTION 'no alert that was closed less than a day ago is pruned'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    DELETE FROM amends.alert a
    WHERE a.id IN (
        SELECT o.id FROM amends.alert o
        WHERE o.closed_at < clock_timestamp() - older_than
            AND o.about NOT IN ('sagas', 'sweepers')
            AND NOT EXISTS (
                SELECT FROM amends.saga s WHERE s.id = o.saga_id AND s.due_at IS NOT NULL)
        LIMIT most FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END $$;
REVOKE ALL ON FUNCTION amends.prune_alerts(interval, integer) FROM PUBLIC;
"""

RECORDS = """
CREATE FUNCTION amends.prune_idempotency_records(most integer) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    deleted bigint;
BEGIN
    DELETE FROM amends.idempotency_record i
    WHERE (i.scope, i.key) IN (
        SELECT o.scope, o.key FROM amends.idempotency_record o
        WHERE o.expires_at <= (SELECT clock_timestamp())
        ORDER BY o.expires_at LIMIT most FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END $$;
REVOKE ALL ON FUNCTION amends.prune_idempotency_records(integer) FROM PUBLIC;
"""

ROLES = """
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'amends_janitor') THEN
        GRANT SELECT ON amends.idempotency_record TO amends_janitor;
        GRANT EXECUTE ON FUNCTION amends.prune_alerts(interval, integer) TO amends_janitor;
        GRANT EXECUTE ON FUNCTION amends.prune_idempotency_records(integer) TO amends_janitor;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'amends_worker') THEN
        REVOKE DELETE ON amends.idempotency_record FROM amends_worker;
        GRANT EXECUTE ON FUNCTION amends.prune_idempotency_records(integer) TO amends_worker;
    END IF;
END $$;
"""


def upgrade() -> None:
    for statement in (ALERTS, RECORDS, ROLES):
        op.execute(statement)


def downgrade() -> None:
    raise RuntimeError("the saga log is not taken down by a migration; drop the schema by hand")
