"""Delivering signals: nobody who holds a row keeps others from hearing, and order is kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy

from orchestrator.entries import SignalReceived
from orchestrator.instrumentation import observed
from orchestrator.storage import signals
from orchestrator.storage.database import Database
from orchestrator.waits import wait_for
from recovery.sweeper import Sweeper
from tests.histories import doing, saga
from tests.integration.engine import Engine

PATIENT = saga(wait_for("approved", within=timedelta(hours=1)), doing("ship"))


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = Engine(database, PATIENT)
    yield made
    made.close()


def waiting(engine: Engine, key: str = "order-1") -> UUID:
    saga_id = engine.client.start(PATIENT, {"amount": 1}, key=key).id
    engine.work()
    return saga_id


def keep(engine: Engine, key: str, dedup_id: str = "1") -> None:
    """What a sender has done that died before it delivered."""
    engine.sql(
        "INSERT INTO amends.signal (definition, key, name, dedup_id, payload) "
        "VALUES ('shop', :key, 'approved', :dedup_id, '1')",
        key=key,
        dedup_id=dedup_id,
    )


def heard(engine: Engine, saga_id: UUID) -> list[str]:
    return [e.dedup_id for e in engine.entries(saga_id) if isinstance(e, SignalReceived)]


@contextmanager
def held(engine: Engine, statement: str, **values: Any) -> Iterator[None]:
    """Hold rows as a process does that was stopped inside a transaction."""
    with engine.pool.connect() as connection, connection.begin():
        connection.execute(sqlalchemy.text(f"{statement} FOR UPDATE"), values)
        yield


SAGA_ROW = "SELECT 1 FROM amends.saga WHERE id = :id"


def test_a_saga_whose_row_is_held_does_not_keep_the_sweep_from_the_others(engine: Engine) -> None:
    first, second = waiting(engine, "a"), waiting(engine, "b")
    keep(engine, "a")
    keep(engine, "b")
    sweeper = Sweeper(engine.coordinator, Database(engine.pool))

    with held(engine, SAGA_ROW, id=first):
        sweeper.run_once()
        assert engine.finish(second) == "completed"
        assert heard(engine, first) == []

    sweeper.run_once()
    assert engine.finish(first) == "completed"


def test_telling_a_saga_whose_row_is_held_keeps_the_signal_for_later(engine: Engine) -> None:
    saga_id = waiting(engine)
    with held(engine, SAGA_ROW, id=saga_id):
        assert engine.client.signal(saga_id, "approved", "yes", dedup_id="1")
    assert heard(engine, saga_id) == []
    Sweeper(engine.coordinator, Database(engine.pool)).run_once()
    assert engine.finish(saga_id) == "completed"


def test_a_signal_does_not_overtake_one_that_somebody_is_delivering(engine: Engine) -> None:
    saga_id = waiting(engine)
    keep(engine, "order-1", "1")
    with held(engine, "SELECT 1 FROM amends.signal WHERE dedup_id = '1'"):
        assert engine.client.signal(saga_id, "approved", "later", dedup_id="2")
        assert heard(engine, saga_id) == []
    engine.coordinator.mover.deliver()
    assert heard(engine, saga_id) == ["1", "2"]


def test_however_many_deliver_at_once_each_signal_is_heard_once_and_in_order(
    engine: Engine,
) -> None:
    ids = [waiting(engine, str(number)) for number in range(4)]
    for number in range(100):
        keep(engine, str(number % 4), f"{number:03}")
    threads = [threading.Thread(target=engine.coordinator.mover.deliver) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    while engine.coordinator.mover.deliver():
        pass
    for place, saga_id in enumerate(ids):
        assert heard(engine, saga_id) == [f"{number:03}" for number in range(place, 100, 4)]


def test_a_log_that_cannot_be_read_does_not_keep_signals_from_the_others(engine: Engine) -> None:
    broken, sound = waiting(engine, "a"), waiting(engine, "b")
    engine.sql(
        "INSERT INTO amends.saga_log (saga_id, seq, kind, data) VALUES (:id, 4, 'Nonsense', '{}')",
        id=broken,
    )
    engine.sql("UPDATE amends.saga SET seq = 4 WHERE id = :id", id=broken)
    keep(engine, "a")
    keep(engine, "b")
    Sweeper(engine.coordinator, Database(engine.pool)).run_once()
    assert engine.finish(sound) == "completed"


def test_among_many_that_nobody_will_hear_a_signal_is_found_in_some_sweeps(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "WINDOW", 3)
    saga_id = waiting(engine)
    for number in range(7):
        keep(engine, f"never-started-{number}")
    keep(engine, "order-1")
    for number in range(7, 12):
        keep(engine, f"never-started-{number}")
    sweeper = Sweeper(engine.coordinator, Database(engine.pool))
    for _ in range(3):
        sweeper.run_once()
    assert engine.finish(saga_id) == "completed"


def test_of_the_newest_signals_none_waits_for_those_that_nobody_will_hear(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "WINDOW", 3)
    saga_id = waiting(engine)
    for number in range(100):
        keep(engine, f"never-started-{number}")
    keep(engine, "order-1")
    Sweeper(engine.coordinator, Database(engine.pool)).run_once()
    assert engine.finish(saga_id) == "completed"


def test_what_came_before_its_saga_is_heard_when_it_begins_to_wait(engine: Engine) -> None:
    engine.client.signal(("shop", "order-1"), "approved", "yes", dedup_id="1")
    saga_id = engine.client.start(PATIENT, {"amount": 1}, key="order-1").id
    assert engine.finish(saga_id) == "completed"


def test_more_signals_than_one_batch_are_delivered_in_one_sweep(engine: Engine) -> None:
    saga_id = waiting(engine)
    engine.sql(
        "INSERT INTO amends.signal (definition, key, name, dedup_id, payload) "
        "SELECT 'shop', 'order-1', 'noise', n::text, '1' FROM generate_series(1, 1100) n"
    )
    Sweeper(engine.coordinator, Database(engine.pool)).run_once()
    assert len(heard(engine, saga_id)) == 1100


def test_observers_are_told_of_every_signal_that_a_saga_hears(engine: Engine) -> None:
    first, second = waiting(engine, "a"), waiting(engine, "b")
    keep(engine, "a", "by-a-sweep")
    told: list[tuple[object, str]] = []

    def watch(event: str, fields: dict[str, Any]) -> None:
        if event == "saga.entry" and isinstance(fields["entry"], SignalReceived):
            told.append((fields["saga_id"], fields["entry"].dedup_id))

    with observed(watch):
        engine.coordinator.mover.deliver()
        engine.client.signal(second, "approved", "yes", dedup_id="by-its-sender")

    assert told == [(first, "by-a-sweep"), (second, "by-its-sender")]
