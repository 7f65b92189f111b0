"""Sweepers beside a queue that nobody serves: they must not double what merely waits."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

from orchestrator.client import Started
from orchestrator.state import State
from tests.chaos.sagas import NOOP
from tests.chaos.sizes import sizes
from tests.deployment import Deployment, measured
from tests.worker_processes import until

SWEEP_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """`seconds` without a worker; quick runs make rings old by hand instead of waiting."""

    sagas: int
    seconds: float
    is_aged: bool
    end_seconds: float


def _make_rings_old(deployment: Deployment) -> None:
    deployment.execute("UPDATE amends.attempt SET ring_at = clock_timestamp() WHERE token IS NULL")


def _highest_queue(deployment: Deployment, size: Size) -> int:
    """Watch the queue while sweepers sweep, and return its greatest length."""
    lengths = [deployment.queue_length()]
    until_moment = time.monotonic() + size.seconds
    aged = 0.0

    def look() -> bool:
        nonlocal aged
        if size.is_aged and time.monotonic() - aged > SWEEP_SECONDS:
            _make_rings_old(deployment)
            aged = time.monotonic()
        lengths.append(deployment.queue_length())
        return time.monotonic() > until_moment

    until(look, seconds=size.seconds + 90, what="the end of the watch")
    return max(lengths)


@sizes(
    Size(sagas=1_000, seconds=6, is_aged=True, end_seconds=60),
    Size(sagas=20_000, seconds=180, is_aged=False, end_seconds=900),
)
def test_sweepers_do_not_flood_a_queue_that_nobody_serves(
    deployment: Deployment, size: Size
) -> None:
    deployment.definitions.append(NOOP)
    deployment.variables |= {"sagas": "tests.chaos.sagas"}
    sweepers = [deployment.start_sweeper(SWEEP_SECONDS) for _ in range(2)]
    rows = ((f"noop-{number}", {"number": number}) for number in range(size.sagas))
    started = list(deployment.client.start_many(NOOP, rows))
    assert all(isinstance(each, Started) for each in started)

    highest = _highest_queue(deployment, size)
    refilled = 0
    if size.is_aged:
        deployment.broker.flushall()
        refilled = _highest_queue(deployment, size)
    deployment.broker.flushall()
    deployment.start_workers(2)
    if size.is_aged:
        _make_rings_old(deployment)
    rest = deployment.wait_at_rest(size.end_seconds)

    measured(
        f"{size.sagas} no-op sagas, {size.seconds:g} s without workers: at most {highest} messages"
        f"; flushed, then at rest {rest:.1f} s after the workers came"
    )
    assert highest <= 1.1 * size.sagas
    assert highest >= size.sagas
    assert refilled <= 1.1 * size.sagas
    assert refilled >= size.sagas or not size.is_aged
    assert all(each.is_alive for each in sweepers)
    assert deployment.counts() == Counter({State.COMPLETED: size.sagas})
    assert deployment.violations({State.COMPLETED: size.sagas}) == []
