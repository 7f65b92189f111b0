"""Sagas that ended long ago, planted as rows: as many as a test or a measurement wants."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from orchestrator.payloads import fingerprint
from orchestrator.state import TERMINAL
from orchestrator.storage.retention import Retention
from recovery.pruner import Pruner, PruneReport
from tests.histories import doing, saga
from tests.integration.engine import Engine

SHOP = saga(doing("pay"), doing("ship"), attributes=["amount"])
ORDER = {"amount": 1}
NINETY_DAYS = timedelta(days=90)
ENDS = sorted(TERMINAL)

PLANT = """
WITH sagas AS (
    INSERT INTO amends.saga (id, definition, version, definition_hash, key, fingerprint, state, seq,
        attributes, created_at, updated_at, ended_at)
    SELECT gen_random_uuid(), 'shop', 1, :hash, :prefix || n, :print, 'completed', 6,
        '{"amount": 1}', moment - interval '1 minute', moment, moment
    FROM (SELECT n, clock_timestamp() - make_interval(days => :days, secs => n / 100.0) AS moment
        FROM generate_series(1, :count) AS n) AS ended
    RETURNING id, key, ended_at
)
INSERT INTO amends.saga_log (saga_id, seq, kind, data, recorded_at)
SELECT s.id, e.seq, e.kind, e.data, s.ended_at
FROM sagas s, LATERAL (VALUES
    (1, 'SagaStarted', jsonb_build_object('payload', jsonb_build_object('amount', 1))),
    (2, 'StepStarted', '{"step": "pay", "direction": "forward", "attempt": 1, "owner": "w"}'),
    (3, 'StepSucceeded', jsonb_build_object('step', 'pay', 'direction', 'forward', 'attempt', 1,
        'reference', 'ch_' || s.key)),
    (4, 'StepStarted', '{"step": "ship", "direction": "forward", "attempt": 1, "owner": "w"}'),
    (5, 'StepSucceeded', '{"step": "ship", "direction": "forward", "attempt": 1}'),
    (6, 'SagaCompleted', '{}')
) AS e(seq, kind, data)
"""


def plant(engine: Engine, count: int, *, days: int = 100, prefix: str = "order-") -> None:
    """Insert completed sagas of `SHOP` that ended so many days ago, each with six entries."""
    engine.sql(
        PLANT, hash=SHOP.hash, print=fingerprint(ORDER), prefix=prefix, count=count, days=days
    )


def old(engine: Engine, key: str, days: int = 100) -> UUID:
    """Run a saga of `SHOP` to its end, and make it so old."""
    saga_id = engine.client.start(SHOP, ORDER, key=key).id
    assert engine.finish(saga_id) == "completed"
    age(engine, saga_id, days)
    return saga_id


def age(engine: Engine, saga_id: UUID, days: int = 100) -> None:
    """Make a saga older than it is."""
    engine.sql(
        "UPDATE amends.saga SET created_at = created_at - make_interval(days => :days), "
        "ended_at = ended_at - make_interval(days => :days) WHERE id = :id",
        id=saga_id,
        days=days,
    )


def prune(retention: Retention, *, archive: Any = None, **options: Any) -> PruneReport:
    """Prune everything that ended 90 days ago."""
    return Pruner(retention, older_than=NINETY_DAYS, archive=archive).run(ENDS, **options)


def rows(engine: Engine) -> tuple[int, int]:
    """How many sagas and entries there are."""
    [(sagas, entries)] = engine.sql(
        "SELECT (SELECT count(*) FROM amends.saga), (SELECT count(*) FROM amends.saga_log)"
    )
    return sagas, entries
