"""Moving a parked saga to a newer version: its log and its row in one compare-and-set."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy

from orchestrator.definition import Migration
from orchestrator.entries import SagaMigrated
from orchestrator.errors import UnknownDefinitionError
from orchestrator.state import State
from orchestrator.storage.attention import Attention, Filter
from orchestrator.storage.database import Database
from orchestrator.storage.vital_signs import VitalSigns
from recovery.operator.many import act_on_each, matches
from recovery.operator.operator import Operator
from recovery.operator.refusals import MovedOnError, RefusedError
from recovery.operator.replaying import Replay
from recovery.operator.verbs import Migrate, Resolve, Retry
from tests.histories import doing, saga
from tests.integration.engine import Engine
from tests.integration.operating.world import (
    ADA,
    AT_ONCE,
    LOST,
    ONCE,
    PAID,
    World,
    audit,
    by_both,
    everything,
    start,
    unknown,
)

TO_2 = Migrate(version=2)


@pytest.fixture
def both(database: str, world: World) -> Iterator[Engine]:
    """A build with the old version of the shop and the new one, which charges instead of paying."""
    options: dict[str, Any] = {"compensation": world.on_refund, "retry": ONCE, "timeout": AT_ONCE}
    ship = doing("ship", pivot=True)
    made = Engine(
        database,
        saga(doing("pay", run=world.on_pay, undo_retry=ONCE, **options), ship),
        saga(
            doing("charge", run=world.on_pay, undo_retry=ONCE, **options),
            doing("weigh"),
            ship,
            version=2,
            attributes=["amount"],
            migrates={
                1: Migration(renamed={"pay": "charge"}, payload=lambda old: {**old, "gift": True})
            },
        ),
    )
    yield made
    made.close()


@pytest.fixture
def mover(both: Engine) -> Operator:
    return Operator(both.coordinator, both.client)


def parked(engine: Engine, world: World, key: str = "order-1") -> UUID:
    """Parked under version 1 by a build that had no other, which is gone then."""
    return unknown(engine, world, key=key)


def row(engine: Engine, saga_id: UUID) -> tuple[Any, ...]:
    [found] = engine.sql(
        "SELECT version, definition_hash, fingerprint, attributes, state FROM amends.saga "
        "WHERE id = :id",
        id=saga_id,
    )
    return tuple(found)


def test_a_moved_saga_stays_parked_and_completes_under_the_newer_version(
    engine: Engine, both: Engine, mover: Operator, world: World
) -> None:
    saga_id = parked(engine, world)
    before = row(engine, saga_id)
    newer = both.coordinator.definitions.latest("shop")
    mover.act(saga_id, TO_2, ADA)
    assert row(engine, saga_id) == (2, newer.hash, before[2], {"amount": 1}, "stuck")
    assert both.kinds(saga_id)[-2:] == ["OperatorActed", "SagaMigrated"]
    assert audit(engine, saga_id) == [("migrate-saga", "ada", "called the bank")]
    with pytest.raises(UnknownDefinitionError):
        Operator(engine.coordinator, engine.client).act(saga_id, Retry(), ADA)
    mover.act(saga_id, Retry(), ADA)
    assert both.finish(saga_id) == "completed"
    assert list(both.client.results(saga_id)) == ["charge", "weigh", "ship"]
    [moved] = [each for each in both.entries(saga_id) if isinstance(each, SagaMigrated)]
    assert moved.payload == {"amount": 1, "gift": True}


def test_a_move_that_is_refused_or_overtaken_changes_nothing(
    engine: Engine, both: Engine, mover: Operator, world: World
) -> None:
    saga_id = parked(engine, world)
    before = everything(engine)
    with pytest.raises(MovedOnError):
        mover.act(saga_id, TO_2, ADA, seen=1)
    with pytest.raises(UnknownDefinitionError, match="v3"):
        mover.act(saga_id, Migrate(version=3), ADA)
    seen = mover.preview(saga_id, TO_2, ADA)
    assert seen.state is State.STUCK
    assert everything(engine) == before


def test_a_moving_saga_is_not_moved_to_another_version(
    engine: Engine, both: Engine, mover: Operator, world: World
) -> None:
    saga_id = start(engine)
    with pytest.raises(RefusedError, match="only a parked saga"):
        mover.act(saga_id, TO_2, ADA)


def test_all_parked_ones_of_a_version_are_moved_and_no_others(
    engine: Engine, both: Engine, mover: Operator, world: World
) -> None:
    old = [parked(engine, world, f"order-{n}") for n in range(3)]
    world.pay = LOST
    new = both.client.start("shop", {"amount": 1}, key="new").id
    both.finish(new)
    moving = start(engine, key="moving")
    found = matches(Attention(Database(both.pool)), Filter(definition="shop", version=1))
    assert {each for each, _ in found.sagas} == set(old)
    assert len(act_on_each(mover, found, TO_2, ADA).done) == 3
    versions = dict(engine.sql("SELECT id, version FROM amends.saga"))
    assert versions == {**dict.fromkeys([*old, new], 2), moving: 1}


def test_what_a_build_cannot_finish_is_counted_until_it_is_moved(
    engine: Engine, both: Engine, mover: Operator, world: World
) -> None:
    """The saga in flight that waits counts as much as the one that is parked."""
    stuck = parked(engine, world)
    waiting = start(engine, key="waiting")
    signs = VitalSigns(Database(engine.pool))
    only_new = [both.coordinator.definitions.latest("shop").hash]
    [left] = signs.foreign(only_new)
    assert (left.definition, left.version, left.sagas, left.parked) == ("shop", 1, 2, 1)
    [(oldest, example)] = engine.sql(
        "SELECT created_at, id FROM amends.saga ORDER BY created_at LIMIT 1"
    )
    assert (left.oldest, left.example) == (oldest, example)
    mover.act(stuck, TO_2, ADA)
    world.pay = PAID
    assert engine.finish(waiting) == "completed"
    assert signs.foreign(only_new) == []
    assert engine.client.get(stuck).updated_at - oldest < timedelta(minutes=1)


def test_a_log_with_entries_of_a_newer_build_is_counted_as_left_behind(
    engine: Engine, world: World
) -> None:
    saga_id = start(engine)
    signs = VitalSigns(Database(engine.pool))
    hashes = engine.coordinator.definitions.hashes
    assert signs.unreadable(hashes) == []
    engine.sql(
        "WITH moved AS (UPDATE amends.saga SET seq = 2, log_format = 99 RETURNING id) "
        "INSERT INTO amends.saga_log (saga_id, seq, kind, data) "
        "SELECT id, 2, 'SagaBlessed', '{}' FROM moved"
    )
    [left] = signs.unreadable(hashes)
    assert (left.example, left.sagas) == (saga_id, 1)


def test_who_may_what_a_worker_may_can_act_as_an_operator(
    engine: Engine, both: Engine, mover: Operator, world: World
) -> None:
    saga_id, other = parked(engine, world), parked(engine, world, "order-2")
    sqlalchemy.event.listen(both.pool, "checkout", _as_worker)
    mover.act(saga_id, TO_2, ADA)
    mover.act(saga_id, Retry(), ADA)
    by_both(mover, other, Resolve())
    assert mover.replay(other, Replay(), ADA).created
    [(user,)] = both.sql("SELECT current_user")
    assert user == "amends_worker"


def _as_worker(connection: Any, _record: Any, _proxy: Any) -> None:
    connection.execute("SET ROLE amends_worker")
    connection.commit()
