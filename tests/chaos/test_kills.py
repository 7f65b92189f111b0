"""Processes killed while requests of theirs are open at the gateway: everything ends, once."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from dataclasses import dataclass
from statistics import median

from orchestrator.state import State
from recovery.lost_processes import SETTLED_SECONDS
from tests.chaos.sizes import sizes
from tests.deployment import (
    Deployment,
    Recovery,
    expected,
    measured,
    measured_recoveries,
    mixed,
)
from tests.worker_processes import until

HELD = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """So many sagas, so many kills in their midst, then one more kill in the quiet after them.

    `slack` is what the promise allows beyond lease and sweep, and `told_within` for the news of a
    child's death. Without a queue a killed process's work goes on `within` so long, and half of it
    `half_within`. Quick runs are made on machines that stand still for seconds, and allow more.
    """

    sagas: int
    kills: int
    lease: float = 15.0
    sweep: float = 5.0
    seconds: float = 120.0
    slack: float = 5.0
    told_within: float = 2.0
    within: float = 6.0
    half_within: float = 3.0


def _slow_gateway(deployment: Deployment) -> None:
    for operation in ("authorize", "capture"):
        deployment.judge.script(
            "slow_before", times=None, operation=operation, delay_ms=700, rate=0.5
        )


def _wait_for_progress(deployment: Deployment, size: Size, number: int) -> None:
    """Kills are spread over the whole run."""
    wanted = size.sagas * number // (size.kills + 1)
    until(lambda: deployment.ended() >= wanted, seconds=size.seconds, what=f"{wanted} ends")


def _wait_until_gone_on(deployment: Deployment, pid: int, at: float) -> None:
    """The next kill is not to hit what the last one interrupted, nor its message."""

    def have_gone_on() -> bool:
        found = deployment.recoveries([pid], at)
        return bool(found) and len(_gone_on(found)) == len(found)

    until(have_gone_on, seconds=60, what=f"the attempts that {pid} held")


def _configure(deployment: Deployment, size: Size) -> None:
    deployment.variables |= {"lease_seconds": size.lease, "sweep_seconds": size.sweep}


@sizes(Size(sagas=24, kills=1, slack=8, told_within=8), Size(sagas=500, kills=8, seconds=300))
def test_a_killed_child_of_a_prefork_worker(deployment: Deployment, size: Size) -> None:
    _configure(deployment, size)
    deployment.start_worker(pool="prefork", concurrency=HELD)
    orders = mixed(size.sagas)
    _slow_gateway(deployment)
    deployment.start_orders(orders)
    busy: list[Recovery] = []
    killed = []
    for number in range(size.kills):
        _wait_for_progress(deployment, size, number)
        child = deployment.wait_held(HELD)[0].pid
        killed.append((child, time.time()))
        os.kill(child, signal.SIGKILL)
        _wait_until_gone_on(deployment, *killed[-1])
    rest = deployment.wait_at_rest(size.seconds)
    for child, at in killed:
        busy += deployment.recoveries([child], at)

    deployment.judge.clear_faults()
    deployment.start_held(HELD, prefix="quiet")
    child = deployment.wait_held(HELD)[0].pid
    at = time.time()
    os.kill(child, signal.SIGKILL)
    until(lambda: deployment.ended() == size.sagas + 1, what="the saga of the killed child")
    deployment.release_held()
    deployment.wait_at_rest(90)

    quiet = deployment.recoveries([child], at)
    measured_recoveries(f"child killed, {size.sagas} sagas about ({rest:.1f} s)", busy)
    measured_recoveries("child killed, queue empty", quiet)
    assert len(busy) >= size.kills
    assert len(quiet) == 1
    assert max(each.given_up_after for each in (*busy, *quiet)) <= size.told_within
    went_on_within = size.told_within + size.slack - 2
    assert max(each.went_on_after or 99 for each in (*busy, *quiet)) <= went_on_within
    ends = expected(orders) + Counter({State.COMPLETED: HELD})
    assert deployment.violations(ends) == []
    assert deployment.counts() == ends


@sizes(
    Size(sagas=24, kills=0, within=15, half_within=10),
    Size(sagas=500, kills=5, seconds=400),
)
def test_a_killed_worker(deployment: Deployment, size: Size) -> None:
    _configure(deployment, size)
    deployment.start_workers(2)
    orders = mixed(size.sagas * max(size.kills, 1))
    _slow_gateway(deployment)
    deployment.start_orders(orders[: size.sagas])
    busy: list[Recovery] = []
    killed = []
    for number in range(size.kills):
        if number > 0:
            deployment.start_orders(orders[number * size.sagas :][: size.sagas])
        worker = deployment.member_of(deployment.wait_held(HELD)[0].pid)
        killed.append((worker.pid, worker.kill()))
        deployment.start_worker()
        _wait_until_gone_on(deployment, *killed[-1])
    rest = deployment.wait_at_rest(size.seconds)
    for pid, at in killed:
        busy += deployment.recoveries([pid], at)

    deployment.judge.clear_faults()
    quiet = [each for shown in ("pid", "session") for each in _killed_in_quiet(deployment, shown)]

    measured_recoveries(f"worker killed, {size.sagas} sagas about ({rest:.1f} s)", busy)
    bound = size.lease + size.sweep + size.slack
    assert len(busy) >= size.kills
    assert max((each.went_on_after or 99 for each in busy), default=0) <= bound
    seconds = [each.went_on_after or 99 for each in quiet]
    assert max(seconds) <= size.within
    assert median(seconds) <= size.half_within
    ends = expected(orders) + Counter({State.COMPLETED: 2 * HELD})
    assert deployment.violations(ends) == []
    assert deployment.counts() == ends


def _killed_in_quiet(deployment: Deployment, shown: str) -> list[Recovery]:
    """Kill one of two workers, whose death shows by its pid here, or only by its session.

    The other has room for what it held, and has looked at it for a while. Afterwards there are two
    again.
    """
    deployment.start_held(HELD, prefix=f"quiet-{shown}")
    worker = deployment.member_of(deployment.wait_held(HELD)[0].pid)
    if shown == "session":
        deployment.execute("UPDATE amends.process SET pid_space = 'another container'")
    interrupted = sum(each.pid == worker.pid for each in deployment.holders())
    at = worker.kill()
    until(
        lambda: len(_gone_on(deployment.recoveries([worker.pid], at))) >= interrupted,
        what=f"the {interrupted} sagas of the killed worker",
    )
    deployment.release_held()
    deployment.start_worker()
    time.sleep(SETTLED_SECONDS)  # its sessions say nothing about others before
    deployment.wait_at_rest(90)
    found = deployment.recoveries([worker.pid], at)
    measured_recoveries(f"worker killed, queue empty, told by its {shown}", found)
    assert len(found) >= interrupted > 0
    return found


@sizes(Size(sagas=24, kills=1, sweep=1), Size(sagas=500, kills=1, seconds=120))
def test_a_killed_beat(deployment: Deployment, size: Size) -> None:
    _configure(deployment, size)
    deployment.start_worker(pool="prefork", is_ready=False)
    beat = deployment.start_beat()
    deployment.members[0].wait_ready()
    orders = mixed(size.sagas)
    deployment.start_orders(orders)

    beat.kill()

    rest = deployment.wait_at_rest(size.seconds)
    measured(f"beat killed, {size.sagas} sagas about: at rest after {rest:.1f} s")
    assert deployment.violations(expected(orders)) == []


def _gone_on(recoveries: list[Recovery]) -> list[Recovery]:
    return [each for each in recoveries if each.went_on_after is not None]
