"""Keep what long logs fold to, so that a claim costs the same however long they are.

Only workers write it: who could forge a state could have money moved. It goes with its saga.

Revision ID: 0010
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

TABLE = """
CREATE TABLE amends.checkpoint (
    saga_id uuid NOT NULL,
    form text NOT NULL,
    seq integer NOT NULL,
    state json NOT NULL,
    written_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    PRIMARY KEY (saga_id, form),
    CONSTRAINT checkpoint_seq_positive CHECK (seq > 0)
);
"""

GOES_WITH_ITS_SAGA = """
CREATE FUNCTION amends.drop_checkpoints() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM amends.checkpoint c USING gone g WHERE c.saga_id = g.id;
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION amends.drop_checkpoints() FROM PUBLIC;
CREATE TRIGGER saga_takes_its_checkpoints AFTER DELETE ON amends.saga REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION amends.drop_checkpoints();
"""

RIGHTS = """
DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['amends_client', 'amends_worker', 'amends_reader', 'amends_janitor']
    LOOP
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('GRANT SELECT ON amends.checkpoint TO %I', role);
        END IF;
    END LOOP;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'amends_worker') THEN
        GRANT INSERT, UPDATE ON amends.checkpoint TO amends_worker;
    END IF;
END $$;
"""


def upgrade() -> None:
    for statement in (TABLE, GOES_WITH_ITS_SAGA, RIGHTS):
        op.execute(statement)


def downgrade() -> None:
    raise RuntimeError("the saga log is not taken down by a migration; drop the schema by hand")
