"""Write down by what a process's death shows: its session's lock, and its pid on its host.

Revision ID: 0009
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

SHOWS_ITS_DEATH = """
ALTER TABLE amends.process
    ADD COLUMN session_key bigint,
    ADD COLUMN pid_space text,
    ADD COLUMN pid integer,
    ADD COLUMN pid_started text;
"""


def upgrade() -> None:
    op.execute(SHOWS_ITS_DEATH)


def downgrade() -> None:
    raise RuntimeError("the saga log is not taken down by a migration; drop the schema by hand")
