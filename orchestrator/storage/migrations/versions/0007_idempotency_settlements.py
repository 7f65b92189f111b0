"""Keep who settled an unknown call, and why, beyond the life of its record.

Revision ID: 0007
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

SETTLEMENTS = """
CREATE TABLE amends.idempotency_settlement (
    scope text NOT NULL,
    key text NOT NULL,
    token uuid NOT NULL PRIMARY KEY,
    outcome text NOT NULL,
    settled_by text NOT NULL,
    settled_because text NOT NULL,
    settled_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT idempotency_settlement_outcome_known
        CHECK (outcome IN ('succeeded', 'failed', 'released'))
);
CREATE INDEX idempotency_settlement_latest ON amends.idempotency_settlement (settled_at);
CREATE TRIGGER idempotency_settlement_rows_stay
    BEFORE UPDATE OR DELETE ON amends.idempotency_settlement
    FOR EACH ROW EXECUTE FUNCTION amends.refuse_change();
CREATE TRIGGER idempotency_settlement_stays BEFORE TRUNCATE ON amends.idempotency_settlement
    FOR EACH STATEMENT EXECUTE FUNCTION amends.refuse_change();
"""

ROLES = """
DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['amends_client', 'amends_worker'] LOOP
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('GRANT SELECT, INSERT ON amends.idempotency_settlement TO %I', role);
        END IF;
    END LOOP;
    FOREACH role IN ARRAY ARRAY['amends_reader', 'amends_janitor'] LOOP
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('GRANT SELECT ON amends.idempotency_settlement TO %I', role);
        END IF;
    END LOOP;
END $$;
"""


def upgrade() -> None:
    for statement in (SETTLEMENTS, ROLES):
        op.execute(statement)


def downgrade() -> None:
    raise RuntimeError("the saga log is not taken down by a migration; drop the schema by hand")
