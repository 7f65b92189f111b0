"""A worker leaves a saga alone, before it claims anything, whose log only a newer one can read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import pytest

from orchestrator import entries
from orchestrator.entries import SagaStarted, StepSucceeded, encode, format_of, log_format
from orchestrator.storage.attempts import Attempts
from orchestrator.storage.database import Database
from orchestrator.storage.processes import Process, Processes
from orchestrator.storage.vital_signs import VitalSigns
from recovery.sweeper import Sweeper
from tests.histories import doing, saga
from tests.integration.engine import Engine, events

SHOP = saga(doing("reserve"), doing("pay"))
NEW_FIELD: dict[tuple[str, str | None], int] = {("StepSucceeded", "step"): 2}
NEW_KIND: dict[tuple[str, str | None], int] = {("StepSucceeded", None): 2}


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = Engine(database, SHOP)
    yield made
    made.close()


@contextmanager
def newer(what: dict[tuple[str, str | None], int]) -> Iterator[None]:
    """As a version in which `what` is new; outside of it, as the version before."""
    entries.SINCE.update(what)
    try:
        yield
    finally:
        entries.SINCE.clear()


def half_way(engine: Engine, what: dict[tuple[str, str | None], int]) -> UUID:
    """A saga whose first step the newer version has recorded; the second is due."""
    with newer(what):
        started = engine.client.start("shop", {"amount": 1}, key="order-1")
        engine.coordinator.execute(engine.claim(started.id))
    return started.id


@pytest.mark.parametrize("what", [NEW_FIELD, NEW_KIND], ids=["field", "kind"])
def test_an_older_worker_claims_nothing_of_what_it_cannot_read(
    engine: Engine, what: dict[tuple[str, str | None], int]
) -> None:
    saga_id = half_way(engine, what)
    before = engine.kinds(saga_id)
    [attempt] = engine.attempts(saga_id)
    engine.work()
    assert engine.kinds(saga_id) == before
    assert "StepStarted" not in before[3:]
    assert engine.attempts(saga_id) == [attempt]

    with newer(what):
        assert engine.finish(saga_id) == "completed"


def test_an_older_workers_sweep_neither_looks_at_it_nor_rings_for_it(engine: Engine) -> None:
    saga_id = half_way(engine, NEW_FIELD)
    engine.bell.messages.clear()
    engine.sql("UPDATE amends.saga SET due_at = clock_timestamp()")
    engine.sql("UPDATE amends.attempt SET ring_at = clock_timestamp(), rung_count = 0")
    before = engine.kinds(saga_id)

    with events() as heard:
        report = Sweeper(engine.coordinator, Database(engine.pool)).run_once()

    assert (report.foreign, report.looked, report.rung) == (1, 0, 0)
    assert engine.kinds(saga_id) == before
    assert not engine.bell.messages
    assert "saga.foreign_definition" in [event for event, _ in heard]


def test_it_is_left_to_the_newer_workers_that_are_there(engine: Engine) -> None:
    half_way(engine, NEW_FIELD)
    engine.sql("UPDATE amends.saga SET due_at = clock_timestamp()")
    process = Process(
        owner="newer", kind="worker", queues=[], definition_hashes=[SHOP.hash], amends_version="2"
    )
    attempts = Attempts(Database(engine.pool))
    with newer(NEW_FIELD):
        Processes(Database(engine.pool)).seen(process)
    assert attempts.due_sagas([SHOP.hash]) == []
    with newer(NEW_FIELD):
        assert len(attempts.due_sagas([SHOP.hash])) == 1


def test_an_older_process_that_looks_all_the_same_says_why_it_cannot(engine: Engine) -> None:
    saga_id = half_way(engine, NEW_FIELD)
    before = engine.client.get(saga_id)
    with events() as heard:
        engine.coordinator.mover.look(saga_id)
    [fields] = [fields for event, fields in heard if event == "saga.unreadable"]
    assert "upgrade this process" in str(fields["error"])
    assert engine.client.get(saga_id) == before


def test_what_only_a_newer_version_reads_is_counted_before_a_deploy(engine: Engine) -> None:
    half_way(engine, NEW_FIELD)
    signs = VitalSigns(Database(engine.pool))
    assert [each.sagas for each in signs.unreadable([SHOP.hash])] == [1]
    with newer(NEW_FIELD):
        assert signs.unreadable([SHOP.hash]) == []


def test_an_entry_without_anything_new_stays_readable_by_older_workers(engine: Engine) -> None:
    with newer({("StepSucceeded", "reference"): 2}):
        plain = StepSucceeded(step="pay", direction="forward", attempt=1)
        assert format_of(plain) == entries.FIRST_FORMAT
        assert format_of(plain, SagaStarted(payload=None)) == entries.FIRST_FORMAT
        assert format_of(StepSucceeded(**encode(plain)[1], reference="p-1")) == 2
        assert log_format() == 2
    assert log_format() == entries.FIRST_FORMAT
