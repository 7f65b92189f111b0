"""Sagas that start sagas: results go up, cancels and undoing go down, a parked child is seen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from orchestrator.child_sagas import child_saga
from orchestrator.definition import Busy, Lock, Retry
from orchestrator.entries import CancelRequested, StepSettled
from orchestrator.errors import Terminal
from orchestrator.seam import intercepted
from orchestrator.waits import wait_for
from tests.histories import doing, saga
from tests.integration.engine import Engine

ONCE = Retry(max_attempts=1, base=timedelta(milliseconds=1), cap=timedelta(seconds=1))
BEHAVIOUR: dict[str, Any] = {}


def acts(context: Any) -> Any:
    """Do what the test says for this step and direction."""
    act = BEHAVIOUR.get(f"{context.step}.{context.direction}")
    return act(context) if act else {"did": context.step}


def refuses(_context: Any) -> None:
    raise Terminal("no", decisive=True)


def step(name: str, **options: Any) -> Any:
    return doing(name, run=acts, **options)


CHILD = saga(
    step("pack", compensation=acts, undo_retry=ONCE),
    wait_for("picked_up", within=timedelta(hours=1)),
    name="parcel",
)
FINAL_CHILD = saga(step("send", pivot=True), name="letter")


def parent(name: str, child: Any) -> Any:
    return saga(
        step("pay", compensation=acts),
        child_saga("parcel", child, lambda ctx: ctx.payload.model_dump()),
        step("thank", compensation=acts),
        name=name,
    )


ORDER, MAIL = parent("order", CHILD), parent("mail", FINAL_CHILD)
BUSY_CHILD = saga(
    step("pack", compensation=acts), name="dock", lock=Lock(on=lambda _: "dock", busy=Busy.REFUSE)
)
BUSY = saga(
    child_saga("parcel", BUSY_CHILD, lambda ctx: ctx.payload.model_dump(), retry=ONCE), name="busy"
)
WRONG = saga(child_saga("parcel", CHILD, lambda _: {"amount": "none"}), name="wrong")
LAST = saga(
    step("pay", pivot=True),
    child_saga("parcel", CHILD, lambda ctx: ctx.payload.model_dump(), retriable=True),
    name="last",
)


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    BEHAVIOUR.clear()
    made = Engine(database, CHILD, FINAL_CHILD, ORDER, MAIL, BUSY_CHILD, BUSY, WRONG, LAST)
    yield made
    made.close()


def start(engine: Engine, name: str = "order") -> UUID:
    saga_id = engine.client.start(name, {"amount": 1}, key="o-1").id
    engine.work()
    return saga_id


def child_id(engine: Engine, parent_id: UUID) -> UUID:
    found = engine.client.child_of(parent_id, "parcel")
    assert found is not None
    return found.id


def picked_up(engine: Engine, saga_id: UUID) -> None:
    engine.client.signal(child_id(engine, saga_id), "picked_up", "van 7", dedup_id="1")
    engine.work()


def state(engine: Engine, saga_id: UUID) -> str:
    return engine.client.get(saga_id).state.value


def test_a_parent_waits_for_its_child_and_takes_its_results(engine: Engine) -> None:
    saga_id = start(engine)
    assert state(engine, saga_id) == "waiting"
    picked_up(engine, saga_id)
    assert state(engine, saga_id) == "completed"
    assert engine.client.results(saga_id)["parcel"]["results"]["picked_up"] == "van 7"


def test_a_repeated_start_of_the_child_finds_the_first_one(engine: Engine) -> None:
    saga_id = engine.client.start("order", {"amount": 1}, key="o-1").id
    engine.coordinator.execute(engine.claim(saga_id))
    claim = engine.claim(saga_id, "parcel")
    engine.gives_up(claim)
    engine.coordinator.execute(claim)  # it lives after all, and starts the child
    engine.work()
    assert len(engine.sql("SELECT 1 FROM amends.saga WHERE definition = 'parcel'")) == 1


def test_a_child_that_may_not_start_had_no_effect(engine: Engine) -> None:
    engine.client.start("dock", {"amount": 1}, key="first")
    saga_id = engine.client.start("busy", {"amount": 1}, key="o-1").id
    engine.coordinator.execute(engine.claim(saga_id))
    assert engine.finish(saga_id) == "compensated"
    assert "StepUnknown" not in engine.kinds(saga_id)


def test_a_child_whose_payload_is_refused_takes_its_parent_back(engine: Engine) -> None:
    saga_id = start(engine, "wrong")
    assert engine.finish(saga_id) == "compensated"


def test_a_child_past_the_pivot_is_waited_for_and_never_undone(engine: Engine) -> None:
    saga_id = start(engine, "last")
    picked_up(engine, saga_id)
    assert state(engine, saga_id) == "completed"


def test_a_cancel_reaches_a_child_whose_start_was_once_in_doubt(engine: Engine) -> None:
    saga_id = engine.client.start("order", {"amount": 1}, key="o-1").id
    engine.coordinator.execute(engine.claim(saga_id))
    engine.gives_up(engine.claim(saga_id, "parcel"))
    engine.work()
    assert state(engine, saga_id) == "waiting"
    engine.client.cancel(saga_id, reason="no")
    assert engine.finish(saga_id) == "compensated"
    assert state(engine, child_id(engine, saga_id)) == "compensated"


def test_a_child_that_is_taken_back_takes_its_parent_back(engine: Engine) -> None:
    BEHAVIOUR["pack.forward"] = refuses
    saga_id = start(engine)
    assert engine.finish(saga_id) == "compensated"


def test_a_cancel_of_the_parent_reaches_the_child(engine: Engine) -> None:
    saga_id = start(engine)
    engine.client.cancel(saga_id, reason="no")
    assert engine.finish(saga_id) == "compensated"
    assert state(engine, child_id(engine, saga_id)) == "compensated"


def test_a_completed_child_is_taken_back_with_its_parent(engine: Engine) -> None:
    BEHAVIOUR["thank.forward"] = refuses
    saga_id = start(engine)
    picked_up(engine, saga_id)
    assert engine.finish(saga_id) == "compensated"
    assert state(engine, child_id(engine, saga_id)) == "compensated"


def test_a_child_past_its_pivot_is_not_taken_back_and_the_parent_says_so(engine: Engine) -> None:
    BEHAVIOUR["thank.forward"] = refuses
    saga_id = start(engine, "mail")
    assert engine.finish(saga_id) == "failed_compensation"
    assert state(engine, child_id(engine, saga_id)) == "completed"
    assert "past its pivot" in str(engine.client.get(saga_id).last_error)


def test_a_parked_child_parks_its_parent_and_both_go_on(engine: Engine) -> None:
    BEHAVIOUR["pack.compensate"] = refuses
    saga_id = start(engine)
    child = child_id(engine, saga_id)
    engine.client.cancel(child, reason="no")
    assert engine.finish(child) == "failed_compensation"
    engine.work()
    assert state(engine, saga_id) == "stuck"
    assert str(child) in str(engine.entries(saga_id)[-1])

    engine.client.abandon(child, reason="looked at it", actor="ada")
    engine.work()

    assert state(engine, saga_id) != "stuck" or "child_parked" not in str(
        engine.entries(saga_id)[-1]
    )


def test_a_parent_is_told_by_the_sweep_when_its_child_died_telling(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    saga_id = start(engine)
    child = child_id(engine, saga_id)
    monkeypatch.setattr(engine.coordinator.mover, "pass_on", lambda _saga: None)
    engine.client.signal(child, "picked_up", "van 7", dedup_id="1")
    engine.work()
    assert state(engine, child) == "completed"
    assert state(engine, saga_id) == "waiting"
    engine.coordinator.mover.deliver()
    assert engine.finish(saga_id) == "completed"


def test_nobody_tells_a_parent_something_else_of_its_child_than_is_true(engine: Engine) -> None:
    """Whoever may send signals may send this one; the child has completed, and tells no more."""
    saga_id = start(engine)
    child = child_id(engine, saga_id)
    engine.client.signal(child, "picked_up", "van 7", dedup_id="1")
    engine.coordinator.execute(engine.claim(child))
    assert state(engine, child) == "completed"
    forged = {"saga_id": str(child), "state": "stuck"}
    for name, told in (("of it", forged), ("of another", {"saga_id": "x", "state": "stuck"})):
        engine.client.signal(saga_id, "child.parcel", told, dedup_id=name)
    assert engine.finish(saga_id) == "completed"


# -- a worker that comes back late -----------------------------------------------------------------


def children(engine: Engine) -> list[Any]:
    return engine.sql("SELECT state FROM amends.saga WHERE definition = 'parcel'")


def starting(engine: Engine) -> Any:
    """The claim of the step that starts a child, whose worker stops before it does."""
    saga_id = engine.client.start("order", {"amount": 1}, key="o-1").id
    engine.coordinator.execute(engine.claim(saga_id))
    return engine.claim(saga_id, "parcel")


def test_a_worker_whose_lease_is_over_starts_no_child(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = starting(engine)
    monkeypatch.setattr(claim.lease, "ends_at", time.monotonic() + 0.5)  # less than a start takes
    engine.coordinator.execute(claim)
    assert children(engine) == []
    assert "StepFailed" in engine.kinds(claim.attempt.saga_id)


def test_a_child_is_not_started_once_its_parent_is_taken_back(engine: Engine) -> None:
    """The worker's clock stood still with it, so it believes that it may send."""
    claim = starting(engine)
    saga_id = claim.attempt.saga_id
    engine.gives_up(claim)
    engine.client.cancel(saga_id, reason="no")
    BEHAVIOUR["thank.forward"] = refuses
    engine.bell.messages.clear()
    with intercepted(_taken_back_before("start.commit", engine, saga_id)):
        engine.coordinator.execute(claim)
    assert children(engine) == []
    assert state(engine, saga_id) == "compensated"


def test_a_child_whose_wait_came_too_late_is_taken_back_with_its_parent(engine: Engine) -> None:
    claim = starting(engine)
    saga_id = claim.attempt.saga_id
    engine.gives_up(claim)
    with intercepted(_taken_back_after("start.commit", engine, saga_id)):
        engine.coordinator.execute(claim)
    assert "LateOutcomeRecorded" in engine.kinds(saga_id)
    assert engine.finish(saga_id) == "compensated"
    assert state(engine, child_id(engine, saga_id)) == "compensated"


def _taken_back_before(name: str, engine: Engine, saga_id: UUID) -> Any:
    """Have others take the saga back right before that action."""
    done: list[str] = []

    def interceptor(action_name: str, action: Any) -> Any:
        if action_name == name and not done:
            done.append(name)
            _takes_back(engine, saga_id)
        return action()

    return interceptor


def _taken_back_after(name: str, engine: Engine, saga_id: UUID) -> Any:
    done: list[str] = []

    def interceptor(action_name: str, action: Any) -> Any:
        answer = action()
        if action_name == name and not done:
            done.append(name)
            _takes_back(engine, saga_id)
        return answer

    return interceptor


def _takes_back(engine: Engine, saga_id: UUID) -> None:
    """Let the step be denied by an operator, and the saga be taken back whole."""
    snapshot = engine.coordinator.log.read(saga_id)
    assert snapshot is not None
    denied = StepSettled(step="parcel", direction="forward", landed=False, by="ada")
    asked = CancelRequested(reason="no", actor="ada")
    engine.coordinator.mover.act(snapshot, [denied, asked])
    engine.finish(saga_id)
