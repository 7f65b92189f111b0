"""Say of each saga which form its log has, so that older workers leave it alone.

Revision ID: 0013
"""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

FORMATS = """
ALTER TABLE amends.saga ADD COLUMN log_format smallint NOT NULL DEFAULT 1;
ALTER TABLE amends.process ADD COLUMN log_format smallint NOT NULL DEFAULT 1;
"""


def upgrade() -> None:
    op.execute(FORMATS)


def downgrade() -> None:
    raise RuntimeError("the saga log is not taken down by a migration; drop the schema by hand")
