"""The declared schema. Migrations must lead to exactly this; a test compares the two.

Three hot tables. `saga` is one narrow row per saga, `saga_log` the append-only facts, `attempt` one
row per scheduled or running attempt. (`checkpoint` is beside them: what long logs fold to, written
rarely.) There are no foreign keys between them: every write of the
three is one statement of `saga_log.py`, and the checks would cost a third of its time.

No index may hold a column that moves while a saga runs (`seq`, `updated_at`, `step`, …): then its
updates stay on their page and touch no index at all. A test holds Postgres's own count to that.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    Interval,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

SCHEMA = "amends"
CLOCK = text("clock_timestamp()")

metadata = MetaData(schema=SCHEMA)


def _instant(name: str, **options: object) -> Column[object]:
    return Column(name, DateTime(timezone=True), **options)  # type: ignore[arg-type]


def _readable(*names: str) -> str:
    """That instants are such as the driver can read: one that is not would hide all other rows."""
    bounds = "BETWEEN '1970-01-02 00:00Z' AND '9000-01-01 00:00Z'"
    return " AND ".join(f"{name} {bounds}" for name in names)


saga = Table(
    "saga",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("definition", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("definition_hash", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("seq", Integer, nullable=False),
    _instant("due_at"),
    _instant("deadline_at"),
    Column("look_count", Integer, nullable=False, server_default=text("0")),
    Column("log_format", SmallInteger, nullable=False, server_default=text("1")),
    Column("attributes", JSONB, nullable=False),
    Column("trace", JSONB),
    Column("parent_id", Uuid),
    Column("parent_step", Text),
    Column("replay_of", Uuid),
    Column("lock", Text),
    Column("step", Text),
    Column("direction", Text),
    Column("attempt", Integer),
    Column("last_error", Text),
    _instant("created_at", nullable=False, server_default=CLOCK),
    _instant("updated_at", nullable=False, server_default=CLOCK),
    _instant("ended_at"),
    UniqueConstraint("key", "definition", name="saga_definition_key"),
    CheckConstraint(
        "state IN ('running', 'waiting', 'compensating', 'failed_compensation', 'stuck', "
        "'completed', 'compensated', 'resolved')",
        name="saga_state_known",
    ),
    CheckConstraint(
        "(due_at IS NULL) = (state IN ('completed', 'compensated', 'resolved'))",
        name="saga_due_unless_terminal",
    ),
    CheckConstraint("seq > 0", name="saga_seq_positive"),
    CheckConstraint(
        _readable("due_at", "deadline_at", "created_at", "updated_at", "ended_at"),
        name="saga_moments_readable",
    ),
    CheckConstraint(
        "seq < 1000000000 AND look_count BETWEEN 0 AND 1000000000", name="saga_counts_small"
    ),
    CheckConstraint("jsonb_typeof(attributes) = 'object'", name="saga_attributes_object"),
    CheckConstraint("(parent_id IS NULL) = (parent_step IS NULL)", name="saga_parent_whole"),
    Index("saga_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
    Index("saga_created", "created_at", "id"),
    Index("saga_put_off", "definition_hash", postgresql_where=text("look_count > 0")),
    Index("saga_parent", "parent_id", postgresql_where=text("parent_id IS NOT NULL")),
    Index(
        "saga_parked",
        "created_at",
        postgresql_where=text("state = 'failed_compensation' OR state = 'stuck'"),
    ),
    Index(
        "saga_attributes",
        "attributes",
        postgresql_using="gin",
        postgresql_ops={"attributes": "jsonb_path_ops"},
    ),
)

saga_log = Table(
    "saga_log",
    metadata,
    Column("saga_id", Uuid, primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("data", JSONB, nullable=False),
    _instant("recorded_at", nullable=False, server_default=CLOCK),
    Column(
        "txid",
        BigInteger,
        nullable=False,
        server_default=text("((pg_current_xact_id())::text)::bigint"),
    ),
    CheckConstraint("seq > 0", name="saga_log_seq_positive"),
    Index(
        "saga_log_events",
        "txid",
        "saga_id",
        "seq",
        postgresql_where=text(
            "kind LIKE 'Saga%' OR kind = 'UnwindingStarted' OR kind = 'CancelRequested'"
        ),
    ),
)

checkpoint = Table(
    "checkpoint",
    metadata,
    Column("saga_id", Uuid, primary_key=True),
    Column("form", Text, primary_key=True),
    Column("seq", Integer, nullable=False),
    Column("state", JSON, nullable=False),
    _instant("written_at", nullable=False, server_default=CLOCK),
    CheckConstraint("seq > 0", name="checkpoint_seq_positive"),
)

attempt = Table(
    "attempt",
    metadata,
    Column("saga_id", Uuid, primary_key=True),
    Column("step", Text, primary_key=True),
    Column("direction", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("queue", Text, nullable=False),
    _instant("due_at", nullable=False),
    _instant("ring_at", nullable=False),
    Column("rung_count", Integer, nullable=False, server_default=text("0")),
    Column("timeout_for", Interval, nullable=False),
    Column("alone", Boolean, nullable=False, server_default=text("false")),
    Column("token", Uuid),
    Column("owner", Text),
    _instant("lease_until"),
    _instant("timeout_at"),
    _instant("put_off_at"),
    CheckConstraint("number > 0", name="attempt_number_positive"),
    CheckConstraint(
        _readable("due_at", "ring_at", "lease_until", "timeout_at", "put_off_at"),
        name="attempt_moments_readable",
    ),
    CheckConstraint(
        "number < 1000000000 AND rung_count BETWEEN 0 AND 1000000000",
        name="attempt_counts_small",
    ),
    CheckConstraint(
        "(token IS NULL) = (lease_until IS NULL) AND (token IS NULL) = (timeout_at IS NULL)",
        name="attempt_claimed_whole",
    ),
    Index("attempt_look", text("COALESCE(lease_until, ring_at)")),
)

signal = Table(
    "signal",
    metadata,
    Column("definition", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("dedup_id", Text, primary_key=True),
    Column("arrival", BigInteger, Identity(), nullable=False),
    Column("payload", JSONB, nullable=False),
    _instant("received_at", nullable=False, server_default=CLOCK),
    _instant("delivered_at"),
    Index(
        "signal_undelivered",
        "definition",
        "key",
        "arrival",
        postgresql_where=text("delivered_at IS NULL"),
    ),
    Index("signal_arrived", "arrival", postgresql_where=text("delivered_at IS NULL")),
    CheckConstraint(
        "length(definition) <= 200 AND length(key) <= 200 AND length(name) <= 300 "
        "AND length(dedup_id) <= 300",
        name="signal_names_short",
    ),
    CheckConstraint("pg_column_size(payload) <= 262144", name="signal_payload_small"),
)

semantic_lock = Table(
    "semantic_lock",
    metadata,
    Column("saga_id", Uuid, primary_key=True),
    Column("name", Text, nullable=False),
    Column("position", BigInteger, Identity(), nullable=False),
    Column("granted", Boolean, nullable=False, server_default=text("false")),
    Index("semantic_lock_holder", "name", unique=True, postgresql_where=text("granted")),
    Index("semantic_lock_line", "name", "position"),
)

alert = Table(
    "alert",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("about", Text, nullable=False),
    Column("saga_id", Uuid),
    Column("data", JSONB, nullable=False),
    _instant("raised_at", nullable=False, server_default=CLOCK),
    _instant("due_at"),
    Column("send_count", Integer, nullable=False, server_default=text("0")),
    _instant("sent_at"),
    Column("last_error", Text),
    _instant("closed_at"),
    Column("closed_by", Text),
    CheckConstraint("(due_at IS NULL) = (closed_at IS NOT NULL)", name="alert_due_until_closed"),
    CheckConstraint(
        f"{_readable('raised_at', 'due_at', 'sent_at', 'closed_at')} "
        "AND send_count BETWEEN 0 AND 1000000000 AND jsonb_typeof(data) = 'object'",
        name="alert_readable",
    ),
    UniqueConstraint("about", "kind", name="alert_about"),
    Index("alert_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
)

subscription = Table(
    "subscription",
    metadata,
    Column("name", Text, primary_key=True),
    Column("txid", BigInteger, nullable=False, server_default=text("0")),
    Column(
        "saga_id",
        Uuid,
        nullable=False,
        server_default=text("'00000000-0000-0000-0000-000000000000'::uuid"),
    ),
    Column("seq", Integer, nullable=False, server_default=text("0")),
    _instant("created_at", nullable=False, server_default=CLOCK),
    _instant("updated_at", nullable=False, server_default=CLOCK),
)

tombstone = Table(
    "tombstone",
    metadata,
    Column("definition", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("saga_id", Uuid, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("references", ARRAY(Text), nullable=False),
    _instant("ended_at", nullable=False),
    _instant("pruned_at", nullable=False, server_default=CLOCK),
    Column("version", Integer, nullable=False),
    Column("definition_hash", Text, nullable=False),
    Index("tombstone_saga", "saga_id", unique=True),
)

process = Table(
    "process",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("queues", ARRAY(Text), nullable=False),
    Column("definition_hashes", ARRAY(Text), nullable=False),
    Column("amends_version", Text, nullable=False),
    _instant("started_at", nullable=False, server_default=CLOCK),
    _instant("seen_at", nullable=False, server_default=CLOCK),
    Column("session_key", BigInteger),
    Column("pid_space", Text),
    Column("pid", Integer),
    Column("pid_started", Text),
    Column("log_format", SmallInteger, nullable=False, server_default=text("1")),
)

idempotency_record = Table(
    "idempotency_record",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("repeatable", Boolean, nullable=False),
    Column("token", Uuid, nullable=False),
    Column("owner", Text, nullable=False),
    _instant("lease_until"),
    _instant("timeout_at"),
    Column("keep_for", Interval, nullable=False),
    Column("result", JSON),
    Column("error", JSON),
    _instant("claimed_at", nullable=False),
    _instant("ended_at"),
    _instant("expires_at"),
    Column("settled_by", Text),
    Column("settled_because", Text),
    CheckConstraint(
        "state IN ('in_progress', 'succeeded', 'failed', 'unknown')",
        name="idempotency_record_state_known",
    ),
    CheckConstraint(
        "(state = 'in_progress') = (lease_until IS NOT NULL) "
        "AND (state = 'in_progress') = (timeout_at IS NOT NULL) "
        "AND (state = 'in_progress') = (ended_at IS NULL)",
        name="idempotency_record_in_progress_whole",
    ),
    CheckConstraint(
        "(state = 'succeeded') = (result IS NOT NULL)",
        name="idempotency_record_success_has_result",
    ),
    CheckConstraint(
        "(expires_at IS NULL) = (state = 'unknown' OR (state = 'in_progress' AND NOT repeatable))",
        name="idempotency_record_kept_until_settled",
    ),
    CheckConstraint(
        "(settled_by IS NULL) = (settled_because IS NULL)",
        name="idempotency_record_settled_whole",
    ),
    Index(
        "idempotency_record_expired",
        "expires_at",
        postgresql_where=text("expires_at IS NOT NULL"),
    ),
    Index(
        "idempotency_record_unsettled",
        "claimed_at",
        postgresql_where=text("expires_at IS NULL"),
    ),
)

idempotency_settlement = Table(
    "idempotency_settlement",
    metadata,
    Column("scope", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("token", Uuid, primary_key=True),
    Column("outcome", Text, nullable=False),
    Column("settled_by", Text, nullable=False),
    Column("settled_because", Text, nullable=False),
    _instant("settled_at", nullable=False, server_default=CLOCK),
    CheckConstraint(
        "outcome IN ('succeeded', 'failed', 'released')",
        name="idempotency_settlement_outcome_known",
    ),
    Index("idempotency_settlement_latest", "settled_at"),
)

installation = Table(
    "installation",
    metadata,
    Column("is_only", Boolean, primary_key=True, server_default=text("true")),
    Column("name", Text, nullable=False),
    Column("identity", Text, nullable=False),
    _instant("named_at", nullable=False, server_default=CLOCK),
    _instant("decided_at"),
    Column("decided_by", Text),
    Column("decided_because", Text),
    CheckConstraint("is_only", name="installation_only_one"),
    CheckConstraint("name ~ '^[a-z0-9][a-z0-9-]{0,31}$'", name="installation_name_plain"),
)
