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
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
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

webhook = Table(
    "webhook",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("gateway", Text, nullable=False),
    Column("account", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("signed_at", DateTime(timezone=True), nullable=False),
    Column("received_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    Column("due_at", DateTime(timezone=True), server_default=CLOCK),
    Column("tries", Integer, nullable=False, server_default=text("0")),
    Column("parked_at", DateTime(timezone=True)),
    Column("processed_at", DateTime(timezone=True)),
    Column("outcome", Text),
    Column("note", Text),
    Column("saga_id", Uuid),
    UniqueConstraint("gateway", "account", "event_id", name="webhook_once"),
    CheckConstraint(
        "(processed_at IS NULL) = (due_at IS NOT NULL)", name="webhook_due_until_processed"
    ),
    CheckConstraint("(processed_at IS NULL) = (outcome IS NULL)", name="webhook_ended_whole"),
    CheckConstraint(
        "outcome IN ('told', 'nothing_new', 'ignored', 'dismissed')", name="webhook_outcome_known"
    ),
    CheckConstraint("tries >= 0", name="webhook_tries_not_negative"),
    Index("webhook_due", "due_at", postgresql_where=text("processed_at IS NULL")),
    Index("webhook_age", "processed_at", postgresql_where=text("processed_at IS NOT NULL")),
)
