"""Create the saga log.

Revision ID: 0001
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE amends.saga (
    id uuid NOT NULL PRIMARY KEY,
    definition text NOT NULL,
    version integer NOT NULL,
    definition_hash text NOT NULL,
    key text NOT NULL,
    fingerprint text NOT NULL,
    state text NOT NULL,
    seq integer NOT NULL,
    due_at timestamptz,
    deadline_at timestamptz,
    look_count integer NOT NULL DEFAULT 0,
    attributes jsonb NOT NULL,
    trace jsonb,
    step text,
    direction text,
    attempt integer,
    last_error text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at timestamptz,
    CONSTRAINT saga_definition_key UNIQUE (key, definition),
    CONSTRAINT saga_state_known CHECK (state IN ('running', 'waiting', 'compensating',
        'failed_compensation', 'stuck', 'completed', 'compensated', 'resolved')),
    CONSTRAINT saga_due_unless_terminal CHECK (
        (due_at IS NULL) = (state IN ('completed', 'compensated', 'resolved'))),
    CONSTRAINT saga_seq_positive CHECK (seq > 0)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX saga_due ON amends.saga (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX saga_created ON amends.saga (created_at, id);
CREATE INDEX saga_parked ON amends.saga (created_at)
    WHERE state = 'failed_compensation' OR state = 'stuck';
CREATE INDEX saga_attributes ON amends.saga USING gin (attributes jsonb_path_ops);

CREATE TABLE amends.saga_log (
    saga_id uuid NOT NULL,
    seq integer NOT NULL,
    kind text NOT NULL,
    data jsonb NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (saga_id, seq),
    CONSTRAINT saga_log_seq_positive CHECK (seq > 0)
);

CREATE TABLE amends.attempt (
    saga_id uuid NOT NULL,
    step text NOT NULL,
    direction text NOT NULL,
    number integer NOT NULL,
    queue text NOT NULL,
    due_at timestamptz NOT NULL,
    ring_at timestamptz NOT NULL,
    rung_count integer NOT NULL DEFAULT 0,
    timeout_for interval NOT NULL,
    alone boolean NOT NULL DEFAULT false,
    token uuid,
    owner text,
    lease_until timestamptz,
    timeout_at timestamptz,
    PRIMARY KEY (saga_id, step, direction, number),
    CONSTRAINT attempt_number_positive CHECK (number > 0),
    CONSTRAINT attempt_claimed_whole CHECK (
        (token IS NULL) = (lease_until IS NULL) AND (token IS NULL) = (timeout_at IS NULL))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX attempt_look ON amends.attempt (COALESCE(lease_until, ring_at));

CREATE TABLE amends.signal (
    definition text NOT NULL,
    key text NOT NULL,
    name text NOT NULL,
    dedup_id text NOT NULL,
    arrival bigint NOT NULL,
    payload jsonb NOT NULL,
    received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    delivered_at timestamptz,
    PRIMARY KEY (definition, key, name, dedup_id)
);

CREATE TABLE amends.tombstone (
    definition text NOT NULL,
    key text NOT NULL,
    saga_id uuid NOT NULL,
    fingerprint text NOT NULL,
    state text NOT NULL,
    "references" text[] NOT NULL,
    ended_at timestamptz NOT NULL,
    pruned_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (definition, key)
);

CREATE TABLE amends.process (
    owner text NOT NULL PRIMARY KEY,
    kind text NOT NULL,
    queues text[] NOT NULL,
    definition_hashes text[] NOT NULL,
    amends_version text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
"""

APPEND_ONLY = """
CREATE FUNCTION amends.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'amends.saga_log is append-only: % refused', TG_OP
        USING ERRCODE = 'insufficient_privilege',
              HINT = 'Facts are corrected by later facts, through the operator verbs.';
END $$;
CREATE TRIGGER saga_log_rows_stay BEFORE UPDATE OR DELETE ON amends.saga_log
    FOR EACH ROW EXECUTE FUNCTION amends.refuse_change();
CREATE TRIGGER saga_log_stays BEFORE TRUNCATE ON amends.saga_log
    FOR EACH STATEMENT EXECUTE FUNCTION amends.refuse_change();
ALTER TABLE amends.saga_log ENABLE ALWAYS TRIGGER saga_log_rows_stay;
ALTER TABLE amends.saga_log ENABLE ALWAYS TRIGGER saga_log_stays;
"""

ROLES = """
DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['amends_client', 'amends_worker', 'amends_reader'] LOOP
        BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
            END IF;
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN NULL;
            WHEN insufficient_privilege THEN
                RAISE NOTICE 'role % must be created by an administrator', role_name;
        END;
    END LOOP;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'amends_client') THEN
        GRANT USAGE ON SCHEMA amends TO amends_client;
        GRANT SELECT ON ALL TABLES IN SCHEMA amends TO amends_client;
        GRANT INSERT ON amends.saga, amends.saga_log, amends.attempt, amends.signal
            TO amends_client;
        GRANT UPDATE (seq, due_at, updated_at) ON amends.saga TO amends_client;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'amends_worker') THEN
        GRANT USAGE ON SCHEMA amends TO amends_worker;
        GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA amends TO amends_worker;
        GRANT UPDATE ON amends.saga, amends.attempt, amends.signal, amends.process
            TO amends_worker;
        GRANT DELETE ON amends.attempt, amends.process TO amends_worker;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'amends_reader') THEN
        GRANT USAGE ON SCHEMA amends TO amends_reader;
        GRANT SELECT ON ALL TABLES IN SCHEMA amends TO amends_reader;
    END IF;
END $$;
"""


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(APPEND_ONLY)
    op.execute(ROLES)


def downgrade() -> None:
    raise RuntimeError("the saga log is not taken down by a migration; drop the schema by hand")
