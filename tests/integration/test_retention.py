"""Retention: only whole ended sagas go, and a tombstone keeps what must be kept of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

import pytest
import sqlalchemy
from sqlalchemy.orm import Session

from orchestrator.client import Started
from orchestrator.context import Effect, Movement
from orchestrator.errors import IdempotencyConflictError, SagaNotFoundError, Terminal
from orchestrator.seam import intercepted
from orchestrator.state import State
from orchestrator.storage import retention as statements
from orchestrator.storage.database import Database, Moved
from orchestrator.storage.retention import Retention
from orchestrator.subscription import Subscription
from recovery.pruner import Pruner
from tests.ended_sagas import ENDS, NINETY_DAYS, ORDER, SHOP, age, old, plant, prune, rows
from tests.histories import doing, saga
from tests.integration.engine import Engine, wait_until
from tests.quiet_postgres import quiet  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("quiet")
T = TypeVar("T")


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = Engine(database, SHOP)
    yield made
    made.close()


@pytest.fixture
def retention(engine: Engine) -> Retention:
    return Retention(Database(engine.pool))


# -- what goes -------------------------------------------------------------------------------------


def test_an_old_ended_saga_goes_whole_and_leaves_a_tombstone(
    engine: Engine, retention: Retention
) -> None:
    plant(engine, 1)
    [(saga_id, ended)] = engine.sql("SELECT id, ended_at FROM amends.saga")

    report = prune(retention)

    assert report.pruned == {State.COMPLETED: 1}
    assert (report.kept, report.waiting) == ({}, 0)
    assert rows(engine) == (0, 0)
    assert engine.sql(
        'SELECT saga_id, definition, version, definition_hash, key, state, "references", ended_at '
        "FROM amends.tombstone"
    ) == [(saga_id, "shop", 1, SHOP.hash, "order-1", "completed", ["ch_order-1"], ended)]
    with pytest.raises(SagaNotFoundError):
        engine.client.get(saga_id)


def test_the_tombstone_has_every_outside_reference_of_the_log(
    database: str, retention: Retention
) -> None:
    def pay(_ctx: Any) -> Effect:
        return Effect(
            value={"reference": "in_value"}, reference="ch_1", movements=[moved("capture", "mv_1")]
        )

    def refund(_ctx: Any) -> Effect:
        return Effect(reference="re_1", movements=[moved("refund", "mv_2")])

    def ship(_ctx: Any) -> None:
        raise Terminal("no", details={"reference": "of_the_error"})

    shop = saga(doing("pay", run=pay, compensation=refund), doing("ship", run=ship))
    engine = Engine(database, shop)
    saga_id = engine.client.start(shop, {"amount": 1}, key="order-1").id
    assert engine.finish(saga_id) == "compensated"
    age(engine, saga_id)

    assert prune(retention).pruned == {State.COMPENSATED: 1}

    [(references,)] = engine.sql('SELECT "references" FROM amends.tombstone')
    assert references == ["ch_1", "in_value", "mv_1", "mv_2", "of_the_error", "re_1"]
    engine.close()


def moved(kind: str, reference: str) -> Movement:
    return Movement(kind=kind, amount_minor=1, currency="EUR", reference=reference)


def test_a_start_with_a_pruned_key_finds_it_and_another_payload_is_refused(
    engine: Engine, retention: Retention
) -> None:
    saga_id = old(engine, "order-1")
    prune(retention)

    again = engine.client.start(SHOP, ORDER, key="order-1")
    assert (again.id, again.created) == (saga_id, False)
    with pytest.raises(IdempotencyConflictError):
        engine.client.start(SHOP, {"amount": 2}, key="order-1")
    assert rows(engine) == (0, 0)


def test_signals_go_with_their_saga_and_old_ones_of_no_saga_by_age(
    engine: Engine, retention: Retention
) -> None:
    old(engine, "gone")
    old(engine, "young", days=0)
    for key, days, delivered in (
        ("gone", 100, True),
        ("gone", 95, False),
        ("gone", 2, False),
        ("young", 100, False),
        ("never-started", 100, False),
        ("never-started", 1, False),
    ):
        engine.sql(
            "INSERT INTO amends.signal (definition, key, name, dedup_id, payload, received_at, "
            "delivered_at) VALUES ('shop', :key, 'paid', :id, '{}', now() - make_interval(days => "
            ":days), CASE WHEN :delivered THEN now() END)",
            key=key,
            id=f"{key}-{days}",
            days=days,
            delivered=delivered,
        )

    report = prune(retention)

    assert report.signals == 1
    left = engine.sql("SELECT dedup_id FROM amends.signal ORDER BY 1")
    assert left == [("gone-2",), ("never-started-1",), ("young-100",)]


def test_only_the_states_asked_for_go_and_at_most_the_limit(
    engine: Engine, retention: Retention
) -> None:
    plant(engine, 10)
    pruner = Pruner(retention, older_than=NINETY_DAYS)
    assert pruner.run([State.COMPENSATED, State.RESOLVED]).pruned.total() == 0
    assert pruner.run([State.COMPLETED], limit=7, batch=3).pruned.total() == 7
    assert rows(engine)[0] == 3


def test_a_dry_run_changes_nothing(engine: Engine, retention: Retention) -> None:
    plant(engine, 5)
    assert prune(retention, dry_run=True).pruned == {State.COMPLETED: 5}
    assert rows(engine) == (5, 30)
    assert engine.sql("SELECT count(*) FROM amends.tombstone") == [(0,)]


# -- what stays ------------------------------------------------------------------------------------

ATTEMPT = (
    "INSERT INTO amends.attempt (saga_id, step, direction, number, queue, due_at, ring_at, "
    "timeout_for) VALUES (:id, 'pay', 'compensate', 1, 'q', now(), now(), interval '1 minute')"
)
ALERT = (
    "INSERT INTO amends.alert (id, kind, about, saga_id, data, due_at) "
    "VALUES (gen_random_uuid(), 'parked', 'x', :id, '{}', now())"
)
UNREAD = "INSERT INTO amends.subscription (name) VALUES ('slow')"
LATE = (
    "INSERT INTO amends.saga_log (saga_id, seq, kind, data) VALUES (:id, 7, 'EffectReported', "
    '\'{"step": "pay", "reference": "ch_2", "by": "a report"}\')'
)
UNKNOWN = (
    "INSERT INTO amends.saga_log (saga_id, seq, kind, data) VALUES "
    '(:id, 7, \'StepStarted\', \'{"step": "pay", "direction": "compensate", "attempt": 1, '
    '"owner": "w"}\'), (:id, 8, \'StepUnknown\', \'{"step": "pay", "direction": "compensate", '
    '"attempt": 1, "reason": "raised"}\')'
)


@pytest.mark.parametrize(
    ("because", "statement"),
    [
        ("open_attempt", ATTEMPT),
        ("holds_lock", "INSERT INTO amends.semantic_lock (saga_id, name) VALUES (:id, 'stock')"),
        ("open_alert", ALERT),
        ("unread_events", UNREAD),
        ("uncovered_effect", LATE),
        ("unknown", UNKNOWN),
    ],
)
def test_what_is_not_finished_stays(
    engine: Engine, retention: Retention, because: str, statement: str
) -> None:
    plant(engine, 2)
    [(kept,), _] = engine.sql("SELECT id FROM amends.saga ORDER BY key")
    binds = {"id": kept} if ":id" in statement else {}
    engine.sql(statement, **binds)
    engine.sql(
        "UPDATE amends.saga s SET seq = (SELECT count(*) FROM amends.saga_log l "
        "WHERE l.saga_id = s.id)"
    )

    report = prune(retention)

    everyone = because == "unread_events"
    assert report.kept == {because: 2 if everyone else 1}
    assert rows(engine)[0] == (2 if everyone else 1)
    assert engine.sql("SELECT count(*) FROM amends.tombstone") == [(0 if everyone else 1,)]


def test_a_saga_whose_events_were_all_acknowledged_goes(
    engine: Engine, retention: Retention
) -> None:
    plant(engine, 3)
    ledger = Subscription(engine.pool, "ledger")
    [first, *_] = ledger.read()
    ledger.acknowledge(first)
    assert prune(retention).kept == {"unread_events": 3}
    list(ledger.events())
    assert prune(retention).pruned.total() == 3
    plant(engine, 1, prefix="later-")
    assert prune(retention).kept == {"unread_events": 1}
    ledger.forget()
    assert prune(retention).pruned.total() == 1


@pytest.mark.parametrize("relative", ["open", "young"])
@pytest.mark.parametrize("asked", ["parent", "child"])
def test_parent_and_child_stay_until_both_are_over_and_old(
    engine: Engine, retention: Retention, relative: str, asked: str
) -> None:
    plant(engine, 2)
    [(parent,), (child,)] = engine.sql("SELECT id FROM amends.saga ORDER BY key")
    engine.sql(
        "UPDATE amends.saga SET parent_id = :parent, parent_step = 'ship' WHERE id = :child",
        parent=parent,
        child=child,
    )
    other = child if asked == "parent" else parent
    if relative == "open":
        engine.sql(
            "UPDATE amends.saga SET state = 'running', due_at = now(), ended_at = NULL "
            "WHERE id = :id",
            id=other,
        )
    else:
        engine.sql("UPDATE amends.saga SET ended_at = now() WHERE id = :id", id=other)

    assert prune(retention).kept == {"parent_or_child": 1}
    assert rows(engine)[0] == 2

    engine.sql(
        "UPDATE amends.saga SET state = 'completed', due_at = NULL, "
        "ended_at = now() - interval '91 days'"
    )
    assert prune(retention).pruned.total() == 2


def test_the_young_and_the_living_stay(engine: Engine, retention: Retention) -> None:
    old(engine, "young", days=89)
    running = engine.client.start(SHOP, ORDER, key="running").id
    engine.sql("UPDATE amends.saga SET created_at = created_at - interval '1 year'")
    assert prune(retention).pruned.total() == 0
    assert rows(engine)[0] == 2
    assert engine.finish(running) == "completed"


def test_a_saga_that_moved_after_it_was_read_stays(engine: Engine, retention: Retention) -> None:
    """Its archive would not be whole."""
    plant(engine, 2)
    [page] = retention.ended(ENDS, NINETY_DAYS, 10)
    engine.sql("UPDATE amends.saga SET seq = seq + 1 WHERE id = :id", id=page[0].id)

    assert retention.prune(page, NINETY_DAYS) == {page[1].id: False}
    assert retention.prune(page, NINETY_DAYS) == {page[1].id: True}

    assert engine.sql("SELECT id FROM amends.saga") == [(page[0].id,)]


def test_a_saga_that_somebody_is_at_is_not_waited_for(engine: Engine, retention: Retention) -> None:
    plant(engine, 2)
    with engine.pool.connect() as busy:
        busy.exec_driver_sql("SELECT FROM amends.saga WHERE key = 'order-1' FOR UPDATE")
        report = prune(retention)
    assert report.pruned.total() == 1
    assert report.kept == {"busy": 1}
    assert prune(retention).pruned.total() == 1


def test_a_deletion_that_lost_to_another_transaction_is_tried_again(
    engine: Engine, retention: Retention
) -> None:
    plant(engine, 3)
    lost: list[str] = []

    def interceptor(name: str, action: Callable[[], T]) -> T:
        if name == "prune.commit" and len(lost) < 2:
            lost.append(name)
            raise Moved("deadlock detected")
        return action()

    with intercepted(interceptor):
        assert prune(retention).pruned.total() == 3
    assert len(lost) == 2


# -- a start at the very moment --------------------------------------------------------------------


def test_a_start_that_cannot_see_the_tombstone_yet_does_not_take_the_key(
    engine: Engine, retention: Retention
) -> None:
    """Its transaction began before, and sees neither the tombstone nor, one day, the row."""
    saga_id = old(engine, "order-1")
    [page] = retention.ended(ENDS, NINETY_DAYS, 10)
    with Session(engine.pool) as session:
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        session.execute(sqlalchemy.text("SELECT count(*) FROM amends.tombstone"))
        for _ in range(3):
            assert retention.prune(page, NINETY_DAYS) == {saga_id: False}

        again = engine.client.start(SHOP, ORDER, key="order-1", session=session)

        assert (again.id, again.created) == (saga_id, False)
        session.commit()
    assert retention.prune(page, NINETY_DAYS) == {saga_id: True}


STOP_AT_INSERT = """
CREATE FUNCTION amends.stop_here() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(1);
    RETURN NEW;
END $$;
CREATE TRIGGER stop_here BEFORE INSERT ON amends.saga
    FOR EACH ROW EXECUTE FUNCTION amends.stop_here();
"""


def test_a_start_that_was_under_way_before_the_tombstone_does_not_take_the_key(
    engine: Engine, retention: Retention
) -> None:
    """It has looked for a tombstone, found none, and is about to insert."""
    saga_id = old(engine, "order-1")
    [page] = retention.ended(ENDS, NINETY_DAYS, 10)
    engine.sql(STOP_AT_INSERT)
    answers: list[Started] = []
    start = threading.Thread(
        target=lambda: answers.append(engine.client.start(SHOP, ORDER, key="order-1"))
    )
    with engine.pool.connect() as gate:
        gate.exec_driver_sql("SELECT pg_advisory_lock(1)")
        start.start()
        waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        wait_until(lambda: bool(engine.sql(waiting)))
        for _ in range(3):
            assert retention.prune(page, NINETY_DAYS) == {saga_id: False}
        gate.exec_driver_sql("SELECT pg_advisory_unlock(1)")
        start.join()

    assert answers == [Started(id=saga_id, key="order-1", created=False)]
    assert retention.prune(page, NINETY_DAYS) == {saga_id: True}


def test_starts_beside_pruning_never_make_a_second_saga_of_a_key(
    engine: Engine, retention: Retention
) -> None:
    total = 300
    plant(engine, total)
    holders = dict(engine.sql("SELECT key, id FROM amends.saga"))
    answers: list[tuple[str, UUID, bool]] = []
    problems: list[BaseException] = []
    stop = threading.Event()

    def start() -> None:
        try:
            while not stop.is_set():
                for key in holders:
                    started = engine.client.start(SHOP, ORDER, key=key)
                    answers.append((key, started.id, started.created))
        except BaseException as error:  # noqa: BLE001 - shown by the assertion
            problems.append(error)

    threads = [threading.Thread(target=start) for _ in range(3)]
    for each in threads:
        each.start()
    pruned = prune(retention, batch=10).pruned.total()
    stop.set()
    for each in threads:
        each.join()

    assert problems == []
    assert pruned == total
    assert rows(engine) == (0, 0)
    assert len(answers) > total
    assert {(key, saga_id) for key, saga_id, _ in answers} <= set(holders.items())
    assert not any(created for _, _, created in answers)


# -- size ------------------------------------------------------------------------------------------


def test_a_page_is_no_longer_than_a_batch_and_none_is_met_twice(
    engine: Engine, retention: Retention
) -> None:
    plant(engine, 250)
    pages = list(retention.ended(ENDS, NINETY_DAYS, 100))
    assert [len(page) for page in pages] == [100, 100, 50]
    assert len({each.id for page in pages for each in page}) == 250


def test_a_page_is_read_by_an_index(engine: Engine) -> None:
    plant(engine, 3_000)
    engine.sql("ANALYZE amends.saga")
    with engine.pool.connect() as connection:
        plan = connection.exec_driver_sql(
            "EXPLAIN " + statements.ENDED,
            {
                "older_than": NINETY_DAYS,
                "after": "-infinity",
                "after_id": UUID(int=0),
                "cutoff": datetime.now(UTC) - NINETY_DAYS,
                "states": ENDS,
                "limit": 100,
            },
        )
        lines = "\n".join(row[0] for row in plan)
    assert "using saga_created" in lines, lines
    assert "Seq Scan on saga" not in lines, lines
