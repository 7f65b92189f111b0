"""A rolling deploy while sagas start and run: each ends under the version it started with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from uuid import UUID

from orchestrator.client import Started
from orchestrator.definition import SagaDefinition
from orchestrator.entries import StepStarted
from orchestrator.state import State
from orchestrator.storage.histories import SagaHistory
from tests.acceptance.deliveries_v2 import DELIVERY_1, DELIVERY_2
from tests.chaos.sizes import sizes
from tests.deployment import Deployment, Member, measured
from tests.outside_world import Job, World
from tests.worker_processes import until

RING_NOW = "UPDATE amends.attempt SET ring_at = clock_timestamp() WHERE token IS NULL"
OLD, NEW = "tests.acceptance.deliveries_v1", "tests.acceptance.deliveries_v2"


def start(deployment: Deployment, saga: SagaDefinition[Job], count: int, prefix: str) -> list[UUID]:
    rows = [(f"{prefix}-{number}", {"slow_ms": 15}) for number in range(count)]
    answers = [e for e in deployment.client.start_many(saga, rows) if isinstance(e, Started)]
    return [each.id for each in answers if each.created]


def starts(saga: SagaHistory) -> Sequence[StepStarted]:
    return [each.entry for each in saga.entries if isinstance(each.entry, StepStarted)]


def by(worker: Member, saga: SagaHistory) -> bool:
    """Whether that worker ran a step of the saga."""
    return any(each.owner.endswith(f"/{worker.pid}") for each in starts(saga))


@sizes(30, 600)
def test_each_saga_ends_under_the_version_it_started_with(
    deployment: Deployment, world: World, size: int
) -> None:
    deployment.definitions += [DELIVERY_1, DELIVERY_2]
    old = deployment.start_workers(2, sagas=OLD, concurrency=2)
    began = start(deployment, DELIVERY_1, size, "before")
    until(lambda: deployment.ended() > 0, what="the first ends")

    new = [deployment.start_worker(sagas=NEW, concurrency=2)]  # new beside old
    began += start(deployment, DELIVERY_1, size, "meanwhile")
    newer = start(deployment, DELIVERY_2, size, "meanwhile-newer")
    for worker in old:  # then the old ones go, one after the other
        worker.terminate()
        assert worker.wait_end() == 0, worker.log
        new.append(deployment.start_worker(sagas=NEW, concurrency=2))
        newer += start(deployment, DELIVERY_2, size, f"after-{worker.name}")
    if (
        size < 100
    ):  # what the old ones declined is rung within ten seconds; a quick run does not wait
        deployment.execute(RING_NOW)
    rest = deployment.wait_at_rest(60 + size / 5)

    measured(f"{len(began)} old and {len(newer)} newer sagas, at rest {rest:.1f} s after the last")
    assert (len(began), len(newer)) == (2 * size, 3 * size)
    histories = {each.id: each for each in deployment.histories()}
    for ids, definition in ((began, DELIVERY_1), (newer, DELIVERY_2)):
        for saga in (histories[each] for each in ids):
            assert saga.definition_hash == definition.hash
            assert {e.step for e in starts(saga)} == {e.name for e in definition.steps}
    assert not any(by(worker, histories[each]) for worker in old for each in newer)
    both = [e for e in began if any(by(w, histories[e]) for w in old)]
    assert any(by(worker, histories[each]) for worker in new for each in both)
    ends = Counter({State.COMPLETED: 5 * size})
    assert deployment.counts() == ends
    assert deployment.violations(ends) == []
    assert world.violations(DELIVERY_1, DELIVERY_2) == []
