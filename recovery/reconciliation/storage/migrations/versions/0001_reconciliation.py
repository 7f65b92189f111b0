"""Create the runs of reconciliation and what they found.

Run after the engine's own migration, which creates the roles that are granted to here.

Revision ID: 0001
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE reconciliation.run (
    gateway text NOT NULL,
    day date NOT NULL,
    run_count integer NOT NULL,
    matched_count bigint NOT NULL,
    unjudged_count bigint NOT NULL,
    ended_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (gateway, day),
    CONSTRAINT run_count_positive CHECK (run_count > 0)
);

CREATE TABLE reconciliation.discrepancy (
    id uuid NOT NULL PRIMARY KEY DEFAULT gen_random_uuid(),
    gateway text NOT NULL,
    day date NOT NULL,
    type text NOT NULL,
    kind text NOT NULL,
    name text NOT NULL,
    side text,
    internal_minor bigint,
    internal_currency text,
    internal_status text,
    gateway_minor bigint,
    gateway_currency text,
    gateway_status text,
    payment_reference text,
    order_reference text,
    key text,
    saga_id uuid,
    step text,
    why text,
    state text NOT NULL DEFAULT 'open',
    version integer NOT NULL DEFAULT 1,
    found_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    found_run integer NOT NULL,
    acted_at timestamptz,
    act_count integer NOT NULL DEFAULT 0,
    action text,
    last_error text,
    closed_at timestamptz,
    closed_by text,
    reason text,
    history jsonb NOT NULL DEFAULT '[]',
    CONSTRAINT discrepancy_once UNIQUE (gateway, day, type, kind, name),
    CONSTRAINT discrepancy_state_known
        CHECK (state IN ('open', 'acted', 'resolved', 'accepted', 'gone')),
    CONSTRAINT discrepancy_closed_whole
        CHECK ((closed_at IS NULL) = (state IN ('open', 'acted'))
            AND (closed_by IS NULL) = (closed_at IS NULL)),
    CONSTRAINT discrepancy_reason_of_a_person
        CHECK ((state IN ('resolved', 'accepted')) = (reason IS NOT NULL))
);
CREATE INDEX discrepancy_open ON reconciliation.discrepancy (day, gateway)
    WHERE closed_at IS NULL;
"""

GRANTS = """
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'amends_worker') THEN
        GRANT USAGE ON SCHEMA reconciliation TO amends_worker;
        GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA reconciliation TO amends_worker;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'amends_reader') THEN
        GRANT USAGE ON SCHEMA reconciliation TO amends_reader;
        GRANT SELECT ON ALL TABLES IN SCHEMA reconciliation TO amends_reader;
    END IF;
END $$;
"""


def upgrade() -> None:
    """Create the tables, and grant them to whichever roles exist."""
    op.execute(TABLES)
    op.execute(GRANTS)


def downgrade() -> None:
    """Refuse."""
    raise RuntimeError("what was found is not taken down by a migration; drop the schema by hand")
