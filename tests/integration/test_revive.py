"""A late effect of a pruned saga stops in front of a person, and its key stays taken."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from orchestrator.context import Effect
from orchestrator.entries import LateOutcomeRecorded, SagaParked, SagaResolved, SagaStarted
from orchestrator.errors import LogUnavailableError
from orchestrator.state import State
from orchestrator.storage.database import Database
from orchestrator.storage.retention import Retention
from orchestrator.storage.rows import Advance
from orchestrator.storage.tombstones import REASON, Revived, Tombstones
from tests.ended_sagas import NINETY_DAYS, ORDER, SHOP, age, old, plant, prune, rows
from tests.histories import doing, saga
from tests.integration.engine import Engine, answer_lost

LATE = LateOutcomeRecorded(
    step="pay", direction="forward", attempt=2, outcome="succeeded", reference="ch_late"
)


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = Engine(database, SHOP)
    yield made
    made.close()


@pytest.fixture
def retention(engine: Engine) -> Retention:
    return Retention(Database(engine.pool))


@pytest.fixture
def tombstones(engine: Engine) -> Tombstones:
    return Tombstones(Database(engine.pool))


@pytest.fixture
def pruned(engine: Engine, retention: Retention) -> UUID:
    """The id of a saga that is gone."""
    saga_id = old(engine, "order-1")
    assert prune(retention).pruned.total() == 1
    return saga_id


def test_a_worker_that_comes_back_after_its_saga_was_pruned_is_heard(
    engine: Engine, pruned: UUID
) -> None:
    engine.coordinator.mover.keep_late(pruned, LATE)

    assert engine.client.get(pruned).state == "stuck"
    assert engine.entries(pruned)[-1] == LATE


def test_it_is_back_as_stuck_with_a_question_that_names_step_and_reference(
    engine: Engine, tombstones: Tombstones, pruned: UUID
) -> None:
    revived = tombstones.revive(pruned, LATE)

    assert revived is not None
    started, parked, late = engine.entries(pruned)
    assert list(revived.entries) == [started, parked, late]
    assert started == SagaStarted(payload=None)
    assert late == LATE
    assert isinstance(parked, SagaParked)
    assert (parked.state, parked.reason, parked.steps) == ("stuck", REASON, ["pay"])
    assert "pay took effect as ch_late" in parked.question
    assert "completed" in parked.question
    found = engine.client.get(pruned)
    assert (found.state, found.key, found.definition, found.seq) == ("stuck", "order-1", "shop", 3)
    assert found.due_at is not None
    assert (revived.saga.id, revived.saga.key, revived.saga.seq) == (pruned, "order-1", 3)


def test_looking_at_it_decides_nothing_and_its_key_still_finds_it(
    engine: Engine, tombstones: Tombstones, pruned: UUID
) -> None:
    tombstones.revive(pruned, LATE)

    assert engine.coordinator.mover.look(pruned) is State.STUCK
    assert engine.attempts(pruned) == []
    assert engine.kinds(pruned) == ["SagaStarted", "SagaParked", "LateOutcomeRecorded"]
    again = engine.client.start(SHOP, ORDER, key="order-1")
    assert (again.id, again.created) == (pruned, False)


def test_to_repeat_it_changes_nothing_and_another_late_effect_is_added_once(
    engine: Engine, tombstones: Tombstones, pruned: UUID
) -> None:
    tombstones.revive(pruned, LATE)
    repeated = tombstones.revive(pruned, LATE)
    other = LateOutcomeRecorded(step="ship", direction="forward", attempt=1, outcome="unknown")
    added = [tombstones.revive(pruned, other) for _ in range(2)]

    assert repeated is not None
    assert repeated.entries == ()
    assert [each and list(each.entries) for each in added] == [[other], []]
    assert engine.kinds(pruned)[2:] == ["LateOutcomeRecorded"] * 2
    assert engine.client.get(pruned).seq == 4


@pytest.mark.parametrize("applied", [True, False])
def test_a_lost_answer_is_repeated_safely(
    engine: Engine, tombstones: Tombstones, pruned: UUID, *, applied: bool
) -> None:
    with answer_lost("revive.commit", applied=applied), pytest.raises(LogUnavailableError):
        tombstones.revive(pruned, LATE)
    assert tombstones.revive(pruned, LATE) is not None
    assert len(engine.kinds(pruned)) == 3


def test_two_workers_with_a_late_effect_each_bring_back_one_saga_with_both(
    engine: Engine, tombstones: Tombstones, pruned: UUID
) -> None:
    answers: list[Revived | None] = []
    lates = [
        LateOutcomeRecorded(step="pay", direction="forward", attempt=n, outcome="succeeded")
        for n in range(1, 5)
    ]
    threads = [
        threading.Thread(target=lambda late=each: answers.append(tombstones.revive(pruned, late)))
        for each in lates
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert None not in answers
    entries = engine.entries(pruned)
    assert [type(each).__name__ for each in entries[:2]] == ["SagaStarted", "SagaParked"]
    assert sorted(
        each.attempt for each in entries[2:] if isinstance(each, LateOutcomeRecorded)
    ) == [*range(1, 5)]


def test_a_known_reference_is_said_to_be_known(
    engine: Engine, retention: Retention, tombstones: Tombstones
) -> None:
    plant(engine, 1)
    [(saga_id,)] = engine.sql("SELECT id FROM amends.saga")
    prune(retention)

    revived = tombstones.revive(saga_id, replace(LATE, reference="ch_order-1"))

    assert revived is not None
    parked = revived.entries[1]
    assert isinstance(parked, SagaParked)
    assert "as ch_order-1, which it knew" in parked.question


@pytest.mark.parametrize("outcome", ["failed", "succeeded"])
def test_nothing_comes_back_without_an_effect_or_without_a_tombstone(
    engine: Engine, tombstones: Tombstones, pruned: UUID, outcome: str
) -> None:
    late = LateOutcomeRecorded(step="pay", direction="forward", attempt=1, outcome=outcome)
    assert tombstones.revive(pruned if outcome == "failed" else uuid4(), late) is None
    assert rows(engine) == (0, 0)


def test_it_can_be_resolved_and_pruned_again(
    engine: Engine, retention: Retention, tombstones: Tombstones, pruned: UUID
) -> None:
    tombstones.revive(pruned, LATE)
    assert prune(retention).pruned.total() == 0
    resolved = SagaResolved(actor="me", reason="refunded by hand")
    change = Advance(saga_id=pruned, seq=3, entries=[resolved], state=State.RESOLVED)
    assert engine.coordinator.log.advance(change)
    assert (
        tombstones.revive(
            pruned,
            LateOutcomeRecorded(step="x", direction="forward", attempt=1, outcome="succeeded"),
        )
        is None
    )
    age(engine, pruned)

    assert prune(retention).pruned == {State.RESOLVED: 1}

    found = tombstones.find(pruned)
    assert found is not None
    assert found.state is State.RESOLVED
    assert found.references == ["ch_late"]
    assert not engine.client.start(SHOP, ORDER, key="order-1").created


def test_a_whole_attempt_that_outlived_its_saga_brings_it_back(
    database: str, retention: Retention
) -> None:
    shop = saga(doing("pay", run=lambda _ctx: Effect(reference="ch_late"), max_crashes=1))
    engine = Engine(database, shop)
    saga_id = engine.client.start(shop, ORDER, key="order-1").id
    claim = engine.claim(saga_id)
    assert engine.gives_up(claim)
    seq = engine.client.get(saga_id).seq
    resolved = SagaResolved(actor="me", reason="seen to")
    change = Advance(saga_id=saga_id, seq=seq, entries=[resolved], state=State.RESOLVED)
    assert engine.coordinator.log.advance(change)
    age(engine, saga_id)
    [page] = retention.ended([State.RESOLVED], NINETY_DAYS, 10)
    for _ in range(2):  # straight to the function: the log's own judge would have kept it
        retention.prune(page, NINETY_DAYS)
    assert rows(engine) == (0, 0)

    engine.coordinator.execute(claim)

    assert engine.client.get(saga_id).state is State.STUCK
    assert engine.kinds(saga_id) == ["SagaStarted", "SagaParked", "LateOutcomeRecorded"]
    engine.close()
