"""Every operator verb does what it says, and the log says who did it."""

from __future__ import annotations

import pytest

from orchestrator.context import NotLanded
from orchestrator.doorbell import SilentDoorbell
from orchestrator.entries import EvidenceAsserted
from orchestrator.errors import (
    Terminal,
    UnknownDefinitionError,
)
from orchestrator.state import State
from recovery.operator.operator import Operator
from recovery.operator.verbs import (
    Abandon,
    Confirm,
    MarkDone,
    MarkNotDone,
    Probe,
    Resolve,
    Retry,
    Skip,
    Verb,
)
from tests.integration.engine import Engine
from tests.integration.operating.world import (
    ADA,
    BOB,
    LOST,
    PAID,
    World,
    audit,
    by_both,
    start,
    steps_run,
    undone,
    unknown,
    until_quiet,
)


def test_retry_of_an_unknown_repeats_the_step_under_its_key(
    engine: Engine, operator: Operator, world: World
) -> None:
    saga_id = unknown(engine, world)
    done = operator.act(saga_id, Retry(), ADA)
    assert done.state is State.RUNNING
    assert engine.finish(saga_id) == "completed"
    assert len(set(world.keys)) == 1
    assert audit(engine, saga_id) == [("retry", "ada", "called the bank")]


def test_retry_past_the_pivot_completes_the_saga(
    engine: Engine, operator: Operator, world: World
) -> None:
    world.pay = Terminal("mailbox full", decisive=True)
    saga_id = start(engine, "post")
    assert engine.finish(saga_id) == "stuck"
    world.pay = None
    operator.act(saga_id, Retry(), ADA)
    assert engine.finish(saga_id) == "completed"


def test_retry_rings_at_once(engine: Engine, operator: Operator, world: World) -> None:
    saga_id = unknown(engine, world)
    engine.bell.messages.clear()
    operator.act(saga_id, Retry(), ADA)
    assert [(each.step, each.attempt) for each in engine.bell.messages] == [("pay", 2)]


def test_retry_without_a_broker_leaves_the_ring_to_the_next_sweep(
    engine: Engine, operator: Operator, world: World
) -> None:
    saga_id = unknown(engine, world)
    engine.coordinator.mover._doorbell = SilentDoorbell()
    operator.act(saga_id, Retry(), ADA)
    [(is_due, rung)] = engine.sql(
        "SELECT ring_at <= clock_timestamp(), rung_count FROM amends.attempt"
    )
    assert (is_due, rung) == (True, 0)


def test_retry_in_back_off_makes_the_next_try_due_and_rings(
    engine: Engine, operator: Operator, world: World
) -> None:
    world.pay = LOST
    saga_id = start(engine, "patient")
    engine.work()
    [(due,)] = engine.sql("SELECT due_at <= clock_timestamp() FROM amends.attempt")
    assert not due
    world.pay = PAID
    operator.act(saga_id, Retry(), ADA)
    [(due,)] = engine.sql("SELECT due_at <= clock_timestamp() FROM amends.attempt")
    assert due
    engine.work()
    assert engine.client.get(saga_id).state is State.COMPLETED
    assert steps_run(engine, saga_id)[:2] == [("pay", "forward", 1), ("pay", "forward", 2)]


def test_a_hurried_attempt_stays_hurried_when_the_saga_is_looked_at(
    engine: Engine, operator: Operator, world: World
) -> None:
    world.pay = LOST
    saga_id = start(engine, "patient")
    engine.work()
    operator.act(saga_id, Retry(), ADA)
    engine.coordinator.mover.look(saga_id)
    assert engine.claim(saga_id).attempt.number == 2


def test_probe_has_a_worker_ask_and_settles_what_it_answers(
    engine: Engine, operator: Operator, world: World
) -> None:
    saga_id = unknown(engine, world, "askable")
    world.found, asked = PAID, world.asked
    operator.act(saga_id, Probe(step="pay"), ADA)
    assert world.asked == asked  # the operator's process asks nothing: a worker does
    assert engine.finish(saga_id) == "completed"
    assert world.asked == asked + 1
    assert len(world.keys) == 1


def test_mark_done_lets_the_saga_go_on_with_the_result(
    engine: Engine, operator: Operator, world: World
) -> None:
    saga_id = unknown(engine, world)
    operator.act(saga_id, MarkDone(step="pay", reference="pay-1", result={"id": "pay-1"}), ADA)
    assert engine.finish(saga_id) == "completed"
    assert engine.client.results(saga_id)["pay"] == {"id": "pay-1"}
    assert len(world.keys) == 1


def test_mark_not_done_tries_again_under_a_new_key(
    engine: Engine, operator: Operator, world: World
) -> None:
    saga_id = unknown(engine, world, "askable")
    world.found = NotLanded()
    operator.act(saga_id, MarkNotDone(step="pay"), ADA)
    assert engine.finish(saga_id) == "completed"
    assert len(set(world.keys)) == 2


def test_mark_not_done_may_have_the_saga_taken_back_without_another_try(
    engine: Engine, operator: Operator, world: World
) -> None:
    saga_id = unknown(engine, world, "askable")
    world.found = NotLanded()
    operator.act(saga_id, MarkNotDone(step="pay", take_back=True), ADA)
    assert engine.finish(saga_id) == "compensated"
    assert len(world.keys) == 1


def test_mark_done_of_an_undo_ends_the_saga_as_compensated(
    engine: Engine, operator: Operator, world: World
) -> None:
    saga_id = undone(engine, world)
    done = operator.act(saga_id, MarkDone(step="pay", reference="transfer-9"), ADA)
    assert done.state is State.COMPENSATED
    assert engine.client.get(saga_id).due_at is None


def test_retry_of_an_undo_tries_it_again(engine: Engine, operator: Operator, world: World) -> None:
    saga_id = undone(engine, world)
    operator.act(saga_id, Retry(), ADA)
    assert engine.finish(saga_id) == "compensated"


def test_skip_ends_what_is_not_needed(engine: Engine, operator: Operator, world: World) -> None:
    world.pay = Terminal("mailbox full", decisive=True)
    saga_id = start(engine, "post")
    engine.finish(saga_id)
    until_quiet(engine)
    assert operator.act(saga_id, Skip(step="mail"), ADA).state is State.COMPLETED
    assert steps_run(engine, saga_id)[-1] == ("mail", "forward", 1)


@pytest.mark.parametrize("verb", [Resolve(), Abandon()])
def test_closing_ends_a_saga_for_good(
    engine: Engine, operator: Operator, world: World, verb: Verb
) -> None:
    saga_id = undone(engine, world)
    assert by_both(operator, saga_id, verb).state is State.RESOLVED
    found = engine.client.get(saga_id)
    assert (found.state, found.due_at) == (State.RESOLVED, None)
    assert engine.attempts(saga_id) == []
    assert audit(engine, saga_id) == [("confirm", "bob", "so did I")]
    [assertion] = [each for each in engine.entries(saga_id) if isinstance(each, EvidenceAsserted)]
    assert (assertion.verb, assertion.actor, assertion.reason) == (
        verb.name,
        "ada",
        "called the bank",
    )


def test_abandon_withdraws_what_waits(engine: Engine, operator: Operator, world: World) -> None:
    world.pay = LOST
    saga_id = start(engine, "patient")
    engine.work()
    operator.act(saga_id, Abandon(), ADA)
    assert engine.attempts(saga_id) != []  # one person's word leaves it as it was
    operator.act(saga_id, Confirm(), BOB)
    assert engine.attempts(saga_id) == []


def test_a_saga_whose_definition_is_gone_can_be_abandoned_and_nothing_else(
    engine: Engine, database: str, world: World
) -> None:
    saga_id = unknown(engine, world)
    elsewhere = Engine(database)
    stranger = Operator(elsewhere.coordinator, elsewhere.client)
    with pytest.raises(UnknownDefinitionError):
        stranger.act(saga_id, Retry(), ADA)
    assert by_both(stranger, saga_id, Abandon()).state is State.RESOLVED
    elsewhere.close()


def test_a_closed_saga_lets_go_of_its_lock(
    engine: Engine, operator: Operator, world: World
) -> None:
    world.pay = LOST
    first, second = start(engine, "locked", "a"), start(engine, "locked", "b")
    engine.finish(first)
    assert engine.client.get(second).state is State.WAITING
    world.pay = PAID
    by_both(operator, first, Resolve())
    assert engine.finish(second) == "completed"
