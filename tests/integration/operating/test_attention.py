"""What needs a person: found through indexes, in the right order, with what to type first."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from orchestrator.storage import attention as statements
from orchestrator.storage.attention import Attention
from orchestrator.storage.database import Database
from orchestrator.storage.reads import Reads
from recovery.operator.attention import Row, needing_attention
from recovery.operator.operator import Operator
from tests.integration.engine import Engine
from tests.integration.operating.world import (
    LOST,
    PAID,
    World,
    start,
    undone,
    unknown,
)


def look(engine: Engine, operator: Operator, **options: Any) -> list[Row]:
    database = Database(engine.pool)
    settings = {
        "retrying_seconds": 900.0,
        "overdue_seconds": 60.0,
        "unclaimed_seconds": 60.0,
    } | options
    return needing_attention(Attention(database), Reads(database), operator, **settings)


def retrying(engine: Engine, world: World, key: str) -> UUID:
    world.pay = LOST
    saga_id = start(engine, "patient", key)
    engine.work()
    return saga_id


def long_ago(engine: Engine, saga_id: UUID, minutes: int) -> None:
    """Let everything of a saga have happened earlier, behind the trigger's back."""
    engine.sql("ALTER TABLE amends.saga_log DISABLE TRIGGER ALL")
    engine.sql(
        "UPDATE amends.saga_log SET recorded_at = recorded_at - make_interval(mins => :n) "
        "WHERE saga_id = :id",
        id=saga_id,
        n=minutes,
    )
    engine.sql("ALTER TABLE amends.saga_log ENABLE TRIGGER ALL")


def test_the_oldest_unknown_comes_first_then_what_waits_longest(
    engine: Engine, operator: Operator, world: World
) -> None:
    younger = unknown(engine, world, key="younger")
    older = unknown(engine, world, "askable", key="older")
    refund = undone(engine, world, key="refund")
    failing = retrying(engine, world, "failing")
    fine = retrying(engine, world, "fine")
    late = start(engine, key="late")
    long_ago(engine, older, 40)
    long_ago(engine, refund, 50)
    long_ago(engine, failing, 30)
    engine.sql(
        "UPDATE amends.saga SET due_at = clock_timestamp() - interval '2 h' WHERE id = :id", id=late
    )
    rows = look(engine, operator)
    assert [each.saga.id for each in rows] == [older, failing, younger, late, refund]
    assert fine not in [each.saga.id for each in rows]
    assert [each.why for each in rows] == [
        *("unknown", "retrying", "unknown", "overdue", "compensation_exhausted")
    ]
    assert [each.advice.command.split()[1] for each in rows] == [
        *("probe", "retry", "retry", "doctor", "mark-done")
    ]
    assert rows[0].unknown_since is not None
    assert (datetime.now(UTC) - rows[0].unknown_since).total_seconds() > 40 * 60
    assert rows[-1].money["EUR"].captured_minor == 1990
    assert rows[-1].steps == ("pay",)


def test_only_so_many_are_listed_and_only_of_one_definition(
    engine: Engine, operator: Operator, world: World
) -> None:
    for n in range(3):
        unknown(engine, world, key=f"order-{n}")
    other = unknown(engine, world, "askable")
    assert len(look(engine, operator, limit=2)) == 2
    assert [each.saga.id for each in look(engine, operator, saga="askable")] == [other]


def test_a_saga_that_moved_on_needs_nobody(
    engine: Engine, operator: Operator, world: World
) -> None:
    saga_id = retrying(engine, world, "failing")
    long_ago(engine, saga_id, 30)
    world.pay = PAID
    engine.sql("UPDATE amends.attempt SET due_at = clock_timestamp()")
    assert engine.finish(saga_id) == "completed"
    assert look(engine, operator) == []


def test_a_log_that_cannot_be_read_is_listed_all_the_same(
    engine: Engine, operator: Operator, world: World
) -> None:
    saga_id = unknown(engine, world)
    engine.sql(
        "WITH moved AS (UPDATE amends.saga SET seq = seq + 1 RETURNING id, seq) "
        "INSERT INTO amends.saga_log (saga_id, seq, kind, data) "
        "SELECT id, seq, 'SagaBlessed', '{}' FROM moved"
    )
    [row] = look(engine, operator)
    assert (row.saga.id, row.advice.command) == (saga_id, f"amends repair {saga_id}")
    engine.sql("UPDATE amends.saga SET log_format = 99")
    [row] = look(engine, operator)
    assert (row.saga.id, row.advice.command) == (saga_id, "amends check-deploy")


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (statements.PARKED_SAGAS, "saga_parked"),
        (statements.FAILING, "attempt_pkey"),
        (statements.OVERDUE, "saga_due"),
        (statements.MATCHING, "saga_parked"),
    ],
)
def test_looking_reads_no_saga_that_needs_nobody(
    engine: Engine, statement: str, index: str
) -> None:
    """With thousands of ended sagas and attempts that wait, the plan goes through the index."""
    engine.sql(
        "INSERT INTO amends.saga (id, definition, version, definition_hash, key, fingerprint, "
        "state, seq, attributes, ended_at) SELECT gen_random_uuid(), 'shop', 1, 'h', n::text, 'f', "
        "'completed', 1, '{}', clock_timestamp() FROM generate_series(1, 20000) n"
    )
    engine.sql(
        "INSERT INTO amends.attempt (saga_id, step, direction, number, queue, due_at, ring_at, "
        "timeout_for) SELECT gen_random_uuid(), 'pay', 'forward', 2, 'q', clock_timestamp(), "
        "clock_timestamp(), interval '1 s' FROM generate_series(1, 20000) n"
    )
    engine.sql("ANALYZE amends.saga")
    engine.sql("ANALYZE amends.attempt")
    plan = _plan(engine, statement)
    assert index in plan
    assert "Seq Scan" not in plan


def _plan(engine: Engine, statement: str) -> str:
    values = {
        "definition": None,
        "version": None,
        "attributes": None,
        "states": ["stuck", "failed_compensation"],
        "reason": None,
        "step": None,
        "limit": 20,
        "age": 900.0,
    }
    with engine.pool.begin() as connection:
        found = connection.exec_driver_sql(f"EXPLAIN {statement}", values)
        return "\n".join(str(each[0]) for each in found)
