"""From claim to claim: the road of a saga, and who may claim what."""

from __future__ import annotations

import contextlib
import threading
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from pydantic import BaseModel

from orchestrator.context import Effect, StepContext
from orchestrator.definition import SagaDefinition
from orchestrator.entries import log_format
from orchestrator.errors import Retriable
from orchestrator.folding import replay
from orchestrator.storage.rows import AttemptId
from tests.histories import doing, saga
from tests.integration.coordinating.scripted import Scripted, declined, start
from tests.integration.engine import Engine, answer_lost, attempt_of, events

# -- the road --------------------------------------------------------------------------------------


@pytest.mark.parametrize("inline", [False, True])
def test_a_saga_runs_to_its_end(engine: Engine, script: Scripted, inline: bool) -> None:
    saga_id = start(engine)
    engine.work(inline=inline)
    assert engine.client.get(saga_id).state == "completed"
    assert [name for name, _, _ in script.calls] == ["reserve", "pay", "ship"]
    assert engine.attempts(saga_id) == []


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("name", ["shop", "fan"])
def test_the_database_and_the_fold_agree_about_every_saga(
    engine: Engine, script: Scripted, inline: bool, name: str
) -> None:
    script.on("pay", declined)
    script.on("c", declined)
    saga_id = start(engine, name)
    assert engine.finish(saga_id, inline=inline) == "compensated"
    entries = engine.coordinator.log.entries(saga_id)
    assert [each.seq for each in entries] == list(range(1, len(entries) + 1))
    assert replay(entries).phase == engine.client.get(saga_id).state
    assert engine.client.get(saga_id).seq == len(entries)


def test_the_intent_is_committed_before_the_step_is_called(
    engine: Engine, script: Scripted
) -> None:
    seen: list[str] = []
    script.on("reserve", lambda context: seen.extend(engine.kinds(context.saga_id)))
    start(engine)
    engine.work()
    assert seen == ["SagaStarted", "StepStarted"]


def test_a_step_sees_the_results_of_those_before_it(engine: Engine, script: Scripted) -> None:
    script.on("reserve", lambda _: {"items": 2})
    seen: list[Any] = []
    script.on("pay", lambda context: seen.append(dict(context.results)))
    start(engine)
    engine.work(inline=True)
    assert seen == [{"reserve": {"items": 2}}]


def test_an_undo_is_given_the_effect_it_undoes(engine: Engine, script: Scripted) -> None:
    script.on("reserve", lambda _: Effect(value=1, reference="r-1"))
    script.on("pay", declined)
    seen: list[Any] = []
    script.on("reserve", lambda context: seen.append(context.effect), "compensate")
    saga_id = start(engine)
    assert engine.finish(saga_id) == "compensated"
    assert [each.reference for each in seen] == ["r-1"]


def test_side_by_side_steps_are_each_run_once(engine: Engine, script: Scripted) -> None:
    saga_id = start(engine, "fan")
    engine.work(inline=True)
    assert engine.client.get(saga_id).state == "completed"
    assert sorted(script.calls) == [(name, "forward", 1) for name in "abc"]


def test_large_numbers_do_not_make_a_result_look_like_a_strangers(
    engine: Engine, script: Scripted
) -> None:
    script.on("reserve", lambda _: [1e23, 1.5e300, 0.1, -0.0, 5e-324])
    saga_id = start(engine)
    with answer_lost("record.commit", applied=True):
        engine.work()
    assert engine.kinds(saga_id).count("LateOutcomeRecorded") == 0
    assert engine.client.get(saga_id).state == "completed"


# -- claiming --------------------------------------------------------------------------------------


def test_a_duplicate_message_claims_nothing(engine: Engine, script: Scripted) -> None:
    saga_id = start(engine)
    engine.bell.messages.extend([*engine.bell.messages] * 3)
    engine.work()
    assert engine.client.get(saga_id).state == "completed"
    assert len(script.calls) == 3


def test_fifty_threads_claim_one_attempt_once(engine: Engine) -> None:
    saga_id = start(engine)
    attempt = AttemptId(saga_id=saga_id, step="reserve", direction="forward", number=1)
    claims: list[Any] = []
    threads = [
        threading.Thread(target=lambda: claims.append(engine.coordinator.claim(attempt)))
        for _ in range(8)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sum(each is not None for each in claims) == 1
    assert engine.kinds(saga_id) == ["SagaStarted", "StepStarted"]


@pytest.mark.parametrize(
    "forged",
    [
        {"saga_id": uuid4()},
        {"step": "ship"},
        {"step": "'; DROP TABLE amends.saga; --"},
        {"direction": "compensate"},
        {"direction": "sideways"},
        {"number": 2},
        {"number": -1},
    ],
)
def test_a_forged_message_changes_nothing(engine: Engine, forged: dict[str, Any]) -> None:
    saga_id = start(engine)
    values = {"saga_id": saga_id, "step": "reserve", "direction": "forward", "number": 1}
    assert engine.coordinator.claim(AttemptId(**{**values, **forged})) is None
    assert engine.kinds(saga_id) == ["SagaStarted"]


def test_an_attempt_that_is_not_due_cannot_be_claimed(engine: Engine, script: Scripted) -> None:
    def busy(_context: StepContext[Any]) -> None:
        raise Retriable("busy", retry_after=timedelta(minutes=1))

    script.on("reserve", busy)
    saga_id = start(engine)
    engine.work()
    [(step, direction, number)] = engine.attempts(saga_id)
    assert number == 2
    attempt = AttemptId(saga_id=saga_id, step=step, direction=direction, number=number)
    assert engine.coordinator.claim(attempt) is None


def test_a_worker_without_the_definition_leaves_the_saga_alone(
    engine: Engine, database: str
) -> None:
    saga_id = start(engine)
    other = Engine(database, saga(doing("reserve"), doing("something_else")))
    try:
        attempt = AttemptId(saga_id=saga_id, step="reserve", direction="forward", number=1)
        assert other.coordinator.claim(attempt) is None
        assert other.coordinator.mover.look(saga_id) is None
    finally:
        other.close()
    assert engine.kinds(saga_id) == ["SagaStarted"]


def test_a_draining_worker_claims_nothing_more(engine: Engine) -> None:
    saga_id = start(engine)
    engine.drains = True
    engine.work()
    assert engine.kinds(saga_id) == ["SagaStarted"]


def test_a_draining_worker_does_not_go_on_in_place(engine: Engine, script: Scripted) -> None:
    def stopping(_context: StepContext[Any]) -> None:
        engine.drains = True

    script.on("reserve", stopping)
    saga_id = start(engine)
    engine.work(inline=True)
    assert [name for name, _, _ in script.calls] == ["reserve"]
    assert engine.attempts(saga_id) == [("pay", "forward", 1)]


def test_a_draining_worker_hands_back_what_it_has_not_begun(
    engine: Engine, script: Scripted
) -> None:
    saga_id = start(engine)
    claim = engine.claim(saga_id)
    engine.drains = True
    assert engine.coordinator.execute(claim) is None
    assert engine.kinds(saga_id)[-1] == "StepReleased"
    assert script.calls == []
    assert engine.attempts(saga_id) == [("reserve", "forward", 2)]


def test_a_row_the_log_no_longer_asks_for_is_handed_back_uncalled(
    engine: Engine, script: Scripted
) -> None:
    """A row can outlive the decision that wanted it, for example after a restore."""
    script.on("pay", declined)
    saga_id = start(engine)
    engine.finish(saga_id)
    engine.sql(
        "INSERT INTO amends.attempt (saga_id, step, direction, number, queue, due_at, ring_at, "
        "timeout_for) VALUES (:id, 'ship', 'forward', 1, 'amends', now(), now(), '30 s')",
        id=saga_id,
    )
    attempt = AttemptId(saga_id=saga_id, step="ship", direction="forward", number=1)
    assert engine.coordinator.claim(attempt) is None
    assert ("ship", "forward", 1) not in script.calls
    assert engine.client.get(saga_id).state == "compensated"
    assert engine.attempts(saga_id) == []


def test_a_cancel_that_came_before_the_claim_keeps_the_step_from_being_called(
    engine: Engine, script: Scripted
) -> None:
    saga_id = start(engine)
    engine.client.cancel(saga_id, reason="no")
    engine.work()
    assert script.calls == []
    assert engine.client.get(saga_id).state == "compensated"


def test_a_payload_this_worker_cannot_read_is_no_effect_and_no_unknown(
    engine: Engine, database: str, shop: SagaDefinition[Any], script: Scripted
) -> None:
    class Stricter(BaseModel):
        amount: int
        coupon: str

    saga_id = start(engine)
    other = Engine(database, saga(*shop.steps, payload=Stricter))
    try:
        other.coordinator.execute(other.claim(saga_id))
    finally:
        other.close()
    assert engine.kinds(saga_id)[-2:] == ["StepReleased", "SagaParked"]
    assert script.calls == []
    assert engine.coordinator.mover.look(saga_id) == "running"  # who can read it goes on with it
    assert engine.finish(saga_id) == "completed"


def test_a_log_with_entries_of_a_newer_version_is_left_as_it_is(engine: Engine) -> None:
    saga_id = start(engine)
    write(engine, saga_id, "NoteAdded", "{}")
    engine.sql("UPDATE amends.saga SET log_format = :newer", newer=log_format() + 1)
    assert engine.coordinator.claim(attempt_of(engine.bell.messages[0])) is None
    assert engine.sql("SELECT kind FROM amends.saga_log ORDER BY seq") == [
        ("SagaStarted",),
        ("NoteAdded",),
    ]
    assert engine.sql("SELECT token FROM amends.attempt") == [(None,)]


@pytest.mark.parametrize("applied", [None, True])
def test_a_damaged_log_costs_its_claim_and_not_the_worker(
    engine: Engine, applied: bool | None
) -> None:
    saga_id = start(engine)
    write(engine, saga_id, "SagaCompensated", "{}")
    lost = (
        contextlib.nullcontext()
        if applied is None
        else answer_lost("claim.commit", applied=applied)
    )
    with events() as heard, lost:
        assert engine.coordinator.claim(attempt_of(engine.bell.messages[0])) is None
    assert [event for event, _ in heard].count("saga.set_aside") == 1
    assert engine.coordinator.leases.holdings == []


def write(engine: Engine, saga_id: Any, kind: str, values: str) -> None:
    """Append to a log what this version would not."""
    engine.sql(
        "INSERT INTO amends.saga_log (saga_id, seq, kind, data) VALUES (:s, 2, :k, :v)",
        s=saga_id,
        k=kind,
        v=values,
    )
    engine.sql("UPDATE amends.saga SET seq = 2")


def test_a_saga_whose_steps_are_all_left_out_completes(database: str) -> None:
    idle = saga(doing("wrap", when=lambda order: order.gift), name="idle")
    engine = Engine(database, idle)
    try:
        assert engine.finish(start(engine, "idle")) == "completed"
    finally:
        engine.close()
