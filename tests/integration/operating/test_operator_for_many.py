"""One verb for many sagas: counted, capped, each by a compare-and-set of its own."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from orchestrator.state import State
from orchestrator.storage.attention import Attention, Filter
from orchestrator.storage.database import Database
from recovery.operator.many import act_on_each, matches
from recovery.operator.operator import Operator
from recovery.operator.verbs import (
    Retry,
)
from tests.integration.engine import Engine
from tests.integration.operating.world import (
    ADA,
    BOB,
    LOST,
    PAID,
    World,
    start,
    undone,
    unknown,
    until_quiet,
)


def test_many_are_counted_capped_and_each_is_done_as_it_was_seen(
    engine: Engine, operator: Operator, world: World
) -> None:
    ids = [unknown_at_once(engine, world, f"order-{n}") for n in range(5)]
    until_quiet(engine)
    attention = Attention(Database(engine.pool))
    found = matches(attention, Filter(definition="shop"), cap=3)
    assert (found.count, [each for each, _ in found.sagas]) == (5, ids[:3])
    operator.act(ids[0], Retry(), BOB)  # somebody else is faster with one of them
    world.pay = PAID
    done = act_on_each(operator, found, Retry(), ADA)
    assert [each.saga.id for each in done.done] == ids[1:3]
    assert [each for each, _ in done.refused] == [ids[0]]
    states = engine.client._reads.states(ids)
    assert [states[each].value for each in ids] == ["running"] * 3 + ["stuck"] * 2


def unknown_at_once(engine: Engine, world: World, key: str) -> UUID:
    world.pay = LOST
    saga_id = start(engine, key=key)
    engine.finish(saga_id)
    return saga_id


def test_a_filter_finds_by_definition_state_reason_step_and_attribute(
    engine: Engine, operator: Operator, world: World
) -> None:
    stuck = unknown(engine, world)
    refunding = undone(engine, world, key="order-2")
    world.pay = LOST
    waiting = start(engine, "patient", "order-3")
    engine.work()
    attention = Attention(Database(engine.pool))

    def found(**filters: Any) -> set[UUID]:
        return {each for each, _ in matches(attention, Filter(**filters)).sagas}

    assert found() == {stuck, refunding}
    assert found(states=[State.STUCK]) == {stuck}
    assert found(reason="compensation_exhausted") == {refunding}
    assert found(step="pay") == {stuck, refunding}
    assert found(step="ship") == set()
    assert found(definition="patient") == set()
    assert found(states=[State.RUNNING]) == {waiting}
    assert found(states=[State.RUNNING], step="ship") == set()
    assert found(attributes={"amount": 1}) == {stuck, refunding}
    assert found(attributes={"amount": 2}) == set()
    assert found(version=2) == set()
    engine.sql("UPDATE amends.attempt SET due_at = clock_timestamp()")
    assert found(states=[State.RUNNING]) == set()  # it waits for a worker, not for its pause
