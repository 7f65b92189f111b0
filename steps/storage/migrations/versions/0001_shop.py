"""Create the shop.

Run after the engine's own migration, which creates the roles that are granted to here.

Revision ID: 0001
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE shop.stock (
    sku text NOT NULL PRIMARY KEY,
    on_hand bigint NOT NULL,
    reserved bigint NOT NULL DEFAULT 0,
    CONSTRAINT stock_on_hand_not_negative CHECK (on_hand >= 0),
    CONSTRAINT stock_reserved_not_negative CHECK (reserved >= 0),
    CONSTRAINT stock_not_oversold CHECK (reserved <= on_hand)
) WITH (fillfactor = 10);

CREATE TABLE shop.reservation (
    key text NOT NULL PRIMARY KEY,
    sku text NOT NULL,
    units integer NOT NULL,
    state text NOT NULL DEFAULT 'reserved',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at timestamptz,
    CONSTRAINT reservation_units_positive CHECK (units > 0),
    CONSTRAINT reservation_state_known CHECK (state IN ('reserved', 'released', 'shipped')),
    CONSTRAINT reservation_ended_whole CHECK ((ended_at IS NULL) = (state = 'reserved'))
);
CREATE INDEX reservation_open ON shop.reservation (sku) WHERE ended_at IS NULL;

CREATE TABLE shop.verdict (
    key text NOT NULL PRIMARY KEY,
    order_id text NOT NULL,
    customer_id text NOT NULL,
    decision text NOT NULL,
    reasons text[] NOT NULL,
    ruleset text NOT NULL,
    decided_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT verdict_decision_known CHECK (decision IN ('approve', 'review', 'block'))
);
CREATE INDEX verdict_customer ON shop.verdict (customer_id, decided_at);

CREATE TABLE shop.shipment (
    key text NOT NULL PRIMARY KEY,
    order_id text NOT NULL,
    reservation_key text NOT NULL,
    reference text NOT NULL,
    tracking_number text NOT NULL,
    shipped_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX shipment_order ON shop.shipment (order_id);
"""

GRANTS = """
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'amends_worker') THEN
        GRANT USAGE ON SCHEMA shop TO amends_worker;
        GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA shop TO amends_worker;
        GRANT UPDATE ON shop.stock, shop.reservation TO amends_worker;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'amends_reader') THEN
        GRANT USAGE ON SCHEMA shop TO amends_reader;
        GRANT SELECT ON ALL TABLES IN SCHEMA shop TO amends_reader;
    END IF;
END $$;
"""


def upgrade() -> None:
    """Create the tables, and grant them to whichever roles exist."""
    op.execute(TABLES)
    op.execute(GRANTS)


def downgrade() -> None:
    """Refuse."""
    raise RuntimeError("orders are not taken down by a migration; drop the schema by hand")
