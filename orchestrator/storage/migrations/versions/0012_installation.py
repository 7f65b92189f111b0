"""Give the installation a name, and remember which database it was given in.

Revision ID: 0012
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

IDENTITY = """
CREATE FUNCTION amends.database_identity() RETURNS text
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    cluster text := '?';
BEGIN
    BEGIN
        cluster := (SELECT system_identifier::text FROM pg_control_system());
    EXCEPTION
        WHEN insufficient_privilege OR undefined_function OR feature_not_supported THEN NULL;
    END;
    RETURN coalesce(cluster, '?') || '/'
        || (SELECT d.oid FROM pg_database d WHERE d.datname = current_database());
END $$;
"""

TABLE = """
CREATE TABLE amends.installation (
    is_only boolean NOT NULL PRIMARY KEY DEFAULT true,
    name text NOT NULL,
    identity text NOT NULL,
    named_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    decided_at timestamptz,
    decided_by text,
    decided_because text,
    CONSTRAINT installation_only_one CHECK (is_only),
    CONSTRAINT installation_name_plain CHECK (name ~ '^[a-z0-9][a-z0-9-]{0,31}$')
);
INSERT INTO amends.installation (name, identity)
    SELECT substr(replace(gen_random_uuid()::text, '-', ''), 1, 16), amends.database_identity();
"""

ROLES = """
DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY
        ARRAY['amends_client', 'amends_worker', 'amends_reader', 'amends_janitor'] LOOP
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('GRANT SELECT ON amends.installation TO %I', role);
        END IF;
    END LOOP;
END $$;
"""


def upgrade() -> None:
    for statement in (IDENTITY, TABLE, ROLES):
        op.execute(statement)


def downgrade() -> None:
    raise RuntimeError("the saga log is not taken down by a migration; drop the schema by hand")
