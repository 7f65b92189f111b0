"""Answers that were lost, and steps whose writes commit with the log."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import pytest

from orchestrator.context import StepContext
from orchestrator.errors import LogUnavailableError
from tests.histories import QUICK
from tests.integration.coordinating.scripted import Scripted, start, taken_away
from tests.integration.engine import Engine, answer_lost, read_only, wait_until

# -- answers that were lost ------------------------------------------------------------------------


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("applied", [True, False])
@pytest.mark.parametrize("action", ["claim.commit", "record.commit"])
def test_a_lost_answer_costs_nothing_but_time(
    engine: Engine, script: Scripted, action: str, applied: bool, inline: bool
) -> None:
    saga_id = start(engine)
    with answer_lost(action, applied=applied) as lost:
        state = engine.finish(saga_id, inline=inline)
    assert lost == [action]
    assert state == "completed"
    assert len(script.calls) == 3
    assert "LateOutcomeRecorded" not in engine.kinds(saga_id)


@pytest.mark.parametrize("applied", [True, False])
def test_a_last_try_runs_alone_also_when_the_answer_to_its_claim_was_lost(
    engine: Engine, applied: bool
) -> None:
    saga_id = start(engine)
    for _ in range(2):
        assert engine.gives_up(engine.claim(saga_id))
    wait_until(lambda: engine.sql("SELECT due_at <= clock_timestamp() FROM amends.attempt")[0][0])
    with answer_lost("claim.commit", applied=applied) as lost:
        claim = engine.claim(saga_id)
    assert lost
    assert claim.alone


@pytest.mark.parametrize("applied", [True, False])
def test_an_answer_lost_twice_is_asked_for_again(
    engine: Engine, script: Scripted, applied: bool
) -> None:
    saga_id = start(engine)
    with answer_lost("record.commit", applied=applied, times=2) as lost:
        assert engine.finish(saga_id, inline=True) == "completed"
    assert len(lost) == 2
    assert len(script.calls) == 3


@pytest.mark.parametrize("applied", [True, False])
def test_a_lost_answer_to_a_fact_costs_nothing_but_time(
    engine: Engine, script: Scripted, applied: bool
) -> None:
    def cancelling(context: StepContext[Any]) -> None:
        engine.client.cancel(context.saga_id, reason="no")

    script.on("reserve", cancelling)
    saga_id = start(engine)
    with answer_lost("record.commit", applied=applied, times=2):
        assert engine.finish(saga_id) == "compensated"
    assert engine.kinds(saga_id).count("StepSucceeded") == 2


@pytest.mark.parametrize("applied", [True, False])
def test_a_start_whose_answer_was_lost_can_be_repeated(engine: Engine, applied: bool) -> None:
    with answer_lost("start.commit", applied=applied), pytest.raises(Exception, match="broke"):
        start(engine)
    saga_id = start(engine)
    assert engine.finish(saga_id) == "completed"
    assert engine.sql("SELECT count(*) FROM amends.saga") == [(1,)]


def test_an_outcome_outlives_a_fail_over(engine: Engine, database: str) -> None:
    """For a while Postgres answers, as a standby does: it reads and does not write."""
    saga_id = start(engine)
    claim = engine.claim(saga_id)
    with read_only(database):
        thread = threading.Thread(target=engine.coordinator.execute, args=(claim,))
        thread.start()
        with pytest.raises(LogUnavailableError):
            start(engine, key="order-2")
    thread.join(20)
    assert engine.kinds(saga_id) == ["SagaStarted", "StepStarted", "StepSucceeded"]


# -- transactional steps ---------------------------------------------------------------------------


def writes(context: StepContext[Any]) -> str:
    assert context.connection is not None
    context.connection.exec_driver_sql("INSERT INTO public.book VALUES ('written')")
    return "done"


def lines(engine: Engine) -> int:
    [(count,)] = engine.sql("SELECT count(*) FROM public.book")
    return int(count)


def test_a_transactional_step_and_its_entry_commit_together(
    engine: Engine, script: Scripted
) -> None:
    script.on("book", writes)
    saga_id = start(engine, "books")
    engine.work()
    assert engine.client.get(saga_id).state == "completed"
    assert lines(engine) == 1


def test_a_transactional_step_whose_token_is_gone_is_rolled_back(
    engine: Engine, script: Scripted
) -> None:
    script.on("book", writes)
    saga_id = start(engine, "books")
    claim = taken_away(engine, saga_id)
    engine.coordinator.execute(claim)
    assert lines(engine) == 0
    assert "LateOutcomeRecorded" not in engine.kinds(saga_id)
    assert "StepSucceeded" not in engine.kinds(saga_id)


def test_an_error_before_the_commit_is_no_effect(engine: Engine, script: Scripted) -> None:
    def writes_and_fails(context: StepContext[Any]) -> None:
        writes(context)
        if context.attempt == 1:
            raise RuntimeError("half-way")

    script.on("book", writes_and_fails)
    saga_id = start(engine, "books")
    assert engine.finish(saga_id) == "completed"
    assert lines(engine) == 1
    assert "StepUnknown" not in engine.kinds(saga_id)


def test_a_failing_statement_of_the_step_is_no_effect(engine: Engine, script: Scripted) -> None:
    def breaks(context: StepContext[Any]) -> None:
        assert context.connection is not None
        if context.attempt == 1:
            context.connection.exec_driver_sql("SELECT 1 / 0")

    script.on("book", breaks)
    assert engine.finish(start(engine, "books")) == "completed"


def test_a_step_that_lost_to_others_in_postgres_spends_no_budget(
    engine: Engine, script: Scripted
) -> None:
    def loses(context: StepContext[Any]) -> None:
        assert context.connection is not None
        if context.attempt <= 2 * QUICK.max_attempts:
            context.connection.exec_driver_sql(
                "DO $$ BEGIN RAISE 'deadlock' USING ERRCODE = '40P01'; END $$"
            )

    script.on("book", loses)
    assert engine.finish(start(engine, "books")) == "completed"


def test_a_step_that_swallows_its_failed_statement_does_not_lose_its_outcome(
    engine: Engine, script: Scripted
) -> None:
    def swallows(context: StepContext[Any]) -> None:
        writes(context)
        if context.attempt == 1:
            with contextlib.suppress(Exception):
                context.connection.exec_driver_sql("SELECT 1 / 0")  # type: ignore[union-attr]

    script.on("book", swallows)
    saga_id = start(engine, "books")
    assert engine.finish(saga_id) == "completed"
    assert lines(engine) == 1
    assert engine.kinds(saga_id)[2] == "StepFailed"


@pytest.mark.parametrize("swallowed", [True, False])
def test_a_step_that_commits_itself_is_refused_and_nothing_is_committed(
    engine: Engine, script: Scripted, swallowed: bool
) -> None:
    def commits(context: StepContext[Any]) -> None:
        writes(context)
        try:
            context.connection.commit()  # type: ignore[union-attr]
        except Exception:
            if not swallowed:
                raise

    script.on("book", commits)
    saga_id = start(engine, "books")
    engine.work()
    assert lines(engine) == 0
    assert engine.kinds(saga_id)[2] == "StepFailed"
    assert "commit" in (engine.client.get(saga_id).last_error or "")


def test_a_step_that_rolls_back_itself_is_refused(engine: Engine, script: Scripted) -> None:
    script.on("book", lambda context: writes(context) and context.connection.rollback())  # type: ignore[union-attr]
    saga_id = start(engine, "books")
    engine.work()
    assert engine.kinds(saga_id)[2] == "StepFailed"


def test_a_step_may_use_savepoints(engine: Engine, script: Scripted) -> None:
    def nested(context: StepContext[Any]) -> None:
        assert context.connection is not None
        with context.connection.begin_nested():
            writes(context)

    script.on("book", nested)
    assert engine.finish(start(engine, "books")) == "completed"
    assert lines(engine) == 1


@pytest.mark.parametrize("applied", [True, False])
def test_an_error_from_the_commit_is_answered_by_the_log(
    engine: Engine, script: Scripted, applied: bool
) -> None:
    script.on("book", writes)
    saga_id = start(engine, "books")
    with answer_lost("transaction.commit", applied=applied) as lost:
        assert engine.finish(saga_id) == "completed"
    assert lost == ["transaction.commit"]
    assert lines(engine) == 1
    assert "LateOutcomeRecorded" not in engine.kinds(saga_id)


def test_a_transactional_step_is_recorded_although_the_saga_moved_meanwhile(
    engine: Engine, script: Scripted
) -> None:
    def cancelling(context: StepContext[Any]) -> None:
        engine.client.cancel(context.saga_id, reason="no")
        writes(context)

    script.on("book", cancelling)
    saga_id = start(engine, "books")
    assert engine.finish(saga_id) == "compensated"
    assert lines(engine) == 1
    assert script.calls[-1] == ("book", "compensate", 1)
