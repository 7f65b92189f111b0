"""Effects that are heard of when the saga has ended: kept, told of, and acted on by who can."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from orchestrator.context import Effect
from orchestrator.definition import Migration
from orchestrator.entries import (
    EffectReported,
    LateOutcomeRecorded,
    SagaMigrated,
    SagaResolved,
)
from orchestrator.errors import UnknownDefinitionError
from orchestrator.state import State
from orchestrator.storage.database import Database
from orchestrator.storage.rows import Migrated
from recovery.sweeper import Sweeper
from tests.histories import doing, nothing, saga
from tests.integration.engine import Engine

CHARGES: list[str] = []


def charge(_context: Any) -> Effect:
    CHARGES.append(f"ch_{len(CHARGES) + 1}")
    return Effect(reference=CHARGES[-1])


def refund(context: Any) -> Effect:
    return Effect(reference=f"re_{context.effect.reference}")


SHOP = saga(doing("pay", run=charge, compensation=refund), doing("pack"))
NEWER = saga(
    doing("pay", run=charge, compensation=refund),
    doing("pack"),
    doing("thank", run=nothing, no_compensation="none, because thanks are free"),
    version=2,
    migrates={1: Migration()},
)


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    CHARGES.clear()
    made = Engine(database, SHOP)
    yield made
    made.close()


@pytest.fixture
def newer(database: str) -> Iterator[Engine]:
    made = Engine(database, NEWER)
    yield made
    made.close()


def lost(engine: Engine) -> Any:
    """A claim of the first step, whose worker is given up and comes back later."""
    saga_id = engine.client.start(SHOP, {}, key="order-1").id
    engine.bell.messages.clear()
    claim = engine.claim(saga_id)
    assert engine.gives_up(claim)
    return claim


def migrated(engine: Engine, saga_id: UUID) -> None:
    snapshot = engine.coordinator.log.read(saga_id)
    assert snapshot is not None
    entry = SagaMigrated(version=2, definition_hash=NEWER.hash, payload={})
    row = Migrated(version=2, definition_hash=NEWER.hash, attributes={})
    state = snapshot.saga.state
    assert engine.coordinator.mover.note(snapshot.saga, [entry], state=state, migrated=row)


def late(engine: Engine, saga_id: UUID) -> list[LateOutcomeRecorded]:
    return [each for each in engine.entries(saga_id) if isinstance(each, LateOutcomeRecorded)]


def alerts(engine: Engine) -> list[tuple[Any, ...]]:
    return engine.sql(
        "SELECT kind, data->>'state', data->>'step', due_at IS NOT NULL FROM amends.alert"
    )


def resolved(engine: Engine) -> Any:
    claim = lost(engine)
    snapshot = engine.coordinator.log.read(claim.attempt.saga_id)
    assert snapshot is not None
    closing = [SagaResolved(actor="ada and bob", reason="settled by hand")]
    assert engine.coordinator.mover.note(snapshot.saga, closing, state=State.RESOLVED)
    return claim


def test_a_late_charge_on_a_resolved_saga_is_kept_and_told_of_and_not_acted_on(
    engine: Engine,
) -> None:
    claim = resolved(engine)
    saga_id = claim.attempt.saga_id
    engine.coordinator.execute(claim)
    assert [each.reference for each in late(engine, saga_id)] == ["ch_1"]
    assert alerts(engine) == [("late_effect", "resolved", "pay", True)]
    Sweeper(engine.coordinator, Database(engine.pool)).run_once()
    assert engine.client.get(saga_id).state.value == "resolved"
    assert alerts(engine) == [("late_effect", "resolved", "pay", True)]


def test_an_effect_that_others_prove_on_a_resolved_saga_is_told_of_once(engine: Engine) -> None:
    saga_id = resolved(engine).attempt.saga_id
    for _ in range(2):
        engine.client.report_effect(saga_id, "pay", Effect(reference="ch_9"), by="webhook")
    told = [each for each in engine.entries(saga_id) if isinstance(each, EffectReported)]
    assert len(told) == 1
    assert len(alerts(engine)) == 1


def test_a_late_failure_on_a_resolved_saga_alerts_nobody(engine: Engine) -> None:
    claim = resolved(engine)
    saga_id = claim.attempt.saga_id
    fact = LateOutcomeRecorded(step="pay", direction="forward", attempt=1, outcome="failed")
    engine.coordinator.mover.keep_late(saga_id, fact)
    assert len(late(engine, saga_id)) == 1
    assert alerts(engine) == []


def ended_elsewhere(engine: Engine, newer: Engine) -> Any:
    """A claim of a worker that lacks the version under which its saga has completed."""
    claim = lost(engine)
    migrated(engine, claim.attempt.saga_id)
    assert newer.finish(claim.attempt.saga_id) == "completed"
    return claim


def test_a_late_effect_of_a_saga_that_ended_under_another_version_is_acted_on_by_who_has_it(
    engine: Engine, newer: Engine
) -> None:
    claim = ended_elsewhere(engine, newer)
    saga_id = claim.attempt.saga_id
    engine.coordinator.execute(claim)
    assert [each.reference for each in late(engine, saga_id)] == ["ch_2"]
    assert alerts(engine) == [("late_effect", "completed", "pay", True)]
    Sweeper(engine.coordinator, Database(engine.pool)).run_once()
    assert alerts(engine) == [("late_effect", "completed", "pay", True)]
    Sweeper(newer.coordinator, Database(newer.pool)).run_once()
    assert alerts(engine) == [("late_effect", "completed", "pay", False)]
    assert newer.finish(saga_id) == "completed"
    assert newer.kinds(saga_id).count("UnwindingStarted") == 1


def test_a_late_outcome_that_is_offered_again_is_kept_once(engine: Engine, newer: Engine) -> None:
    claim = ended_elsewhere(engine, newer)
    fact = LateOutcomeRecorded(
        step="pay", direction="forward", attempt=1, outcome="succeeded", reference="ch_2"
    )
    for _ in range(2):
        engine.coordinator.mover.keep_late(claim.attempt.saga_id, fact)
    assert len(late(engine, claim.attempt.saga_id)) == 1
    assert len(alerts(engine)) == 1


def test_what_only_who_has_the_definition_can_answer_is_refused(
    engine: Engine, newer: Engine
) -> None:
    saga_id = ended_elsewhere(engine, newer).attempt.saga_id
    with pytest.raises(UnknownDefinitionError):
        engine.client.request_undo(saga_id, reason="the parent is taken back")
