"""What the saga log says was moved, taken out of it in SQL: the same as the engine's own books."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import pytest

from orchestrator.books import movements
from orchestrator.context import Effect, Movement
from orchestrator.entries import Recorded
from orchestrator.storage.database import Database
from orchestrator.storage.saga_log import SagaLog
from recovery.reconciliation.business_day import BusinessDay
from recovery.reconciliation.storage.comparison import comparison, session
from tests.histories import doing, saga
from tests.integration.engine import Engine

TODAY = BusinessDay.of(datetime.now(UTC).date(), "UTC")


def moved(kind: str, reference: str | None, minor: int = 100, **more: Any) -> Movement:
    return Movement(kind=kind, amount_minor=minor, currency="EUR", reference=reference, **more)


def holds(ctx: Any) -> Effect:
    name = f"p-{ctx.saga_key}"
    return Effect(reference=name, movements=[moved("authorize", name), moved("loyalty", name)])


def takes(ctx: Any) -> Effect:
    name = f"p-{ctx.saga_key}"
    return Effect(reference=name, movements=[moved("capture", name), moved("capture", None, 3)])


def gives_back(ctx: Any) -> Effect:
    name = f"r-{ctx.saga_key}-{ctx.attempt}"
    return Effect(reference=name, movements=[moved("refund", name, pending=True)])


def lets_go(ctx: Any) -> Effect:
    name = f"p-{ctx.saga_key}"
    return Effect(reference=name, movements=[moved("void", name)])


SHOP = saga(
    doing("hold", run=holds, compensation=lets_go),
    doing("take", run=takes, compensation=gives_back),
    doing("ship"),
)


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = Engine(database, SHOP)
    yield made
    made.close()


def projected(engine: Engine, day: BusinessDay = TODAY, *sagas: str) -> list[tuple[Any, ...]]:
    with session(Database(engine.pool)) as connection:
        compared = comparison(connection)
        compared.project(day, sagas)
        return connection.execute(
            "SELECT saga_id, step, kind, currency, reference, amount_minor, status FROM internal"
        ).fetchall()


def by_the_books(engine: Engine) -> list[tuple[Any, ...]]:
    """The engine's own fold; an undo that failed is not in it, and is `failed` here."""
    log = SagaLog(Database(engine.pool))
    ids = [row[0] for row in engine.sql("SELECT id FROM amends.saga")]
    found = []
    for saga_id in ids:
        entries: list[Recorded] = log.entries(saga_id)
        found += [
            (saga_id, e.step, e.kind, e.currency, e.reference, e.minor, "moved")
            for e in movements(entries)
            if e.kind != "loyalty"
        ]
    return found


def start(engine: Engine, key: str) -> Any:
    return engine.client.start("shop", {"amount": 1}, key=key).id


def test_the_projection_is_the_books_of_every_way_in_which_money_is_told_of(
    engine: Engine,
) -> None:
    done = start(engine, "done")
    assert engine.finish(done) == "completed"
    engine.client.report_effect(
        done, "hold", Effect(reference="p-2", movements=[moved("authorize", "p-2")]), by="a test"
    )
    assert engine.finish(done) == "completed"
    undone = start(engine, "undone")
    engine.coordinator.execute(engine.claim(undone, "hold"), lambda _queue: False)
    engine.coordinator.execute(engine.claim(undone, "take"), lambda _queue: False)
    engine.client.cancel(undone, reason="a test")
    assert engine.finish(undone) == "compensated"
    engine.client.report_settled(undone, "take", "r-undone-1", by="a test")

    found = projected(engine)

    assert sorted(found, key=str) == sorted(by_the_books(engine), key=str)
    assert {each[2] for each in found} == {"authorize", "capture", "void", "refund"}
    assert len(found) == 10


def test_a_refund_that_failed_is_told_as_failed_and_its_repetition_as_moved(
    engine: Engine,
) -> None:
    undone = start(engine, "undone")
    engine.coordinator.execute(engine.claim(undone, "hold"), lambda _queue: False)
    engine.coordinator.execute(engine.claim(undone, "take"), lambda _queue: False)
    engine.client.cancel(undone, reason="a test")
    assert engine.finish(undone) == "compensated"

    engine.client.report_undo_failed(undone, "take", "r-undone-1", by="a test")

    refunds = [each[4:] for each in projected(engine) if each[2] == "refund"]
    assert refunds == [("r-undone-1", 100, "failed")]
    assert not [each for each in by_the_books(engine) if each[2] == "refund"]


def test_sagas_of_other_days_and_other_definitions_are_left_out(engine: Engine) -> None:
    start(engine, "one")
    engine.work()

    assert projected(engine, TODAY, "shop")
    assert projected(engine, TODAY, "another") == []
    for day in (date(2020, 1, 1), date(2090, 1, 1)):
        assert projected(engine, BusinessDay.of(day, "UTC")) == []


def test_reading_the_ledger_in_slices_leaves_nobody_out(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(7):
        start(engine, f"n-{number}")
    engine.work()
    whole = projected(engine)

    monkeypatch.setattr("recovery.reconciliation.storage.comparison.SAGAS_AT_ONCE", 2)

    assert projected(engine) == whole
    assert len(whole) == 21
