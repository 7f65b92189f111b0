"""Signals and timers: kept, delivered once, in order, and decided once against their deadline."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from orchestrator.entries import SignalReceived
from orchestrator.errors import PayloadError, SagaNotFoundError
from orchestrator.waits import sleep, wait_for
from tests.histories import doing, saga
from tests.integration.engine import Engine, wait_until

PATIENT = saga(doing("pay"), wait_for("approved", within=timedelta(hours=1)), doing("ship"))
HASTY = saga(doing("pay"), wait_for("approved", within=timedelta(milliseconds=50)), name="hasty")
SLEEPY = saga(doing("pay"), sleep("cool_off", timedelta(milliseconds=80)), name="sleepy")


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = Engine(database, PATIENT, HASTY, SLEEPY)
    yield made
    made.close()


def start(engine: Engine, name: str = "shop", key: str = "order-1") -> UUID:
    return engine.client.start(name, {"amount": 1}, key=key).id


def test_a_waiting_saga_holds_no_attempt_and_a_signal_wakes_it(engine: Engine) -> None:
    saga_id = start(engine)
    engine.work()
    assert engine.client.get(saga_id).state == "waiting"
    assert engine.attempts(saga_id) == []

    assert engine.client.signal(saga_id, "approved", {"by": "ada"}, dedup_id="1")
    engine.work()

    assert engine.client.get(saga_id).state == "completed"
    assert engine.client.results(saga_id)["approved"] == {"by": "ada"}


def test_a_waiting_saga_is_not_looked_at_before_its_moment(engine: Engine) -> None:
    saga_id = start(engine)
    engine.work()
    engine.coordinator.mover.look(saga_id)
    [(due,)] = engine.sql("SELECT due_at - clock_timestamp() FROM amends.saga")
    assert timedelta(minutes=50) < due <= timedelta(hours=1)


def test_a_signal_that_comes_early_is_kept_for_the_wait(engine: Engine) -> None:
    saga_id = start(engine)
    engine.client.signal(saga_id, "approved", "early", dedup_id="1")
    engine.work()
    assert engine.client.get(saga_id).state == "completed"
    assert engine.client.results(saga_id)["approved"] == "early"


def test_a_signal_for_a_saga_that_does_not_exist_yet_waits_in_the_inbox(engine: Engine) -> None:
    assert engine.client.signal(("shop", "order-1"), "approved", "first", dedup_id="1")
    saga_id = start(engine)
    engine.coordinator.mover.deliver()
    assert engine.finish(saga_id) == "completed"
    assert engine.client.results(saga_id)["approved"] == "first"


def test_the_same_signal_counts_once_whoever_sends_it(engine: Engine) -> None:
    saga_id = start(engine)
    answers: list[bool] = []

    def send() -> None:
        answers.append(engine.client.signal(saga_id, "approved", "x", dedup_id="1"))

    threads = [threading.Thread(target=send) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(answers) == [False] * 7 + [True]
    assert engine.kinds(saga_id).count("SignalReceived") == 1


def test_signals_of_a_name_are_heard_in_the_order_of_their_arrival(engine: Engine) -> None:
    for number in range(5):
        engine.client.signal(("shop", "order-1"), "approved", number, dedup_id=str(number))
    saga_id = start(engine)
    engine.coordinator.mover.deliver()
    heard = [e.payload for e in engine.entries(saga_id) if isinstance(e, SignalReceived)]
    assert heard == [0, 1, 2, 3, 4]
    engine.work()
    assert engine.client.results(saga_id)["approved"] == 0


def test_a_signal_without_a_payload_is_a_signal(engine: Engine) -> None:
    saga_id = start(engine)
    engine.client.signal(saga_id, "approved", dedup_id="1")
    assert engine.finish(saga_id) == "completed"


def test_a_wait_that_ends_by_its_deadline_is_told_so(engine: Engine) -> None:
    saga_id = start(engine, "hasty")
    assert engine.finish(saga_id) == "compensated"
    assert "not_signalled" in str(engine.entries(saga_id))


def test_a_signal_after_the_deadline_counts_until_the_next_attempt_began(engine: Engine) -> None:
    saga_id = start(engine, "hasty")
    engine.work()
    wait_until(lambda: bool(engine.coordinator.mover.look(saga_id) and engine.attempts(saga_id)))
    engine.client.signal(saga_id, "approved", "just in time", dedup_id="1")
    assert engine.finish(saga_id) == "completed"
    assert engine.client.results(saga_id)["approved"] == "just in time"


def test_a_signal_that_lost_against_the_deadline_changes_nothing(engine: Engine) -> None:
    saga_id = start(engine, "hasty")
    engine.work()
    wait_until(lambda: bool(engine.coordinator.mover.look(saga_id) and engine.attempts(saga_id)))
    claim = engine.claim(saga_id, "approved")
    engine.client.signal(saga_id, "approved", "too late", dedup_id="1")
    engine.coordinator.execute(claim)
    assert engine.finish(saga_id) == "compensated"


def test_time_passes_durably(engine: Engine) -> None:
    saga_id = start(engine, "sleepy")
    engine.work()
    assert engine.client.get(saga_id).state == "waiting"
    assert engine.finish(saga_id) == "completed"
    assert engine.kinds(saga_id).count("StepWaiting") == 1


def test_a_worker_that_dies_after_the_wait_does_not_make_it_wait_again(engine: Engine) -> None:
    saga_id = start(engine)
    engine.work()
    engine.client.signal(saga_id, "approved", "yes", dedup_id="1")
    engine.gives_up(engine.claim(saga_id, "approved"))
    assert engine.finish(saga_id) == "completed"
    assert engine.client.results(saga_id)["approved"] == "yes"


def test_a_cancelled_wait_ends_at_once(engine: Engine) -> None:
    saga_id = start(engine)
    engine.work()
    engine.client.cancel(saga_id, reason="changed my mind")
    assert engine.finish(saga_id) == "compensated"


def test_an_ended_saga_hears_nothing_more_and_the_signal_stays_in_the_inbox(
    engine: Engine,
) -> None:
    saga_id = start(engine)
    engine.client.signal(saga_id, "approved", "yes", dedup_id="1")
    engine.work()
    before = engine.kinds(saga_id)
    assert engine.client.signal(saga_id, "approved", "again", dedup_id="2")
    engine.coordinator.mover.deliver()
    assert engine.kinds(saga_id) == before


@pytest.mark.parametrize(
    "given",
    [
        {"name": "", "dedup_id": "1"},
        {"name": "x" * 201, "dedup_id": "1"},
        {"name": "approved", "dedup_id": ""},
        {"name": "approved", "dedup_id": "1", "payload": "x" * 70_000},
        {"name": "approved", "dedup_id": "1", "payload": float("nan")},
        {"name": "approved", "dedup_id": "1", "payload": "\x00"},
    ],
)
def test_a_signal_that_cannot_be_kept_is_refused(engine: Engine, given: dict[str, Any]) -> None:
    saga_id = start(engine)
    with pytest.raises(PayloadError):
        engine.client.signal(saga_id, **given)


def test_nobody_can_signal_an_id_that_does_not_exist(engine: Engine) -> None:
    with pytest.raises(SagaNotFoundError):
        engine.client.signal(uuid4(), "approved", dedup_id="1")
