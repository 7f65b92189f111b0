"""The declared schema of the shop. Migrations must lead to exactly this; a test compares the two.

`stock` has one hot row per article. No foreign key points at it: the check of one would lock that
row for the rest of every order's transaction.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

SCHEMA = "shop"
CLOCK = text("clock_timestamp()")

metadata = MetaData(schema=SCHEMA)

stock = Table(
    "stock",
    metadata,
    Column("sku", Text, primary_key=True),
    Column("on_hand", BigInteger, nullable=False),
    Column("reserved", BigInteger, nullable=False, server_default=text("0")),
    CheckConstraint("on_hand >= 0", name="stock_on_hand_not_negative"),
    CheckConstraint("reserved >= 0", name="stock_reserved_not_negative"),
    CheckConstraint("reserved <= on_hand", name="stock_not_oversold"),
    # Room on the page for the next versions of a row that changes with every order.
    postgresql_with={"fillfactor": 10},
)

reservation = Table(
    "reservation",
    metadata,
    Column("key", Text, primary_key=True),
    Column("sku", Text, nullable=False),
    Column("units", Integer, nullable=False),
    Column("state", Text, nullable=False, server_default=text("'reserved'")),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    Column("ended_at", DateTime(timezone=True)),
    CheckConstraint("units > 0", name="reservation_units_positive"),
    CheckConstraint("state IN ('reserved', 'released', 'shipped')", name="reservation_state_known"),
    CheckConstraint("(ended_at IS NULL) = (state = 'reserved')", name="reservation_ended_whole"),
    Index("reservation_open", "sku", postgresql_where=text("ended_at IS NULL")),
)

verdict = Table(
    "verdict",
    metadata,
    Column("key", Text, primary_key=True),
    Column("order_id", Text, nullable=False),
    Column("customer_id", Text, nullable=False),
    Column("decision", Text, nullable=False),
    Column("reasons", ARRAY(Text), nullable=False),
    Column("ruleset", Text, nullable=False),
    Column("decided_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    Column("opinions", JSONB, nullable=False, server_default=text("'[]'")),
    CheckConstraint(
        "decision IN ('approve', 'review', 'challenge', 'block')", name="verdict_decision_known"
    ),
    Index("verdict_customer", "customer_id", "decided_at"),
)

fraud_attempt = Table(
    "fraud_attempt",
    metadata,
    Column("subject", Text, primary_key=True),
    Column("attempt_id", Text, primary_key=True),
    Column("recorded_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    Index("fraud_attempt_window", "subject", "recorded_at"),
    Index("fraud_attempt_age", "recorded_at"),
)

shipment = Table(
    "shipment",
    metadata,
    Column("key", Text, primary_key=True),
    Column("order_id", Text, nullable=False),
    Column("reservation_key", Text, nullable=False),
    Column("reference", Text, nullable=False),
    Column("tracking_number", Text, nullable=False),
    Column("shipped_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    Index("shipment_order", "order_id"),
)
