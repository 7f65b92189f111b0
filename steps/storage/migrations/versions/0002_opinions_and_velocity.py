"""Keep what every rule said, and the attempts that velocity counts.

Revision ID: 0002
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

VERDICTS = """
ALTER TABLE shop.verdict
    ADD COLUMN opinions jsonb NOT NULL DEFAULT '[]',
    DROP CONSTRAINT verdict_decision_known,
    ADD CONSTRAINT verdict_decision_known
        CHECK (decision IN ('approve', 'review', 'challenge', 'block'));
"""

ATTEMPTS = """
CREATE TABLE shop.fraud_attempt (
    subject text NOT NULL,
    attempt_id text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (subject, attempt_id)
);
CREATE INDEX fraud_attempt_window ON shop.fraud_attempt (subject, recorded_at);
CREATE INDEX fraud_attempt_age ON shop.fraud_attempt (recorded_at);
"""

GRANTS = """
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'amends_worker') THEN
        GRANT SELECT, INSERT, DELETE ON shop.fraud_attempt TO amends_worker;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'amends_reader') THEN
        GRANT SELECT ON shop.fraud_attempt TO amends_reader;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'amends_janitor') THEN
        GRANT USAGE ON SCHEMA shop TO amends_janitor;
        GRANT SELECT, DELETE ON shop.fraud_attempt TO amends_janitor;
    END IF;
END $$;
"""


def upgrade() -> None:
    """Add the column and the table, and grant the table to whichever roles exist."""
    op.execute(VERDICTS)
    op.execute(ATTEMPTS)
    op.execute(GRANTS)


def downgrade() -> None:
    """Refuse."""
    raise RuntimeError("verdicts are not taken down by a migration; drop the column by hand")
