"""Old and new workers side by side: each runs what it has, and leaves alone what it has not."""

from __future__ import annotations

import time
from collections import Counter

from orchestrator.client import Started
from orchestrator.state import State
from tests.chaos.changed_sagas import CHANGED
from tests.chaos.newer_sagas import NEWER, OLDER
from tests.chaos.sizes import sizes
from tests.deployment import Deployment, measured
from tests.worker_processes import until

LOOK_NOW = "UPDATE amends.saga SET due_at = clock_timestamp() WHERE due_at IS NOT NULL"
RING_NOW = "UPDATE amends.attempt SET ring_at = clock_timestamp() WHERE token IS NULL"


@sizes(20, 500)
def test_sagas_of_a_newer_version_wait_for_the_worker_that_has_it(
    deployment: Deployment, size: int
) -> None:
    deployment.definitions += [OLDER, NEWER]
    deployment.variables |= {"sweep_seconds": 1, "sagas": "tests.chaos.sagas"}
    old = deployment.start_worker()
    rows = [(f"old-{n}", {"number": n}) for n in range(size)]
    newer_rows = [(f"new-{n}", {"number": n}) for n in range(size)]
    before = list(deployment.client.start_many(OLDER, rows))
    newer = list(deployment.client.start_many(NEWER, newer_rows))
    assert all(isinstance(each, Started) and each.created for each in (*before, *newer))

    until(lambda: deployment.ended() == size, seconds=60, what="the old worker's own sagas")
    until(lambda: deployment.queue_length() == 0, what="an empty queue")
    deployment.execute(LOOK_NOW)  # a new saga is looked at after minutes otherwise
    until(lambda: len(old.events("saga.foreign_definition")) >= size, what="news of foreign sagas")
    untouched = [each.seq for each in deployment.histories() if each.state is State.RUNNING]
    assert untouched == [1] * size

    deployment.start_worker(sagas="tests.chaos.newer_sagas")
    rest = _rest_though_the_old_worker_takes_its_share(deployment, size)

    measured(f"{size} sagas of a newer version ended {rest:.1f} s after its worker came")
    assert deployment.counts() == Counter({State.COMPLETED: 2 * size})
    assert deployment.violations({State.COMPLETED: 2 * size}) == []


def test_changed_steps_under_a_version_in_flight_are_refused(deployment: Deployment) -> None:
    deployment.client.start(CHANGED, {"number": 1}, key="in flight")
    deployment.variables |= {"sagas": "tests.chaos.sagas"}

    refused = deployment.start_worker(is_ready=False)

    assert refused.wait_end() == 1
    assert "noop v1 (1 in flight)" in refused.log
    [saga] = deployment.histories()
    assert (saga.state, saga.seq) == (State.RUNNING, 1)


def _rest_though_the_old_worker_takes_its_share(deployment: Deployment, size: int) -> float:
    """Both serve one queue, so every ring has even odds; a quick run does not wait for each."""
    began = time.monotonic()

    def look() -> bool:
        if size < 100:
            deployment.execute(RING_NOW)
        return deployment.is_at_rest()

    until(look, seconds=400, what="the end of the newer sagas")
    return time.monotonic() - began
