"""Asking for a saga to be taken back, and waiting for its end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from orchestrator.errors import (
    PayloadError,
    SagaNotFoundError,
    StateConflictError,
    Terminal,
    WaitTimeoutError,
)
from orchestrator.outside_facts import CancelStatus
from tests.histories import doing, saga
from tests.integration.engine import Engine


def refuse(context: Any) -> None:
    if context.direction == "forward":
        raise Terminal("no", decisive=True)
    raise Terminal("cannot be undone")


SHOP = saga(doing("pay"), doing("ship", pivot=True), doing("mail", retriable=True))
STUBBORN = saga(doing("pay", run=refuse, compensation=refuse), name="stubborn")


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = Engine(database, SHOP, STUBBORN)
    yield made
    made.close()


def start(engine: Engine, name: str = "shop") -> Any:
    return engine.client.start(name, {"amount": 1}, key="order-1").id


# -- cancel ----------------------------------------------------------------------------------------


def test_a_saga_is_due_at_once_where_its_definition_is_not_known(
    engine: Engine, database: str
) -> None:
    saga_id = start(engine)
    engine.coordinator.execute(engine.claim(saga_id))
    engine.bell.messages.clear()
    elsewhere = Engine(database)
    elsewhere.client.cancel(saga_id, reason="changed my mind", actor="ada")
    elsewhere.close()
    [(due,)] = engine.sql("SELECT due_at <= clock_timestamp() FROM amends.saga")
    assert due
    assert engine.finish(saga_id) == "compensated"


def test_a_cancel_names_who_and_why_in_the_log(engine: Engine) -> None:
    saga_id = start(engine)
    engine.client.cancel(saga_id, reason="changed my mind", actor="ada")
    [data] = engine.sql("SELECT data FROM amends.saga_log WHERE kind = 'CancelRequested'")
    assert data[0] == {"reason": "changed my mind", "actor": "ada"}


def test_a_cancel_past_the_pivot_is_refused(engine: Engine) -> None:
    saga_id = start(engine)
    engine.coordinator.execute(engine.claim(saga_id))
    engine.coordinator.execute(engine.claim(saga_id))
    assert engine.client.cancel(saga_id, reason="too late").status is CancelStatus.REFUSED
    assert engine.finish(saga_id) == "completed"


def test_a_cancel_waits_for_the_answer_of_a_claimed_pivot(engine: Engine) -> None:
    saga_id = start(engine)
    engine.coordinator.execute(engine.claim(saga_id))
    pivot = engine.claim(saga_id)
    assert engine.client.cancel(saga_id, reason="perhaps").status is CancelStatus.PENDING
    engine.coordinator.execute(pivot)
    assert engine.client.cancel(saga_id, reason="and now?").status is CancelStatus.REFUSED
    assert engine.finish(saga_id) == "completed"


def test_a_cancel_is_accepted_once_nothing_runs(engine: Engine) -> None:
    saga_id = start(engine)
    engine.coordinator.execute(engine.claim(saga_id))
    assert engine.client.cancel(saga_id, reason="in time").status is CancelStatus.ACCEPTED
    assert engine.finish(saga_id) == "compensated"


def test_an_ended_saga_cannot_be_cancelled(engine: Engine) -> None:
    saga_id = start(engine)
    engine.work()
    with pytest.raises(StateConflictError, match="is completed"):
        engine.client.cancel(saga_id, reason="too late")
    assert "CancelRequested" not in engine.kinds(saga_id)


@pytest.mark.parametrize("reason", ["", "  ", "\x00"])
def test_a_cancel_needs_a_reason_that_can_be_stored(engine: Engine, reason: str) -> None:
    saga_id = start(engine)
    with pytest.raises(PayloadError):
        engine.client.cancel(saga_id, reason=reason)


def test_a_saga_is_asked_for_once(engine: Engine) -> None:
    saga_id = start(engine)
    for _ in range(3):
        assert engine.client.cancel(saga_id, reason="changed my mind").saga.id == saga_id
    assert engine.kinds(saga_id).count("CancelRequested") == 1
    assert engine.finish(saga_id) == "compensated"
    assert engine.client.cancel(saga_id, reason="is it?").saga.state == "compensated"


@pytest.mark.parametrize("too_long", ["reason", "actor"])
def test_a_cancel_fits_into_a_line_of_the_log(engine: Engine, too_long: str) -> None:
    saga_id = start(engine)
    with pytest.raises(PayloadError, match="500 characters"):
        engine.client.cancel(saga_id, **{"reason": "no", too_long: "x" * 501})
    assert "CancelRequested" not in engine.kinds(saga_id)


def test_nobody_can_cancel_what_does_not_exist(engine: Engine) -> None:
    with pytest.raises(SagaNotFoundError):
        engine.client.cancel(uuid4(), reason="no")


# -- wait ------------------------------------------------------------------------------------------


def test_waiting_ends_with_the_saga(engine: Engine) -> None:
    saga_id = start(engine)
    worker = threading.Timer(0.1, engine.work)
    worker.start()
    assert engine.client.wait(saga_id, timeout=90).state == "completed"
    worker.join()


def test_waiting_ends_when_the_saga_is_parked(engine: Engine) -> None:
    saga_id = start(engine, "stubborn")
    engine.finish(saga_id)
    found = engine.client.wait(saga_id, timeout=timedelta(seconds=60))
    assert found.is_parked
    assert found.due_at is not None


def test_waiting_too_long_is_an_error_that_says_where_the_saga_is(engine: Engine) -> None:
    saga_id = start(engine)
    with pytest.raises(WaitTimeoutError, match="still running") as timed_out:
        engine.client.wait(saga_id, timeout=0.05)
    assert isinstance(timed_out.value, TimeoutError)


def test_waiting_for_nothing_is_refused_at_once(engine: Engine) -> None:
    with pytest.raises(SagaNotFoundError):
        engine.client.wait(uuid4(), timeout=5)
