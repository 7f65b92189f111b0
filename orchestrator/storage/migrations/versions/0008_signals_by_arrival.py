"""Find undelivered signals by their arrival, however many of them nobody will ever hear.

Revision ID: 0008
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

BY_ARRIVAL = """
CREATE INDEX signal_arrived ON amends.signal (arrival) WHERE delivered_at IS NULL;
"""


def upgrade() -> None:
    op.execute(BY_ARRIVAL)


def downgrade() -> None:
    raise RuntimeError("the saga log is not taken down by a migration; drop the schema by hand")
