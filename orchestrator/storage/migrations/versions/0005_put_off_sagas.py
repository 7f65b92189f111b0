"""Find the sagas that were put off without reading all others.

Revision ID: 0005
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

PUT_OFF = """
CREATE INDEX saga_put_off ON amends.saga (definition_hash) WHERE look_count > 0;
"""


def upgrade() -> None:
    op.execute(PUT_OFF)


def downgrade() -> None:
    raise RuntimeError("the saga log is not taken down by a migration; drop the schema by hand")
