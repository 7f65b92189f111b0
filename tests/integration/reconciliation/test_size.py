"""A whole day of the saga log: exact, in seconds, in bounded memory, whatever lies around it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator.client import SagaClient
from orchestrator.storage.database import Database, create_engine
from recovery.reconciliation.business_day import BusinessDay
from recovery.reconciliation.daily import DailyReconciliation, Reports
from recovery.reconciliation.records import Row, TransactionRecord
from recovery.reconciliation.storage.comparison import comparison, session
from tests.integration.engine import Engine
from tests.peak_memory import peak_mb
from tests.yesterday import NOON, YESTERDAY

PLANT = """
WITH sagas AS (
    INSERT INTO amends.saga (id, definition, version, definition_hash, key, fingerprint, state, seq,
        attributes, created_at, updated_at, ended_at)
    SELECT gen_random_uuid(), 'shop', 1, 'h', CAST(:prefix AS text) || n, 'f', 'completed', 6, '{}',
        moment, moment, moment
    FROM (SELECT n, CAST(:noon AS timestamptz)
            - make_interval(days => CAST(:since AS int) + n % CAST(:days AS int)) AS moment
        FROM generate_series(CAST(:first AS int), CAST(:last AS int)) AS n) AS ended
    RETURNING id, key, ended_at
)
INSERT INTO amends.saga_log (saga_id, seq, kind, data, recorded_at)
SELECT s.id, e.seq, e.kind, e.data, s.ended_at
FROM sagas s, LATERAL (VALUES
    (1, 'SagaStarted', jsonb_build_object('payload', jsonb_build_object('amount', 1))),
    (2, 'StepStarted', '{"step": "hold", "direction": "forward", "attempt": 1, "owner": "w"}'),
    (3, 'StepSucceeded', jsonb_build_object('step', 'hold', 'direction', 'forward', 'attempt', 1,
        'reference', 'p-' || s.key, 'movements', jsonb_build_array(jsonb_build_object(
            'kind', 'authorize', 'amount_minor', 100, 'currency', 'EUR',
            'reference', 'p-' || s.key)))),
    (4, 'StepStarted', '{"step": "take", "direction": "forward", "attempt": 1, "owner": "w"}'),
    (5, 'StepSucceeded', jsonb_build_object('step', 'take', 'direction', 'forward', 'attempt', 1,
        'reference', 'p-' || s.key, 'movements', jsonb_build_array(jsonb_build_object(
            'kind', 'capture', 'amount_minor', 100, 'currency', 'EUR',
            'reference', 'p-' || s.key)))),
    (6, 'SagaCompleted', '{}')
) AS e(seq, kind, data)
"""


AT_ONCE = 10_000


def plant(engine: Engine, count: int, *, days: int = 1, since: int = 0) -> None:
    """Completed sagas with a hold and a capture, over days up to `since` before yesterday."""
    for first in range(1, count + 1, AT_ONCE):
        engine.sql(
            PLANT,
            prefix=f"{since}-",
            first=first,
            last=min(count, first + AT_ONCE - 1),
            days=days,
            since=since,
            noon=NOON,
        )
    engine.sql("ANALYZE amends.saga")
    engine.sql("ANALYZE amends.saga_log")


def lines(count: int, days: int) -> Iterator[Row]:
    """What the gateway tells of yesterday's sagas: one is missing, one is odd, one is strange."""
    strange = range(count + days, count + 2 * days, days)
    for number in (*range(days, count + 1, days), *strange):
        for kind in ("authorize", "capture"):
            if (number, kind) == (days, "capture"):
                continue
            yield TransactionRecord(
                reference=f"p-0-{number}",
                amount_minor=99 if (number, kind) == (2 * days, "capture") else 100,
                currency="EUR",
                at=NOON,
                kind=kind,
                order_reference=f"0-{number}",
            )


WANTED = {"amount_mismatch": 1, "missing_gateway": 1, "missing_internal": 2}


def reconcile(url: str, count: int, days: int) -> None:
    """Reconcile yesterday and print what it took; run in a process of its own."""
    pool = create_engine(url)
    database = Database(pool)
    daily = DailyReconciliation(database, SagaClient(pool), name="bank")
    began = time.monotonic()
    done = daily.run(YESTERDAY, Reports(day=lines(count, days), before=(), after=()))
    seconds = time.monotonic() - began
    began = time.monotonic()
    with session(database) as connection:
        comparison(connection).project(BusinessDay.of(YESTERDAY, "UTC"), [])
    told = {
        "found": dict(done.found),
        "matched": done.run.matched_count,
        "seconds": round(seconds, 1),
        "of_which_the_ledger": round(time.monotonic() - began, 1),
        "peak_mb": peak_mb(),
    }
    print(json.dumps(told))
    pool.dispose()


def measured(url: str, count: int, days: int) -> dict[str, Any]:
    program = (
        "import sys; from tests.integration.reconciliation.test_size import reconcile; "
        "reconcile(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, url, str(count), str(days)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": "."},
    )
    told: dict[str, Any] = json.loads(done.stdout)
    print(f"\nmeasured: {count:,} sagas over {days} days: {told}")
    return told


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = Engine(database)
    yield made
    made.close()


def test_a_day_among_many_is_exact(engine: Engine, database: str) -> None:
    plant(engine, 10_000, days=5)

    told = measured(database, 10_000, 5)

    assert told["found"] == WANTED
    assert told["matched"] == 2 * 2_000 - 2
    assert told["peak_mb"] < 200


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_hundred_thousand_sagas_of_one_day_are_exact_in_seconds(
    engine: Engine, database: str
) -> None:
    plant(engine, 100_000)
    plant(engine, 100_000, days=9, since=1)

    told = measured(database, 100_000, 1)

    assert told["found"] == WANTED
    assert told["matched"] == 2 * 100_000 - 2
    assert told["peak_mb"] < 200
    assert told["seconds"] < 120
