"""What refuses an operator verb, and that nobody is fast enough to do it twice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from orchestrator.errors import (
    SagaNotFoundError,
    StateConflictError,
)
from orchestrator.seam import intercepted
from orchestrator.state import State
from recovery.operator.operator import Operator
from recovery.operator.refusals import MovedOnError, RefusedError, UnknownStepError
from recovery.operator.verbs import (
    Abandon,
    By,
    MarkDone,
    MarkNotDone,
    Retry,
    Skip,
    Verb,
)
from tests.integration.engine import Engine
from tests.integration.operating.world import (
    ADA,
    BOB,
    LOST,
    World,
    audit,
    everything,
    start,
    unknown,
)
from tests.operators import EVERY

ANSWERS: list[Callable[[], Verb]] = [
    lambda: MarkDone(step="pay", reference="pay-1"),
    lambda: MarkNotDone(step="pay"),
    lambda: Skip(step="pay"),
    Abandon,
    Retry,
]


@pytest.mark.parametrize("verb", ANSWERS)
def test_while_an_attempt_runs_nothing_is_said_of_its_step(
    engine: Engine, operator: Operator, verb: Callable[[], Verb]
) -> None:
    saga_id = start(engine)
    engine.claim(saga_id)
    before = everything(engine)
    with pytest.raises(RefusedError, match="pay runs now"):
        operator.act(saga_id, verb(), ADA)
    assert everything(engine) == before


@pytest.mark.parametrize("verb", ANSWERS[:3])
def test_too_early_is_refused_with_the_moment_from_which_it_is_possible(
    engine: Engine, operator: Operator, world: World, verb: Callable[[], Verb]
) -> None:
    world.pay = LOST
    saga_id = start(engine, "patient")  # its timeout is 30 s
    engine.work()
    before = everything(engine)
    with pytest.raises(RefusedError) as refused:
        operator.act(saga_id, verb(), ADA)
    [(quiet,)] = engine.sql(
        "SELECT recorded_at + interval '30 s' FROM amends.saga_log WHERE kind = 'StepStarted'"
    )
    assert refused.value.possible_from is not None
    assert abs(refused.value.possible_from - quiet) < timedelta(milliseconds=1)
    assert everything(engine) == before


@pytest.mark.parametrize("verb", EVERY, ids=lambda verb: verb.name)
def test_who_saw_an_older_saga_changes_nothing(
    engine: Engine, operator: Operator, world: World, verb: Verb
) -> None:
    saga_id = unknown(engine, world, "askable")
    seq = engine.client.get(saga_id).seq
    before = everything(engine)
    with pytest.raises(MovedOnError, match=f"seq {seq - 1} then, seq {seq} now") as lost:
        operator.act(saga_id, verb, ADA, seen=seq - 1)
    assert (lost.value.seq, isinstance(lost.value, StateConflictError)) == (seq, True)
    assert everything(engine) == before


@pytest.mark.parametrize("verb", EVERY, ids=lambda verb: verb.name)
def test_who_is_overtaken_between_reading_and_writing_changes_nothing(
    engine: Engine, operator: Operator, world: World, verb: Verb
) -> None:
    saga_id = unknown(engine, world, "askable")
    seen = engine.client.get(saga_id).seq
    overtaken: list[Any] = []

    def interceptor(name: str, action: Callable[[], Any]) -> Any:
        if name == "decide.commit" and not overtaken:
            overtaken.append(True)
            operator.act(saga_id, MarkDone(step="pay", reference="pay-1"), BOB)
            overtaken.append(everything(engine))
        return action()

    with intercepted(interceptor), pytest.raises(MovedOnError):
        operator.act(saga_id, verb, ADA, seen=seen)
    assert everything(engine) == overtaken[1]
    assert audit(engine, saga_id) == [("mark-done", "bob", "so did I")]


def test_a_claim_between_reading_and_writing_wins(
    engine: Engine, operator: Operator, world: World
) -> None:
    """Between the look at a saga in back-off and the write its next attempt was begun."""
    world.pay = LOST
    saga_id = start(engine, "patient")
    engine.work()
    engine.sql("UPDATE amends.attempt SET due_at = clock_timestamp()")
    claims: list[Any] = []

    def interceptor(name: str, action: Callable[[], Any]) -> Any:
        if name == "decide.commit" and not claims:
            claims.append(engine.claim(saga_id))
        return action()

    with intercepted(interceptor), pytest.raises(MovedOnError):
        operator.act(saga_id, Abandon(), ADA)
    assert audit(engine, saga_id) == []
    assert engine.client.get(saga_id).state is State.RUNNING


def test_of_many_operators_at_once_one_acts(
    engine: Engine, operator: Operator, world: World
) -> None:
    saga_id = unknown(engine, world)
    seen = engine.client.get(saga_id).seq
    ready = threading.Barrier(8)
    came: list[str] = []

    def act(number: int) -> None:
        verb = Retry() if number % 2 else MarkDone(step="pay", reference="pay-1")
        ready.wait()
        try:
            operator.act(
                saga_id, verb, By(actor=f"operator-{number}", reason="me first"), seen=seen
            )
            came.append("acted")
        except MovedOnError:
            came.append("lost")

    threads = [threading.Thread(target=act, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(came) == ["acted"] + ["lost"] * 7
    assert len(audit(engine, saga_id)) == 1


def test_a_locked_row_is_a_conflict_and_not_a_wait_for_ever(
    engine: Engine, operator: Operator, world: World
) -> None:
    saga_id = unknown(engine, world)
    with engine.pool.begin() as holder:
        holder.exec_driver_sql("SELECT FROM amends.saga FOR UPDATE")
        with pytest.raises(MovedOnError, match="another process holds it"):
            operator.act(saga_id, Retry(), ADA)
    assert audit(engine, saga_id) == []


@pytest.mark.parametrize("verb", EVERY, ids=lambda verb: verb.name)
def test_there_is_nothing_to_say_of_a_saga_that_does_not_exist(
    operator: Operator, verb: Verb
) -> None:
    with pytest.raises(SagaNotFoundError):
        operator.act(uuid4(), verb, ADA)


def test_a_step_that_does_not_exist_is_refused_and_the_steps_are_named(
    engine: Engine, operator: Operator, world: World
) -> None:
    saga_id = unknown(engine, world)
    before = everything(engine)
    with pytest.raises(UnknownStepError, match="pay, ship"):
        operator.act(saga_id, Skip(step="cook"), ADA)
    assert everything(engine) == before
