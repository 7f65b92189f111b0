"""The gate lets many run at once, or one alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from orchestrator.context import Lease
from orchestrator.leases import Gate

PATIENCE = 30.0


def lasting(seconds: float) -> Lease:
    until = time.monotonic() + seconds
    return Lease(valid_until=until, ends_at=until)


class Visitor:
    """A thread that enters a gate and stays inside until it is told to leave."""

    def __init__(self, gate: Gate, *, alone: bool = False, lease: Lease | None = None) -> None:
        self.inside, self.turned_away = threading.Event(), threading.Event()
        self._leave = threading.Event()
        args = (gate, lease or lasting(PATIENCE * 2), alone)
        self._thread = threading.Thread(target=self._visit, args=args, daemon=True)
        self._thread.start()

    def _visit(self, gate: Gate, lease: Lease, alone: bool) -> None:
        with gate.entered(lease, alone=alone) as admitted:
            if not admitted:
                self.turned_away.set()
                return
            self.inside.set()
            self._leave.wait(PATIENCE)

    def leaves(self) -> None:
        self._leave.set()
        self._thread.join(PATIENCE)


def waiting_alone(gate: Gate) -> Callable[[], bool]:
    return lambda: gate._alone_waiting > 0


def until(condition: Callable[[], bool]) -> None:
    tick, passed = threading.Event(), 0.0
    while not condition():
        assert passed < PATIENCE
        tick.wait(0.005)
        passed += 0.005


def test_ordinary_attempts_run_side_by_side() -> None:
    gate = Gate()
    one, other = Visitor(gate), Visitor(gate)
    assert one.inside.wait(PATIENCE)
    assert other.inside.wait(PATIENCE)
    one.leaves()
    other.leaves()


def test_an_attempt_alone_waits_until_the_process_is_empty() -> None:
    gate = Gate()
    ordinary = Visitor(gate)
    assert ordinary.inside.wait(PATIENCE)
    alone = Visitor(gate, alone=True)
    until(waiting_alone(gate))
    assert not alone.inside.is_set()
    ordinary.leaves()
    assert alone.inside.wait(PATIENCE)
    alone.leaves()


def test_nobody_enters_while_one_is_alone() -> None:
    gate = Gate()
    alone = Visitor(gate, alone=True)
    assert alone.inside.wait(PATIENCE)
    ordinary, another = Visitor(gate), Visitor(gate, alone=True)
    until(waiting_alone(gate))
    assert not ordinary.inside.is_set()
    assert not another.inside.is_set()
    alone.leaves()
    another.inside.wait(PATIENCE)
    another.leaves()
    assert ordinary.inside.wait(PATIENCE)
    ordinary.leaves()


def test_one_who_waits_to_be_alone_is_not_starved_by_newcomers() -> None:
    gate = Gate()
    ordinary = Visitor(gate)
    assert ordinary.inside.wait(PATIENCE)
    alone = Visitor(gate, alone=True)
    until(waiting_alone(gate))
    newcomer = Visitor(gate)
    ordinary.leaves()
    assert alone.inside.wait(PATIENCE)
    assert not newcomer.inside.is_set()
    alone.leaves()
    assert newcomer.inside.wait(PATIENCE)
    newcomer.leaves()


def test_an_attempt_that_raises_leaves_the_gate_open() -> None:
    gate = Gate()
    try:
        with gate.entered(lasting(PATIENCE), alone=True):
            raise RuntimeError
    except RuntimeError:
        pass
    after = Visitor(gate)
    assert after.inside.wait(PATIENCE)
    after.leaves()


@pytest.mark.parametrize("alone", [True, False])
def test_nobody_waits_longer_than_its_lease_lives(alone: bool) -> None:
    gate = Gate()
    inside = Visitor(gate, alone=True)
    assert inside.inside.wait(PATIENCE)
    late = Visitor(gate, alone=alone, lease=lasting(0.3))
    assert late.turned_away.wait(PATIENCE)
    assert not late.inside.is_set()
    inside.leaves()


def test_who_waits_goes_on_waiting_when_its_lease_is_extended() -> None:
    gate, lease = Gate(), lasting(4.0)
    inside = Visitor(gate, alone=True)
    assert inside.inside.wait(PATIENCE)
    waiting = Visitor(gate, lease=lease)
    lease.valid_until += PATIENCE
    assert not waiting.turned_away.wait(4.2)
    inside.leaves()
    assert waiting.inside.wait(PATIENCE)
    waiting.leaves()


def test_one_who_gives_up_waiting_to_be_alone_lets_the_others_in() -> None:
    gate = Gate()
    ordinary = Visitor(gate, lease=lasting(1.0))
    assert ordinary.inside.wait(PATIENCE)
    alone = Visitor(gate, alone=True, lease=lasting(0.5))
    until(lambda: waiting_alone(gate)() or alone.turned_away.is_set())
    newcomer = Visitor(gate)
    assert alone.turned_away.wait(PATIENCE)
    assert newcomer.inside.wait(PATIENCE)
    newcomer.leaves()
    ordinary.leaves()


def test_one_that_hangs_inside_is_counted_out_and_comes_back_to_no_harm() -> None:
    gate, hung = Gate(), lasting(PATIENCE)
    hanging = Visitor(gate, lease=hung)
    assert hanging.inside.wait(PATIENCE)

    gate.abandon(hung)
    alone = Visitor(gate, alone=True)
    assert alone.inside.wait(PATIENCE)
    hanging.leaves()
    newcomer = Visitor(gate)
    until(lambda: len(gate._inside) == 1)

    assert not newcomer.inside.wait(0.1)
    alone.leaves()
    assert newcomer.inside.wait(PATIENCE)
    newcomer.leaves()


def test_one_that_hangs_alone_lets_the_others_in() -> None:
    gate, hung = Gate(), lasting(PATIENCE)
    alone = Visitor(gate, alone=True, lease=hung)
    assert alone.inside.wait(PATIENCE)

    gate.abandon(hung)

    newcomer = Visitor(gate)
    assert newcomer.inside.wait(PATIENCE)
    newcomer.leaves()
    alone.leaves()


def test_who_had_to_be_turned_away_finds_the_gate_kept_free_when_it_comes_again() -> None:
    gate = Gate()
    ordinary = Visitor(gate, lease=lasting(PATIENCE))
    assert ordinary.inside.wait(PATIENCE)
    alone = Visitor(gate, alone=True, lease=lasting(0.5))
    newcomers = [Visitor(gate), Visitor(gate)]
    assert alone.turned_away.wait(PATIENCE)

    assert not any(each.inside.wait(0.2) for each in newcomers)
    again = Visitor(gate, alone=True)
    ordinary.leaves()
    assert again.inside.wait(PATIENCE)
    again.leaves()
    assert all(each.inside.wait(PATIENCE) for each in newcomers)
    for each in newcomers:
        each.leaves()
