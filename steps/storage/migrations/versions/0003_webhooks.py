"""Keep webhooks before they are acknowledged.

Revision ID: 0003
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TABLE = """
CREATE TABLE shop.webhook (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    gateway text NOT NULL,
    account text NOT NULL,
    event_id text NOT NULL,
    kind text NOT NULL,
    body bytea NOT NULL,
    signed_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    due_at timestamptz DEFAULT clock_timestamp(),
    tries integer NOT NULL DEFAULT 0,
    parked_at timestamptz,
    processed_at timestamptz,
    outcome text,
    note text,
    saga_id uuid,
    CONSTRAINT webhook_once UNIQUE (gateway, account, event_id),
    CONSTRAINT webhook_due_until_processed CHECK ((processed_at IS NULL) = (due_at IS NOT NULL)),
    CONSTRAINT webhook_ended_whole CHECK ((processed_at IS NULL) = (outcome IS NULL)),
    CONSTRAINT webhook_outcome_known
        CHECK (outcome IN ('told', 'nothing_new', 'ignored', 'dismissed')),
    CONSTRAINT webhook_tries_not_negative CHECK (tries >= 0)
);
CREATE INDEX webhook_due ON shop.webhook (due_at) WHERE processed_at IS NULL;
CREATE INDEX webhook_age ON shop.webhook (processed_at) WHERE processed_at IS NOT NULL;
"""

# What arrived is never changed: no role may update it. Readers see all but the body.
GRANTS = """
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'amends_client') THEN
        GRANT USAGE ON SCHEMA shop TO amends_client;
        GRANT INSERT (gateway, account, event_id, kind, body, signed_at),
            SELECT (id, gateway, account, event_id) ON shop.webhook TO amends_client;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'amends_worker') THEN
        GRANT SELECT, INSERT (gateway, account, event_id, kind, body, signed_at),
            UPDATE (due_at, tries, parked_at, processed_at, outcome, note, saga_id)
            ON shop.webhook TO amends_worker;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'amends_reader') THEN
        GRANT SELECT (id, gateway, account, event_id, kind, signed_at, received_at, due_at, tries,
            parked_at, processed_at, outcome, note, saga_id) ON shop.webhook TO amends_reader;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'amends_janitor') THEN
        GRANT USAGE ON SCHEMA shop TO amends_janitor;
        GRANT SELECT (id, processed_at), DELETE ON shop.webhook TO amends_janitor;
    END IF;
END $$;
"""


def upgrade() -> None:
    """Add the table, and grant it to whichever roles exist."""
    op.execute(TABLE)
    op.execute(GRANTS)


def downgrade() -> None:
    """Refuse."""
    raise RuntimeError("webhooks are not taken down by a migration; drop the table by hand")
