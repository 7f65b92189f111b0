"""The gate lets many run at once, or one alone."""

from __future__ import annotations

import threading
from collections.abc import Callable

from orchestrator.leases import Gate

PATIENCE = 5.0


class Visitor:
    """A thread that enters a gate and stays inside until it is told to leave."""

    def __init__(self, gate: Gate, *, alone: bool = False) -> None:
        self.inside, self._leave = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._visit, args=(gate, alone), daemon=True)
        self._thread.start()

    def _visit(self, gate: Gate, alone: bool) -> None:
        with gate.entered(alone=alone):
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
        with gate.entered(alone=True):
            raise RuntimeError
    except RuntimeError:
        pass
    after = Visitor(gate)
    assert after.inside.wait(PATIENCE)
    after.leaves()
