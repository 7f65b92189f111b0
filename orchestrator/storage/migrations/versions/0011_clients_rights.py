"""Let clients write only what a start, a signal and a cancel write; keep rows within bounds.

Revision ID: 0011
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

SIGNAL = """
ALTER TABLE amends.signal
    ADD CONSTRAINT signal_names_short CHECK (
        length(definition) <= 200 AND length(key) <= 200 AND length(name) <= 300
        AND length(dedup_id) <= 300),
    ADD CONSTRAINT signal_payload_small CHECK (pg_column_size(payload) <= 262144);
"""

# What a row may hold so that a statement about many, or the driver that reads it, does not fail.
BOUNDS = """
ALTER TABLE amends.saga
    ADD CONSTRAINT saga_moments_readable CHECK (
        due_at BETWEEN '1970-01-02 00:00Z' AND '9000-01-01 00:00Z'
        AND deadline_at BETWEEN '1970-01-02 00:00Z' AND '9000-01-01 00:00Z'
        AND created_at BETWEEN '1970-01-02 00:00Z' AND '9000-01-01 00:00Z'
        AND updated_at BETWEEN '1970-01-02 00:00Z' AND '9000-01-01 00:00Z'
        AND ended_at BETWEEN '1970-01-02 00:00Z' AND '9000-01-01 00:00Z'),
    ADD CONSTRAINT saga_counts_small CHECK (
        seq < 1000000000 AND look_count BETWEEN 0 AND 1000000000),
    ADD CONSTRAINT saga_attributes_object CHECK (jsonb_typeof(attributes) = 'object');
ALTER TABLE amends.attempt
    ADD CONSTRAINT attempt_moments_readable CHECK (
        due_at BETWEEN '1970-01-02 00:00Z' AND '9000-01-01 00:00Z'
        AND ring_at BETWEEN '1970-01-02 00:00Z' AND '9000-01-01 00:00Z'
        AND lease_until BETWEEN '1970-01-02 00:00Z' AND '9000-01-01 00:00Z'
        AND timeout_at BETWEEN '1970-01-02 00:00Z' AND '9000-01-01 00:00Z'),
    ADD CONSTRAINT attempt_counts_small CHECK (
        number < 1000000000 AND rung_count BETWEEN 0 AND 1000000000);
ALTER TABLE amends.alert
    ADD CONSTRAINT alert_readable CHECK (
        raised_at BETWEEN '1970-01-02 00:00Z' AND '9000-01-01 00:00Z'
        AND due_at BETWEEN '1970-01-02 00:00Z' AND '9000-01-01 00:00Z'
        AND sent_at BETWEEN '1970-01-02 00:00Z' AND '9000-01-01 00:00Z'
        AND closed_at BETWEEN '1970-01-02 00:00Z' AND '9000-01-01 00:00Z'
        AND send_count BETWEEN 0 AND 1000000000 AND jsonb_typeof(data) = 'object');
"""

ROLES = """
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'amends_client') THEN
        REVOKE INSERT ON amends.saga, amends.saga_log, amends.attempt, amends.signal,
            amends.semantic_lock FROM amends_client;
        REVOKE UPDATE (seq, due_at, updated_at) ON amends.saga FROM amends_client;
        REVOKE UPDATE (delivered_at) ON amends.signal FROM amends_client;
        GRANT INSERT (definition, key, name, dedup_id, payload) ON amends.signal TO amends_client;
    END IF;
END $$;
"""


def upgrade() -> None:
    for statement in (SIGNAL, BOUNDS, ROLES):
        op.execute(statement)


def downgrade() -> None:
    raise RuntimeError("the saga log is not taken down by a migration; drop the schema by hand")
