"""Everybody sweeps at once over the work of a dead worker: each attempt is taken over once."""

from __future__ import annotations

from collections import Counter

import pytest

from orchestrator.entries import Direction, Outcome, StepStarted, StepSucceeded
from orchestrator.state import State
from orchestrator.storage.histories import SagaHistory
from tests.chaos.sizes import sizes
from tests.deployment import Deployment, expected, measured_recoveries, mixed
from tests.worker_processes import until


@sizes(12, 40)
def test_many_sweepers_take_each_lost_attempt_over_once(deployment: Deployment, size: int) -> None:
    deployment.variables |= {"lease_seconds": 2, "sweep_seconds": 0.5}
    victim = deployment.start_worker(concurrency=size)
    held, before = _hold_at_once(deployment, size)
    for _ in range(2):
        deployment.start_sweeper(0.2)
    at = victim.kill()
    lost = [each for each in deployment.holders() if each.pid == victim.pid]
    deployment.start_beat()
    deployment.start_workers(2)
    orders = mixed(2 * size)
    deployment.start_orders(orders)
    until(lambda: deployment.ended() == before + 3 * size, seconds=90, what="the end of all sagas")
    deployment.judge.release()
    deployment.wait_at_rest(90)

    recoveries = deployment.recoveries([victim.pid], at)
    measured_recoveries(f"{len(lost)} attempts lost, 2 sweepers, beat, 2 workers", recoveries)
    assert len(recoveries) == len(lost) == size
    for saga in deployment.histories():
        if not saga.key.startswith("held") or saga.key.startswith(held):
            assert _tries(saga, "authorize_payment") == (2 if saga.key.startswith(held) else 1) * (
                "authorize_payment" in {each for each, _ in _starts(saga)}
            ), saga.key
        _assert_each_attempt_ended_once(saga)
    ends = expected(orders) + Counter({State.COMPLETED: before + size})
    assert deployment.violations(ends) == []
    assert deployment.counts() == ends


def _hold_at_once(deployment: Deployment, size: int) -> tuple[str, int]:
    """Hold the calls of so many sagas; return their prefix and how many sagas were before them.

    A call gives up by itself after 5 s: on a busy machine the first may before the last begins.
    """
    for number in range(6):
        prefix = f"held-{number}"
        deployment.start_held(size, prefix=prefix)
        try:
            deployment.wait_held(size, seconds=3)
        except pytest.fail.Exception:
            deployment.release_held()
            deployment.wait_at_rest(60)
        else:
            return prefix, number * size
    pytest.fail("they were never held at once")


def _starts(saga: SagaHistory) -> list[tuple[str, int]]:
    found = [each.entry for each in saga.entries]
    return [
        (each.step, each.attempt)
        for each in found
        if isinstance(each, StepStarted) and each.direction == Direction.FORWARD
    ]


def _tries(saga: SagaHistory, step: str) -> int:
    return sum(name == step for name, _ in _starts(saga))


def _assert_each_attempt_ended_once(saga: SagaHistory) -> None:
    """Attempts count up from 1, one at a time, and only the last of a step may succeed."""
    for step in {name for name, _ in _starts(saga)}:
        numbers = [number for name, number in _starts(saga) if name == step]
        outcomes = [
            each.entry
            for each in saga.entries
            if isinstance(each.entry, Outcome)
            and (each.entry.step, each.entry.direction) == (step, Direction.FORWARD)
        ]
        assert numbers == list(range(1, len(numbers) + 1)), saga.key
        assert [each.attempt for each in outcomes] == numbers, saga.key
        assert sum(isinstance(each, StepSucceeded) for each in outcomes) <= 1, saga.key
