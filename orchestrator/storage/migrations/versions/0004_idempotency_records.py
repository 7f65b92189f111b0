"""Add the records of idempotent calls.

Revision ID: 0004
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

RECORDS = """
CREATE TABLE amends.idempotency_record (
    scope text NOT NULL,
    key text NOT NULL,
    fingerprint text NOT NULL,
    state text NOT NULL,
    repeatable boolean NOT NULL,
    token uuid NOT NULL,
    owner text NOT NULL,
    lease_until timestamptz,
    timeout_at timestamptz,
    keep_for interval NOT NULL,
    result json,
    error json,
    claimed_at timestamptz NOT NULL,
    ended_at timestamptz,
    expires_at timestamptz,
    settled_by text,
    settled_because text,
    PRIMARY KEY (scope, key),
    CONSTRAINT idempotency_record_state_known
        CHECK (state IN ('in_progress', 'succeeded', 'failed', 'unknown')),
    CONSTRAINT idempotency_record_in_progress_whole CHECK (
        (state = 'in_progress') = (lease_until IS NOT NULL)
        AND (state = 'in_progress') = (timeout_at IS NOT NULL)
        AND (state = 'in_progress') = (ended_at IS NULL)),
    CONSTRAINT idempotency_record_success_has_result
        CHECK ((state = 'succeeded') = (result IS NOT NULL)),
    CONSTRAINT idempotency_record_kept_until_settled CHECK (
        (expires_at IS NULL) = (state = 'unknown' OR (state = 'in_progress' AND NOT repeatable))),
    CONSTRAINT idempotency_record_settled_whole
        CHECK ((settled_by IS NULL) = (settled_because IS NULL))
);
CREATE INDEX idempotency_record_expired ON amends.idempotency_record (expires_at)
    WHERE expires_at IS NOT NULL;
CREATE INDEX idempotency_record_unsettled ON amends.idempotency_record (claimed_at)
    WHERE expires_at IS NULL;
"""

ROLES = """
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'amends_client') THEN
        GRANT SELECT, INSERT, UPDATE ON amends.idempotency_record TO amends_client;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'amends_worker') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON amends.idempotency_record TO amends_worker;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'amends_reader') THEN
        GRANT SELECT ON amends.idempotency_record TO amends_reader;
    END IF;
END $$;
"""


def upgrade() -> None:
    for statement in (RECORDS, ROLES):
        op.execute(statement)


def downgrade() -> None:
    raise RuntimeError("the saga log is not taken down by a migration; drop the schema by hand")
