"""Who is put off by a rate or a circuit before the claim leaves no entry, and comes back."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from redis.commands.core import Script

from orchestrator.context import Resources, StepContext
from orchestrator.coordinator import Coordinator
from orchestrator.definition import Retry
from orchestrator.definitions import Definitions
from orchestrator.entries import Direction, StepFailed
from orchestrator.guarding import Breaker, CallPolicy, Guards, NotLetThrough, Rate, Verdict
from orchestrator.pauses import not_before
from orchestrator.state import Track
from orchestrator.storage.database import Database
from orchestrator.storage.unclaimed import unclaimed_queues
from tests.histories import doing, saga
from tests.integration.engine import Engine, attempt_of, events
from tests.integration.shared_guards import (  # noqa: F401 - fixtures
    _is_patient,
    request,
    server,
)
from workers.resilience.circuit import ADMITTED_FOR, LONGEST_PAUSE, Circuit, put_off_for
from workers.resilience.guards import Numbers, SharedGuards
from workers.resilience.shared_rate import SharedRate
from workers.resilience.shared_server import SharedServer

BREAKER = Breaker(failures=2, within=timedelta(minutes=5), open_for=timedelta(seconds=5))
SECOND = timedelta(seconds=1)


class VirtualTime(SharedServer):
    """A Valkey whose scripts read the time from a key."""

    def script(self, source: str) -> Script:
        asked = "redis.call('TIME')"
        assert asked in source or "redis.call('ZREM'" in source
        return super().script(source.replace(asked, "redis.call('HMGET', 'now', 's', 'us')"))

    def is_at(self, seconds: float) -> None:
        whole = int(seconds)
        us = int((seconds - whole) * 1e6)
        self.client.hset("now", mapping={"s": whole, "us": us})


@pytest.fixture
def virtual(broker_url: str) -> Iterator[VirtualTime]:
    known = VirtualTime(broker_url, prefix="tests:")
    known.is_at(0.0)
    yield known
    known.close()


def opened(circuit: Circuit) -> None:
    for number in range(BREAKER.failures):
        circuit.leave(circuit.enter(request(f"saga-{number}")), Verdict.OUTAGE)
    with pytest.raises(NotLetThrough):
        circuit.enter(request("another"))


# -- the circuit -----------------------------------------------------------------------------------


def test_while_a_circuit_is_closed_nobody_is_put_off(virtual: VirtualTime) -> None:
    assert Circuit(virtual, "bank", BREAKER).pause("any") is None


def test_of_those_who_wait_one_comes_for_the_trial(virtual: VirtualTime) -> None:
    circuit = Circuit(virtual, "bank", BREAKER)
    virtual.is_at(100)
    opened(circuit)
    pauses = [circuit.pause(f"saga-{number}") for number in range(20)]
    assert pauses[0] == BREAKER.open_for
    assert all(pause and pause >= BREAKER.open_for for pause in pauses)

    virtual.is_at(106)
    assert circuit.pause("saga-0") is None
    assert circuit.pause("saga-1") is not None  # somebody is on the way to be the trial
    assert circuit.enter(request("saga-0")).is_trial

    virtual.is_at(107 + ADMITTED_FOR.total_seconds())
    assert circuit.pause("saga-1") is not None  # the trial is under way


def test_who_was_to_be_the_trial_and_never_came_holds_up_nobody(virtual: VirtualTime) -> None:
    circuit = Circuit(virtual, "bank", BREAKER)
    opened(circuit)
    assert circuit.pause("saga-0") == BREAKER.open_for
    virtual.is_at(5.1)
    assert circuit.pause("saga-1") is None  # and dies on the way
    virtual.is_at(5.2 + ADMITTED_FOR.total_seconds())
    assert circuit.pause("saga-2") is None


@pytest.mark.parametrize("age", [0, 1, 30, 60, 3600, 86_400])
def test_everybody_is_back_within_a_minute(age: int) -> None:
    for number in range(200):
        pause = put_off_for(BREAKER.open_for, timedelta(seconds=age), f"saga-{number}")
        assert min(timedelta(seconds=age), LONGEST_PAUSE) / 2 <= pause <= LONGEST_PAUSE


def test_a_days_outage_leaves_little_in_the_log_and_ends_within_a_minute(
    virtual: VirtualTime,
) -> None:
    circuit = Circuit(virtual, "bank", BREAKER)
    outage = Outage(circuit, virtual, sagas=20, seconds=86_400.0)
    outage.run()
    assert sum(outage.entries) <= 2 * (86_400 / 30 * 1.25)  # two of each trial
    assert max(outage.entries) <= 700  # of 17,000 when every refusal was an attempt
    assert outage.asked / 20 <= 86_400 / 30 + 50
    assert max(outage.done_at) <= 86_400 + 2 * LONGEST_PAUSE.total_seconds()


class Outage:
    """Sagas whose step meets an outage, in virtual time, with the real scripts and pauses."""

    def __init__(self, circuit: Circuit, clock: VirtualTime, *, sagas: int, seconds: float) -> None:
        self._circuit, self._clock, self._until = circuit, clock, seconds
        self._due = [(number / sagas, number) for number in range(sagas)]
        self._tries = [0] * sagas
        self.entries = [0] * sagas
        self.asked = 0
        self.done_at: list[float] = []

    def run(self) -> None:
        while self._due:
            now, number = heapq.heappop(self._due)
            self._clock.is_at(now)
            key = f"saga-{number}"
            self.asked += 1
            pause = self._circuit.pause(key)
            if pause is not None:
                heapq.heappush(self._due, (now + pause.total_seconds(), number))
                continue
            self._attempt(now, number, key)

    def _attempt(self, now: float, number: int, key: str) -> None:
        self._tries[number] += 1
        self.entries[number] += 2
        asked = replace(request(key, takes=1.0), attempt=self._tries[number])
        try:
            entered = self._circuit.enter(asked)
        except NotLetThrough as error:
            heapq.heappush(self._due, (now + (error.retry_after or SECOND).total_seconds(), number))
            return
        if now >= self._until:
            self._circuit.leave(entered, Verdict.ANSWERED)
            self.done_at.append(now)
            return
        self._circuit.leave(entered, Verdict.OUTAGE)
        heapq.heappush(self._due, (now + self._pause_after_failure(number), number))

    def _pause_after_failure(self, number: int) -> float:
        failed = StepFailed(
            step="pay",
            direction="forward",
            attempt=self._tries[number],
            terminal=False,
            error={},
            spends_budget=False,
        )
        ended = datetime(2026, 1, 1, tzinfo=UTC)
        track = Track(attempts=self._tries[number], ended_at=ended, last=failed)
        due = not_before(track, Retry(), str(number), "pay", Direction.FORWARD)
        assert due is not None
        return (due - ended).total_seconds()


# -- the rate --------------------------------------------------------------------------------------


def test_who_asks_for_a_slot_takes_none(virtual: VirtualTime) -> None:
    rate = SharedRate(virtual, "bank", Rate(1))
    assert [rate.pause(f"saga-{number}") for number in range(3)] == [None] * 3
    rate.take(request("saga-0"))


def test_who_is_put_off_by_a_rate_finds_its_slot_kept(virtual: VirtualTime) -> None:
    rate = SharedRate(virtual, "bank", Rate(1))
    rate.landed(rate.take(request("first")), request("first"))
    pause = rate.pause("saga-1")
    assert pause is not None
    later = rate.pause("saga-2")
    assert later is not None
    assert later >= pause + SECOND / 2
    virtual.is_at(pause.total_seconds() + 0.001)
    assert rate.pause("saga-1") is None
    with pytest.raises(NotLetThrough):
        rate.take(request("saga-3"))  # who comes between does not get it
    rate.take(request("saga-1"))


# -- the engine ------------------------------------------------------------------------------------

BANK = CallPolicy(name="bank", breaker=replace(BREAKER, open_for=timedelta(minutes=1)))


def pays(context: StepContext[Any]) -> None:
    context.call(lambda _seconds: None, SECOND)


SHOP = saga(doing("reserve"), doing("pay", run=pays, calls=BANK))
SHOP_OF_ROWS = saga(
    doing("reserve", transactional=True, compensation=lambda _context: None),
    doing("pay", run=pays, calls=BANK),
    name="shop_of_rows",
)


class Guarded(Engine):
    """An engine with guards on a real Valkey."""

    def __init__(self, url: str, guards: SharedGuards) -> None:
        super().__init__(url, SHOP, SHOP_OF_ROWS)
        self.coordinator = Coordinator(
            database=Database(self.pool),
            definitions=Definitions([SHOP, SHOP_OF_ROWS]),
            doorbell=self.bell,
            owner=lambda: "this-worker",
            resources=Resources(factories={Guards: lambda: guards}),
        )


@pytest.fixture
def guards(server: SharedServer) -> SharedGuards:  # noqa: F811 - the fixture
    return SharedGuards(server, Numbers())


@pytest.fixture
def engine(database: str, guards: SharedGuards) -> Iterator[Guarded]:
    made = Guarded(database, guards)
    yield made
    made.close()


def circuit_of(guards: SharedGuards) -> Circuit:
    circuit = guards.circuit(BANK)
    assert circuit is not None
    return circuit


def at_pay(engine: Engine) -> UUID:
    """A saga whose next step is the guarded one, rung for."""
    saga_id = engine.client.start(SHOP, {}, key="order").id
    claim = engine.coordinator.claim(attempt_of(engine.bell.messages.popleft()))
    assert claim is not None
    assert engine.coordinator.execute(claim) is None
    return saga_id


def seconds_left(engine: Engine, saga_id: UUID) -> tuple[float, int]:
    [row] = engine.sql(
        "SELECT extract(epoch FROM due_at - clock_timestamp()), rung_count "
        "FROM amends.attempt WHERE saga_id = :id AND ring_at - due_at < interval '0.1 s'",
        id=saga_id,
    )
    return float(row[0]), row[1]


def test_an_attempt_that_is_put_off_leaves_no_entry(engine: Guarded, guards: SharedGuards) -> None:
    opened(circuit_of(guards))
    saga_id = at_pay(engine)
    before = engine.kinds(saga_id)
    attempt = attempt_of(engine.bell.messages.popleft())
    with events() as heard:
        assert engine.coordinator.puts_off("shop", attempt)
    assert engine.kinds(saga_id) == before
    left, rung = seconds_left(engine, saga_id)
    assert 50 < left <= 60
    assert rung == 0  # it is a timer again, and rung for to the point
    assert [event for event, _ in heard] == ["attempt.put_off"]
    assert engine.coordinator.claim(attempt) is None


def test_an_attempt_that_is_put_off_for_long_is_told_of_like_one_that_nobody_takes(
    engine: Guarded, guards: SharedGuards
) -> None:
    opened(circuit_of(guards))
    saga_id = at_pay(engine)
    attempt = attempt_of(engine.bell.messages.popleft())
    assert engine.coordinator.puts_off("shop", attempt)
    database = Database(engine.pool)
    assert unclaimed_queues(database, 60.0) == []
    engine.sql(
        "UPDATE amends.attempt SET due_at = clock_timestamp(), "
        "put_off_at = put_off_at - interval '2 min' RETURNING 1"
    )

    assert engine.coordinator.puts_off("shop", attempt)

    [queue] = unclaimed_queues(database, 60.0)
    assert list(queue.sagas) == [saga_id]


def test_a_message_too_many_puts_nothing_off(engine: Guarded, guards: SharedGuards) -> None:
    saga_id = at_pay(engine)
    attempt = attempt_of(engine.bell.messages.popleft())
    claim = engine.coordinator.claim(attempt)
    assert claim is not None
    opened(circuit_of(guards))
    with events() as heard:
        assert engine.coordinator.puts_off("shop", attempt)
    assert heard == []
    assert engine.attempts(saga_id) == [("pay", "forward", 1)]
    [(token,)] = engine.sql("SELECT token FROM amends.attempt")
    assert token == claim.token


def test_once_the_circuit_closes_the_attempt_runs(engine: Guarded, guards: SharedGuards) -> None:
    opened(circuit_of(guards))
    saga_id = at_pay(engine)
    attempt = attempt_of(engine.bell.messages.popleft())
    assert engine.coordinator.puts_off("shop", attempt)
    circuit_of(guards)._server.client.flushall()
    engine.sql("UPDATE amends.attempt SET due_at = clock_timestamp()")
    assert not engine.coordinator.puts_off("shop", attempt)
    assert engine.finish(saga_id) == "completed"
    assert engine.kinds(saga_id).count("StepStarted") == 2


def test_a_step_is_not_claimed_in_place_that_had_better_wait(
    engine: Guarded, guards: SharedGuards
) -> None:
    opened(circuit_of(guards))
    saga_id = engine.client.start(SHOP, {}, key="order").id
    claim = engine.coordinator.claim(attempt_of(engine.bell.messages.popleft()))
    assert claim is not None
    assert engine.coordinator.execute(claim, lambda _queue: True) is None
    assert engine.kinds(saga_id) == ["SagaStarted", "StepStarted", "StepSucceeded"]
    assert engine.attempts(saga_id) == [("pay", "forward", 1)]
    assert not engine.bell.messages
    left, rung = seconds_left(engine, saga_id)
    assert 50 < left <= 60
    assert rung == 0


def test_a_step_is_claimed_in_place_while_nothing_is_in_its_way(engine: Guarded) -> None:
    engine.client.start(SHOP, {}, key="order")
    claim = engine.coordinator.claim(attempt_of(engine.bell.messages.popleft()))
    assert claim is not None
    following = engine.coordinator.execute(claim, lambda _queue: True)
    assert following is not None
    assert following.attempt.step == "pay"


def test_nobody_is_asked_inside_a_steps_transaction(
    engine: Guarded, guards: SharedGuards, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(guards, "pause", lambda *about: asked.append(about))
    saga_id = engine.client.start(SHOP_OF_ROWS, {}, key="order").id
    claim = engine.coordinator.claim(attempt_of(engine.bell.messages.popleft()))
    assert claim is not None
    assert engine.coordinator.execute(claim, lambda _queue: True) is None
    assert asked == []
    [ring] = engine.bell.messages
    assert (ring.saga_id, ring.step) == (saga_id, "pay")
