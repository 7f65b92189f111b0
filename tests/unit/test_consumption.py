"""When a worker that takes nothing connects anew and when it ends: a healthy one never does."""

from __future__ import annotations

import time

import pytest

from tests.integration.engine import events
from workers.consumption import Busy, ConsumerWatch, Consumption, Order

STALL = 60.0


class World:
    """A worker's situation, in virtual time."""

    def __init__(self) -> None:
        self.has_room = True
        self.waiting = ["pay"]
        self.unheard = 0
        self.consumption = Consumption()
        self.now = self.consumption.taken_at
        self.watch = ConsumerWatch(
            self.consumption,
            stall_seconds=STALL,
            has_room=lambda: self.has_room,
            waiting=lambda _age: self.waiting,
            on_unheard=self._hear_nothing,
        )

    def _hear_nothing(self) -> None:
        self.unheard += 1

    def passes(self, seconds: float) -> list[Order]:
        """Let time pass as the heartbeat does; return the orders that were given, and followed."""
        given = []
        until = self.now + seconds
        while self.now < until:
            self.now += 0.5
            self.watch.look(self.now)
            if order := self.consumption.take_order():
                given.append(order)
        return given

    def takes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        self.consumption.note_taken()


def test_a_worker_that_takes_nothing_connects_anew_and_in_the_end_ends() -> None:
    world = World()
    assert world.passes(STALL) == []
    assert world.passes(STALL / 2 + 1) == [Order.RECONNECT]
    assert world.passes(STALL + 1) == [Order.END]


def test_an_idle_worker_is_left_alone() -> None:
    world = World()
    world.waiting = []
    assert world.passes(100 * STALL) == []


def test_a_worker_whose_steps_are_long_is_left_alone() -> None:
    world = World()
    world.has_room = False
    assert world.passes(100 * STALL) == []


def test_a_worker_that_takes_something_now_and_then_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    for _ in range(20):
        assert world.passes(STALL * 0.9) == []
        world.takes(monkeypatch)


def test_a_worker_that_connected_anew_and_takes_again_does_not_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    assert world.passes(STALL * 1.6) == [Order.RECONNECT]
    world.takes(monkeypatch)
    world.waiting = []
    assert world.passes(10 * STALL) == []


def test_a_machine_that_stood_still_has_seen_nothing() -> None:
    world = World()
    world.watch.look(world.now)
    world.now += 100 * STALL
    assert world.passes(STALL / 4) == []


def test_a_main_process_that_follows_no_order_is_told_of() -> None:
    world = World()
    while world.consumption.order is not Order.END:
        world.now += 0.5
        world.watch.look(world.now)
    for _ in range(100):
        world.now += 0.5
        world.watch.look(world.now)
    assert world.unheard > 0


def test_a_stall_is_told_of_with_its_queues() -> None:
    world = World()
    with events() as heard:
        world.passes(2 * STALL)
    told = next(fields for event, fields in heard if event == "worker.stalled")
    assert told["queues"] == ["pay"]
    assert told["taken_nothing_seconds"] >= STALL


def test_a_task_inside_a_task_takes_one_thread() -> None:
    busy = Busy()
    busy.begin()
    busy.begin()
    assert busy.threads == 1
    busy.end()
    busy.end()
    assert busy.threads == 0
