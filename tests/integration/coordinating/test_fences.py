"""Results that come late, twice, or while the saga moves."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from orchestrator.context import Effect, Lease, StepContext
from orchestrator.entries import LateOutcomeRecorded, UnknownReason
from orchestrator.errors import Wait
from orchestrator.storage import statements
from tests.integration.coordinating.scripted import Scripted, declined, start, taken_away
from tests.integration.engine import Engine, answer_lost, events, wait_until

# -- fences ----------------------------------------------------------------------------------------


def test_a_late_worker_cannot_record_after_its_attempt_was_given_up(engine: Engine) -> None:
    saga_id = start(engine)
    claim = taken_away(engine, saga_id)
    with events() as heard:
        assert engine.coordinator.execute(claim) is None
    assert engine.kinds(saga_id).count("StepSucceeded") == 0
    assert [event for event, _ in heard if event == "saga.stale_result_refused"]


def test_a_refused_result_is_kept_as_a_late_outcome_once(engine: Engine, script: Scripted) -> None:
    script.on("reserve", lambda _: Effect(value=1, reference="r-1"))
    saga_id = start(engine)
    claim = taken_away(engine, saga_id)
    engine.coordinator.execute(claim)
    engine.coordinator.execute(claim)
    late = [e for e in engine.entries(saga_id) if isinstance(e, LateOutcomeRecorded)]
    assert [(each.outcome, each.reference, each.attempt) for each in late] == [
        ("succeeded", "r-1", 1)
    ]


def test_without_the_token_in_its_statement_a_stale_result_would_be_accepted(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fence is what refuses it, and nothing else happens to."""
    saga_id = start(engine)
    claim = engine.claim(saga_id)
    engine.sql("UPDATE amends.attempt SET token = :other", other=uuid4())
    for name in ("ADVANCE", "APPEND_OUTCOME"):
        unfenced = getattr(statements, name).replace(statements.HOLDS_TOKEN, "true")
        assert unfenced != getattr(statements, name)
        monkeypatch.setattr(statements, name, unfenced)
    engine.coordinator.execute(claim)
    assert "StepSucceeded" in engine.kinds(saga_id)


def test_with_the_token_in_its_statement_the_same_result_is_refused(engine: Engine) -> None:
    saga_id = start(engine)
    claim = engine.claim(saga_id)
    engine.sql("UPDATE amends.attempt SET token = :other", other=uuid4())
    engine.coordinator.execute(claim)
    assert "StepSucceeded" not in engine.kinds(saga_id)


def test_an_attempt_whose_lease_is_alive_is_not_taken_over(engine: Engine) -> None:
    saga_id = start(engine)
    claim = engine.claim(saga_id)
    assert not engine.gives_up(claim, UnknownReason.LEASE_LOST)
    assert engine.kinds(saga_id)[-1] == "StepStarted"


def test_an_attempt_whose_lease_is_over_is_taken_over_and_repeated(
    engine: Engine, script: Scripted
) -> None:
    saga_id = start(engine)
    claim = engine.claim(saga_id)
    engine.sql("UPDATE amends.attempt SET lease_until = clock_timestamp() - interval '1 s'")
    assert engine.gives_up(claim, UnknownReason.LEASE_LOST)
    assert not engine.coordinator.mover.give_up(_row(claim), UnknownReason.LEASE_LOST)
    assert engine.finish(saga_id) == "completed"
    assert script.calls[0] == ("reserve", "forward", 2)


def _row(claim: Any) -> Any:
    from orchestrator.storage.rows import OpenAttempt  # noqa: PLC0415

    return OpenAttempt(
        id=claim.attempt, queue="amends", token=claim.token, owner=None, is_expired=True
    )


def test_all_attempts_of_a_step_use_one_key(engine: Engine, script: Scripted) -> None:
    saga_id = start(engine)
    taken_away(engine, saga_id)
    engine.finish(saga_id)
    claim_keys = {
        key for key, call in zip(script.keys, script.calls, strict=True) if call[0] == "reserve"
    }
    assert len(claim_keys) == 1


def test_a_late_success_of_a_saga_that_went_another_way_is_compensated(
    engine: Engine, script: Scripted
) -> None:
    saga_id = start(engine)
    engine.bell.messages.clear()
    claim = taken_away(engine, saga_id)
    script.on("reserve", declined)
    assert engine.finish(saga_id) == "compensated"
    script.on("reserve", lambda _: Effect(reference="r-late"))
    engine.coordinator.execute(claim)
    assert engine.client.get(saga_id).state == "compensating"
    assert engine.finish(saga_id) == "compensated"
    assert script.calls[-1] == ("reserve", "compensate", 2)


def test_the_fact_that_a_late_effect_is_there_survives_a_lost_connection(
    engine: Engine, script: Scripted
) -> None:
    script.on("reserve", lambda _: Effect(reference="r-late"))
    saga_id = start(engine)
    claim = taken_away(engine, saga_id)
    engine.client.cancel(saga_id, reason="no")
    with answer_lost("decide.commit", applied=False, times=2) as lost:
        engine.coordinator.execute(claim)
    assert len(lost) == 2
    assert engine.kinds(saga_id).count("LateOutcomeRecorded") == 1


def over(claim: Any) -> Any:
    claim.lease.valid_until = time.monotonic()
    return claim


@pytest.mark.parametrize("name", ["shop", "books"])
def test_a_step_is_not_called_once_its_lease_is_over(
    engine: Engine, script: Scripted, name: str
) -> None:
    saga_id = start(engine, name)
    engine.coordinator.execute(over(engine.claim(saga_id)))
    assert script.calls == []
    assert engine.kinds(saga_id)[-1] == "StepReleased"


def test_who_waits_at_the_gate_until_its_lease_ends_is_handed_back_and_not_blamed(
    engine: Engine, script: Scripted
) -> None:
    saga_id = start(engine)
    claim = engine.claim(saga_id)
    claim.lease.valid_until = time.monotonic() + 0.4
    long = Lease(valid_until=time.monotonic() + 60, ends_at=time.monotonic() + 60)
    with engine.coordinator.gate.entered(long, alone=True):
        engine.coordinator.execute(claim)
    assert script.calls == []
    assert engine.kinds(saga_id)[-1] == "StepReleased"
    assert engine.attempts(saga_id) == [("reserve", "forward", 2)]


# -- facts against decisions -----------------------------------------------------------------------


def test_a_result_is_not_lost_when_the_saga_moved_meanwhile(
    engine: Engine, script: Scripted
) -> None:
    def cancelling(context: StepContext[Any]) -> None:
        engine.client.cancel(context.saga_id, reason="no")

    script.on("reserve", cancelling)
    saga_id = start(engine)
    assert engine.finish(saga_id) == "compensated"
    kinds = engine.kinds(saga_id)
    assert kinds[:5] == [
        "SagaStarted",
        "StepStarted",
        "CancelRequested",
        "StepSucceeded",
        "UnwindingStarted",
    ]


def test_siblings_that_end_at_the_same_time_lead_to_one_next_step(
    engine: Engine, script: Scripted
) -> None:
    barrier = threading.Barrier(2, timeout=10)
    script.on("a", lambda _: barrier.wait() and None)
    script.on("b", lambda _: barrier.wait() and None)
    saga_id = start(engine, "fan")
    claims = [engine.claim(saga_id, "a"), engine.claim(saga_id, "b")]
    threads = [threading.Thread(target=engine.coordinator.execute, args=(c,)) for c in claims]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert engine.finish(saga_id) == "completed"
    assert script.calls.count(("c", "forward", 1)) == 1


def test_a_scheduled_sibling_is_withdrawn_when_the_saga_turns_round(
    engine: Engine, script: Scripted
) -> None:
    script.on("a", declined)
    saga_id = start(engine, "fan")
    engine.coordinator.execute(engine.claim(saga_id, "a"))
    assert engine.attempts(saga_id) == [("a", "compensate", 1)]


def test_a_sibling_scheduled_by_a_look_is_withdrawn_too(engine: Engine, script: Scripted) -> None:
    """A look writes rows without raising the seq; the next decision must still know of them."""

    def wait(_context: StepContext[Any]) -> None:
        raise Wait("answer", datetime.now(UTC) + timedelta(seconds=0.2))

    script.on("b", wait)
    saga_id = start(engine, "fan")
    engine.coordinator.execute(engine.claim(saga_id, "b"))
    claim = engine.claim(saga_id, "a")

    def scheduled() -> bool:
        engine.coordinator.mover.look(saga_id)
        return ("b", "forward", 2) in engine.attempts(saga_id)

    wait_until(scheduled)
    script.on("a", declined)
    engine.coordinator.execute(claim)
    assert ("b", "forward", 2) not in engine.attempts(saga_id)


def test_looking_again_and_again_changes_nothing(engine: Engine) -> None:
    saga_id = start(engine, "fan")
    for _ in range(3):
        engine.coordinator.mover.look(saga_id)
    assert engine.kinds(saga_id) == ["SagaStarted"]
    assert engine.attempts(saga_id) == [("a", "forward", 1), ("b", "forward", 1)]


def test_an_open_attempt_whose_row_is_gone_is_found_by_a_look(
    engine: Engine, script: Scripted
) -> None:
    saga_id = start(engine)
    engine.bell.messages.clear()
    engine.claim(saga_id)
    engine.sql("DELETE FROM amends.attempt")
    assert engine.finish(saga_id) == "completed"
    assert "StepUnknown" in engine.kinds(saga_id)
    assert script.calls[0] == ("reserve", "forward", 2)


def test_a_sibling_that_waits_makes_the_saga_due_when_its_wait_ends(
    engine: Engine, script: Scripted
) -> None:
    def wait(_context: StepContext[Any]) -> None:
        raise Wait("answer", datetime.now(UTC) + timedelta(seconds=30))

    script.on("b", wait)
    saga_id = start(engine, "fan")
    engine.claim(saga_id, "a")
    engine.coordinator.execute(engine.claim(saga_id, "b"))
    [(seconds,)] = engine.sql(
        "SELECT extract(epoch FROM due_at - clock_timestamp()) FROM amends.saga WHERE id = :id",
        id=saga_id,
    )
    assert seconds < 31


# -- waiting for a signal --------------------------------------------------------------------------


def test_a_waiting_saga_is_seen_as_waiting_and_has_a_due_time(
    engine: Engine, script: Scripted
) -> None:
    def wait(_context: StepContext[Any]) -> None:
        raise Wait("answer", datetime.now(UTC) + timedelta(minutes=5))

    script.on("reserve", wait)
    saga_id = start(engine)
    engine.work()
    found = engine.client.get(saga_id)
    assert found.state == "waiting"
    assert found.due_at is not None
    assert engine.attempts(saga_id) == []


def test_a_waiting_saga_goes_on_when_its_moment_passes(engine: Engine, script: Scripted) -> None:
    signals: list[Any] = []

    def wait_once(context: StepContext[Any]) -> None:
        if context.attempt == 1:
            raise Wait("answer", datetime.now(UTC) + timedelta(seconds=0.2))
        signals.append(context.signal)

    script.on("reserve", wait_once)
    saga_id = start(engine)
    assert engine.finish(saga_id) == "completed"
    assert signals == [None]
