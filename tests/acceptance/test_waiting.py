"""Waits, signals and timers, while workers die and the broker forgets."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from orchestrator.client import SagaClient, Started
from orchestrator.definitions import Definitions
from orchestrator.entries import SignalReceived, StepStarted, StepWaiting
from orchestrator.state import State
from orchestrator.storage.histories import SagaHistory
from tests.acceptance.approvals import APPROVAL, HURRY, NAP, SLEEPER
from tests.chaos.sizes import sizes
from tests.deployment import Deployment, measured
from tests.outside_world import World
from tests.worker_processes import until

DEFINITIONS = (APPROVAL, HURRY, SLEEPER)
RING_NOW = "UPDATE amends.attempt SET ring_at = clock_timestamp() WHERE token IS NULL"


def knows_them(deployment: Deployment) -> None:
    deployment.definitions += DEFINITIONS
    deployment.variables["sagas"] = "tests.acceptance.approvals"
    deployment.client = SagaClient(
        deployment.engine, deployment.doorbell, definitions=Definitions(DEFINITIONS)
    )


def start(deployment: Deployment, name: str, count: int) -> list[UUID]:
    rows = [(f"{name}-{number}", {"number": number}) for number in range(count)]
    answers = [
        each for each in deployment.client.start_many(name, rows) if isinstance(each, Started)
    ]
    assert len(answers) == count
    return [each.id for each in answers]


def wait_waiting(deployment: Deployment, count: int) -> None:
    until(lambda: deployment.counts()[State.WAITING] == count, seconds=60, what="waiting sagas")


def wait_ended(deployment: Deployment, count: int, seconds: float = 90) -> None:
    until(lambda: deployment.ended() == count, seconds=seconds, what=f"{count} ends")


def is_sound(deployment: Deployment, world: World, ends: Counter[State]) -> None:
    assert deployment.counts() == ends
    assert deployment.violations(ends) == []
    assert world.violations(*DEFINITIONS) == []


def test_killed_workers_neither_lose_a_wait_nor_what_ended_it(
    deployment: Deployment, world: World
) -> None:
    knows_them(deployment)
    worker = deployment.start_worker()
    approvals, naps = start(deployment, "approval", 8), start(deployment, "sleeper", 3)
    wait_waiting(deployment, 11)
    worker.kill()

    world.says("hold", "approve")
    for number, saga_id in enumerate(approvals):
        deployment.client.signal(saga_id, "approved", f"yes, {number}", dedup_id="1")
    second = deployment.start_worker()
    woken = world.wait_called("approve", 4)
    second.kill()
    world.relents()
    deployment.start_worker()
    deployment.execute(RING_NOW)  # else what the dead worker had fetched is missed after patience
    wait_ended(deployment, 11)

    assert {each.pid for each in woken} == {second.pid}
    for number, saga_id in enumerate(approvals):
        assert deployment.client.results(saga_id)["approve"] == f"yes, {number}"
    for saga_id in naps:
        [waited] = [
            each for each in deployment.entries(saga_id) if isinstance(each.entry, StepWaiting)
        ]
        end = deployment.client.get(saga_id).ended_at
        assert end is not None
        assert end - waited.at >= NAP
    is_sound(deployment, world, Counter({State.COMPLETED: 11}))


def test_a_broker_that_forgets_between_signal_and_wake_loses_nothing(
    deployment: Deployment, world: World
) -> None:
    knows_them(deployment)
    worker = deployment.start_worker()
    approvals = start(deployment, "approval", 5)
    wait_waiting(deployment, 5)
    worker.signal(signal.SIGSTOP)
    for saga_id in approvals:
        deployment.client.signal(saga_id, "approved", dedup_id="1")
    assert deployment.queue_length() >= 4  # one may be in the stopped worker's socket

    deployment.broker.flushall()

    worker.signal(signal.SIGCONT)
    deployment.execute(RING_NOW)  # else the rings are missed after patience
    wait_ended(deployment, 5)
    is_sound(deployment, world, Counter({State.COMPLETED: 5}))


def test_a_signal_that_sixteen_processes_send_is_heard_once_also_before_the_saga_exists(
    deployment: Deployment, world: World
) -> None:
    knows_them(deployment)
    deployment.start_worker()
    start(deployment, "approval", 3)
    wait_waiting(deployment, 3)
    keys = [f"approval-{number}" for number in range(6)]

    senders = deployment.start(
        "senders", ["-m", "tests.acceptance.sends_signals", "16", "approval", "approved", *keys]
    )
    assert senders.wait_end() == 0, senders.log
    start(deployment, "approval", 6)
    wait_ended(deployment, 6)

    assert sorted(senders.log.splitlines()) == [f"new {key}" for key in keys]
    for saga in deployment.histories():
        assert sum(isinstance(each.entry, SignalReceived) for each in saga.entries) == 1
        assert deployment.client.results(saga.id)["approve"] == {"for": saga.key}
    is_sound(deployment, world, Counter({State.COMPLETED: 6}))


@sizes(80, 1000)
def test_a_signal_that_races_the_deadline_is_decided_once(
    deployment: Deployment, world: World, size: int
) -> None:
    knows_them(deployment)
    deployment.variables["sweep_seconds"] = 0.2
    deployment.start_worker()
    sagas = start(deployment, "hurry", size)
    threads = [
        threading.Thread(target=_signal_at_the_last_moment, args=(deployment, sagas[place::8]))
        for place in range(8)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    wait_ended(deployment, size, seconds=60 + size / 10)

    ends = Counter(_decided(saga) for saga in deployment.histories())
    measured(f"{size} signals raced a deadline: {dict(ends)}")
    assert min(ends[State.COMPLETED], ends[State.COMPENSATED]) > 0
    is_sound(deployment, world, ends)


def _signal_at_the_last_moment(deployment: Deployment, sagas: Sequence[UUID]) -> None:
    dice = random.Random(str(sagas[0]))  # noqa: S311 - repeatable, not secret
    for saga_id in sagas:
        [moment] = until(lambda: _waits(deployment, saga_id), seconds=60)  # noqa: B023 - at once
        pause = moment - time.time() + dice.triangular(-0.2, 2.0, 0.1)
        time.sleep(max(pause, 0))
        deployment.client.signal(saga_id, "approved", "in time", dedup_id="1")


def _waits(deployment: Deployment, saga_id: UUID) -> list[float]:
    """The moment until which the saga waits, once it does."""
    found = (each.entry for each in deployment.entries(saga_id))
    waits = [each.until for each in found if isinstance(each, StepWaiting)]
    return [datetime.fromisoformat(each).timestamp() for each in waits]


def _decided(saga: SagaHistory) -> State:
    """The end that the log asks for: by what was heard before the woken attempt began."""
    heard = False
    waits = False
    for recorded in saga.entries:
        match recorded.entry:
            case SignalReceived():
                heard = True
            case StepWaiting():
                waits = True
            case StepStarted(step="approved") if waits:
                break
            case _:
                pass
    expected = State.COMPLETED if heard else State.COMPENSATED
    assert saga.state is expected, [type(each.entry).__name__ for each in saga.entries]
    return expected
