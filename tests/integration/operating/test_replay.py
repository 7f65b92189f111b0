"""Doing an ended saga's work again, under a key of its own."""

from __future__ import annotations

from uuid import UUID

import pytest

from orchestrator.errors import (
    PayloadError,
    Terminal,
)
from recovery.operator.operator import Operator
from recovery.operator.refusals import MovedOnError, RefusedError
from recovery.operator.replaying import Replay
from recovery.operator.verbs import (
    Resolve,
)
from tests.integration.engine import Engine
from tests.integration.operating.world import (
    BOB,
    PAID,
    World,
    audit,
    by_both,
    everything,
    start,
    undone,
    unknown,
)


def resolved(engine: Engine, operator: Operator, world: World) -> UUID:
    saga_id = unknown(engine, world)
    by_both(operator, saga_id, Resolve())
    return saga_id


def test_replay_starts_a_saga_that_names_the_old_one(
    engine: Engine, operator: Operator, world: World
) -> None:
    old = resolved(engine, operator, world)
    new = operator.replay(old, Replay(changes={"amount": 2}), BOB)
    assert (new.key, new.created) == ("order-1~2", True)
    assert engine.finish(new.id) == "completed"
    [(origin,)] = engine.sql("SELECT replay_of FROM amends.saga WHERE id = :id", id=new.id)
    assert origin == old
    started = engine.coordinator.log.entries(new.id)[0].entry
    assert started.payload["amount"] == 2  # type: ignore[union-attr]
    assert audit(engine, old)[-1] == ("replay", "bob", "so did I")
    assert len(set(world.keys)) == 2


def test_each_replay_has_a_key_of_its_own(engine: Engine, operator: Operator, world: World) -> None:
    old = resolved(engine, operator, world)
    keys = [operator.replay(old, Replay(), BOB).key for _ in range(2)]
    assert keys == ["order-1~2", "order-1~3"]
    assert operator.replay(old, Replay(key="mine"), BOB).key == "mine"
    with pytest.raises(RefusedError, match="has a saga already"):
        operator.replay(old, Replay(key="mine"), BOB)


def test_a_replay_of_a_replay_counts_on(engine: Engine, operator: Operator, world: World) -> None:
    world.pay = Terminal("declined", decisive=True)
    first = start(engine)
    engine.finish(first)
    second = operator.replay(first, Replay(), BOB)
    engine.finish(second.id)
    assert operator.replay(second.id, Replay(), BOB).key == "order-1~3"


def test_what_completed_or_left_money_open_is_done_again_only_on_purpose(
    engine: Engine, operator: Operator, world: World
) -> None:
    world.pay = PAID
    completed = start(engine)
    assert engine.finish(completed) == "completed"
    open_money = undone(engine, world, key="order-2")
    by_both(operator, open_money, Resolve())
    before = everything(engine)
    for saga_id in (completed, open_money):
        with pytest.raises(RefusedError, match="--again"):
            operator.replay(saga_id, Replay(), BOB)
    assert everything(engine) == before
    assert operator.replay(completed, Replay(again=True), BOB).created


def test_a_saga_in_flight_and_a_wrong_payload_are_not_replayed(
    engine: Engine, operator: Operator, world: World
) -> None:
    moving = unknown(engine, world)
    with pytest.raises(RefusedError, match="has not ended"):
        operator.replay(moving, Replay(), BOB)
    by_both(operator, moving, Resolve())
    before = everything(engine)
    with pytest.raises(PayloadError, match="amount"):
        operator.replay(moving, Replay(changes={"amount": "many"}), BOB)
    with pytest.raises(MovedOnError):
        operator.replay(moving, Replay(), BOB, seen=1)
    assert operator.preview_replay(moving, Replay(payload={"amount": 9})).payload == {"amount": 9}
    assert everything(engine) == before
