"""Remember since when an attempt is put off, so that somebody is told of a long outage.

Revision ID: 0015
"""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

SINCE_WHEN = """
ALTER TABLE amends.attempt
    ADD COLUMN put_off_at timestamptz,
    DROP CONSTRAINT attempt_moments_readable,
    ADD CONSTRAINT attempt_moments_readable CHECK (
        due_at BETWEEN '1970-01-02 00:00Z' AND '9000-01-01 00:00Z'
        AND ring_at BETWEEN '1970-01-02 00:00Z' AND '9000-01-01 00:00Z'
        AND lease_until BETWEEN '1970-01-02 00:00Z' AND '9000-01-01 00:00Z'
        AND timeout_at BETWEEN '1970-01-02 00:00Z' AND '9000-01-01 00:00Z'
        AND put_off_at BETWEEN '1970-01-02 00:00Z' AND '9000-01-01 00:00Z');
"""


def upgrade() -> None:
    op.execute(SINCE_WHEN)


def downgrade() -> None:
    raise RuntimeError("the saga log is not taken down by a migration; drop the schema by hand")
