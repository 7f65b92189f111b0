"""Whether who ran into a timeout lived, and its step hangs, or died: crashes are all counted."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from orchestrator.entries import StepUnknown, UnknownReason
from orchestrator.state import State
from orchestrator.storage.database import Database, create_engine
from orchestrator.storage.process_session import ProcessSession
from orchestrator.storage.processes import Process, Processes
from recovery.sweeper import OWN_WORD, Sweeper
from tests.histories import doing, saga
from tests.integration.engine import Engine

SHOP = saga(doing("pay", timeout=timedelta(seconds=30), max_crashes=2))
OWNER = "this-worker"


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = Engine(database, SHOP)
    yield made
    made.close()


@pytest.fixture
def session(database: str) -> Iterator[ProcessSession]:
    pool = create_engine(database, pool_size=1)
    made = ProcessSession(pool)
    made.keep()
    yield made
    made.close()
    pool.dispose()


def _registered(engine: Engine, session_key: int | None) -> None:
    register = Processes(Database(engine.pool))
    register.seen(
        Process(
            owner=OWNER,
            kind="worker-threads",
            queues=(),
            definition_hashes=(),
            amends_version="1",
            session_key=session_key,
        )
    )


def _ran_out(engine: Engine, *, seconds_ago: float = 5.0, seen_ago: float = 9.0) -> None:
    """An attempt whose lease was extended up to its timeout, which has passed."""
    engine.claim(engine.client.start("shop", {"amount": 1}, key="order-1").id)
    engine.sql(
        "UPDATE amends.attempt SET timeout_at = clock_timestamp() - make_interval(secs => :ago), "
        "lease_until = clock_timestamp() - make_interval(secs => :ago)",
        ago=seconds_ago,
    )
    engine.sql("UPDATE amends.attempt SET lease_until = timeout_at")
    engine.sql(
        "UPDATE amends.process SET seen_at = clock_timestamp() - make_interval(secs => :ago)",
        ago=seen_ago,
    )


def _swept(engine: Engine) -> list[str]:
    """Why a sweep took the attempt over; empty: it was left."""
    Sweeper(engine.coordinator, Database(engine.pool)).run_once()
    [found] = engine.client.find(key="order-1")
    return [each.reason for each in engine.entries(found.id) if isinstance(each, StepUnknown)]


def test_a_process_that_shows_that_it_lives_timed_out(
    engine: Engine, session: ProcessSession
) -> None:
    _registered(engine, session.key)
    _ran_out(engine)
    assert _swept(engine) == [UnknownReason.TIMED_OUT]


def test_a_process_whose_session_is_gone_crashed(engine: Engine, session: ProcessSession) -> None:
    key = session.key
    session.close()
    _registered(engine, key)
    _ran_out(engine, seconds_ago=0.1)
    assert _swept(engine) == [UnknownReason.LEASE_LOST]


def test_a_process_nobody_has_registered_crashed(engine: Engine) -> None:
    _ran_out(engine)
    assert _swept(engine) == [UnknownReason.LEASE_LOST]


def test_without_a_session_who_was_seen_since_timed_out(engine: Engine) -> None:
    _registered(engine, None)
    _ran_out(engine, seconds_ago=5, seen_ago=4)
    assert _swept(engine) == [UnknownReason.TIMED_OUT]


def test_without_a_session_it_has_a_moment_to_say_so_itself_and_then_crashed(
    engine: Engine,
) -> None:
    _registered(engine, None)
    _ran_out(engine, seconds_ago=0.1)
    assert _swept(engine) == []
    engine.sql("UPDATE amends.attempt SET lease_until = lease_until - :own_word", own_word=OWN_WORD)
    engine.sql("UPDATE amends.attempt SET timeout_at = lease_until")
    assert _swept(engine) == [UnknownReason.LEASE_LOST]


def test_who_dies_again_and_again_late_in_its_time_is_poison_after_its_budget(
    engine: Engine,
) -> None:
    _ran_out(engine)
    assert len(_swept(engine)) == 1
    [found] = engine.client.find(key="order-1")
    engine.claim(found.id)
    engine.sql(
        "UPDATE amends.attempt SET timeout_at = clock_timestamp() - interval '5 s', "
        "lease_until = clock_timestamp() - interval '5 s'"
    )
    engine.sql("UPDATE amends.attempt SET lease_until = timeout_at")
    assert len(_swept(engine)) == 2

    parked = engine.client.get(found.id)
    assert parked.state is State.STUCK
    assert "took 2 workers down" in str(engine.entries(found.id))
