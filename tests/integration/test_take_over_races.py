"""A take-over while others hold the row: not put off for a sweep, and never given up wrongly."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from orchestrator.entries import UnknownReason
from orchestrator.storage.database import Database
from recovery.sweeper import Sweeper
from tests.histories import doing, saga
from tests.integration.engine import Engine, wait_until

SHOP = saga(doing("pay", timeout=timedelta(seconds=60)))


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = Engine(database, SHOP)
    yield made
    made.close()


def _expired(engine: Engine) -> Any:
    """A claim whose lease is over, though its process lives."""
    claim = engine.claim(engine.client.start("shop", {"amount": 1}, key="order-1").id)
    engine.sql("UPDATE amends.attempt SET lease_until = clock_timestamp() - interval '1 s'")
    claim.lease.valid_until -= 16
    return claim


@contextmanager
def _row_held(database: str, saga_id: UUID) -> Iterator[None]:
    """Hold the saga's row, as another transaction does that has not committed yet."""
    with psycopg.connect(database.replace("+psycopg", "")) as connection:
        connection.execute("SELECT FROM amends.saga WHERE id = %s FOR UPDATE", (saga_id,))
        yield
        connection.rollback()


def _is_blocked(engine: Engine) -> bool:
    [(count,)] = engine.sql(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND wait_event_type = 'Lock' AND query ILIKE '%UPDATE amends.saga SET%'"
    )
    return bool(count)


def test_a_lease_that_was_extended_while_a_take_over_waited_is_not_taken(
    engine: Engine, database: str
) -> None:
    claim = _expired(engine)
    snapshot = engine.coordinator.log.read(claim.attempt.saga_id)
    assert snapshot is not None
    gave_up: list[bool] = []

    def take_over() -> None:
        mover = engine.coordinator.mover
        gave_up.append(mover.give_up(snapshot.attempts[0], UnknownReason.LEASE_LOST))

    with _row_held(database, claim.attempt.saga_id):
        thread = threading.Thread(target=take_over, daemon=True)
        thread.start()
        wait_until(lambda: _is_blocked(engine))
        claim.lease.valid_until += 1
        assert engine.coordinator.leases.extend() == 1
    thread.join(20)

    assert gave_up == [False]
    assert engine.kinds(claim.attempt.saga_id)[-1] == "StepStarted"


def test_what_a_sweep_could_not_take_over_the_next_look_does(engine: Engine, database: str) -> None:
    claim = _expired(engine)
    sweeper = Sweeper(engine.coordinator, Database(engine.pool))
    with _row_held(database, claim.attempt.saga_id):
        assert sweeper.run_once().taken_over == 0

    assert sweeper.take_over_lost().taken_over == 1
    assert sweeper.take_over_lost().taken_over == 0
