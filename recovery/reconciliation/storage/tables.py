"""The declared schema of reconciliation. Migrations must lead to exactly this; a test compares."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

SCHEMA = "reconciliation"
CLOCK = text("clock_timestamp()")

metadata = MetaData(schema=SCHEMA)

run = Table(
    "run",
    metadata,
    Column("gateway", Text, primary_key=True),
    Column("day", Date, primary_key=True),
    Column("run_count", Integer, nullable=False),
    Column("matched_count", BigInteger, nullable=False),
    Column("unjudged_count", BigInteger, nullable=False),
    Column("ended_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    CheckConstraint("run_count > 0", name="run_count_positive"),
)

discrepancy = Table(
    "discrepancy",
    metadata,
    Column("id", Uuid, primary_key=True, server_default=text("gen_random_uuid()")),
    Column("gateway", Text, nullable=False),
    Column("day", Date, nullable=False),
    Column("type", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("side", Text),
    Column("internal_minor", BigInteger),
    Column("internal_currency", Text),
    Column("internal_status", Text),
    Column("gateway_minor", BigInteger),
    Column("gateway_currency", Text),
    Column("gateway_status", Text),
    Column("payment_reference", Text),
    Column("order_reference", Text),
    Column("key", Text),
    Column("saga_id", Uuid),
    Column("step", Text),
    Column("why", Text),
    Column("state", Text, nullable=False, server_default=text("'open'")),
    Column("version", Integer, nullable=False, server_default=text("1")),
    Column("found_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    Column("found_run", Integer, nullable=False),
    Column("acted_at", DateTime(timezone=True)),
    Column("act_count", Integer, nullable=False, server_default=text("0")),
    Column("action", Text),
    Column("last_error", Text),
    Column("closed_at", DateTime(timezone=True)),
    Column("closed_by", Text),
    Column("reason", Text),
    Column("history", JSONB, nullable=False, server_default=text("'[]'")),
    UniqueConstraint("gateway", "day", "type", "kind", "name", name="discrepancy_once"),
    CheckConstraint(
        "state IN ('open', 'acted', 'resolved', 'accepted', 'gone')", name="discrepancy_state_known"
    ),
    CheckConstraint(
        "(closed_at IS NULL) = (state IN ('open', 'acted')) "
        "AND (closed_by IS NULL) = (closed_at IS NULL)",
        name="discrepancy_closed_whole",
    ),
    CheckConstraint(
        "(state IN ('resolved', 'accepted')) = (reason IS NOT NULL)",
        name="discrepancy_reason_of_a_person",
    ),
    Index(
        "discrepancy_open",
        "day",
        "gateway",
        postgresql_where=text("closed_at IS NULL"),
    ),
)
