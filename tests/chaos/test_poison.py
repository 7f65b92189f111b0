"""A step that takes its process down: parked after its budget, and its neighbours not blamed."""

from __future__ import annotations

from collections import Counter
from uuid import UUID

import pytest

from orchestrator.client import Started
from orchestrator.entries import SagaParked, StepStarted
from orchestrator.state import State
from tests.chaos.sagas import POISON
from tests.chaos.sizes import sizes
from tests.deployment import Deployment, measured
from tests.worker_processes import until


def _start(deployment: Deployment, neighbours: int) -> UUID:
    """Start a poisonous saga in the middle of harmless ones."""
    keys = [f"harmless-{number}" for number in range(neighbours)]
    keys.insert(neighbours // 2, "poison")
    rows = [(key, {"is_poison": key == "poison"}) for key in keys]
    started = [each for each in deployment.client.start_many(POISON, rows)]  # noqa: C416 - narrowed
    [found] = [each.id for each in started if isinstance(each, Started) and each.key == "poison"]
    return found


def _parked(deployment: Deployment, saga_id: UUID) -> SagaParked:
    [found] = [
        each.entry for each in deployment.entries(saga_id) if isinstance(each.entry, SagaParked)
    ]
    return found


@sizes(30, 2_000)
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_poison_parks_after_its_budget_and_its_neighbours_complete(
    deployment: Deployment, pool: str, size: int
) -> None:
    deployment.definitions.append(POISON)
    deployment.variables |= {"sagas": "tests.chaos.sagas", "lease_seconds": 1, "sweep_seconds": 0.5}
    deployment.start_worker(pool=pool)
    poison = _start(deployment, size)

    def is_over() -> bool:
        """Play the supervisor, who starts a dead worker again, until the poison is parked."""
        if not deployment.members[-1].is_alive:
            deployment.start_worker(pool=pool, is_ready=False)
        return deployment.client.get(poison).is_parked

    until(is_over, seconds=60, what="the parked saga")
    deployment.wait_at_rest(60)

    crashes = [
        each.entry.attempt
        for each in deployment.entries(poison)
        if isinstance(each.entry, StepStarted) and each.entry.step == "swallow"
    ]
    measured(
        f"poison ({pool}) parked after {len(crashes)} crashes; {len(deployment.members)} workers"
    )
    assert crashes == [1, 2, 3]
    assert _parked(deployment, poison).reason == "poison"
    assert deployment.counts() == Counter({State.COMPLETED: size, State.STUCK: 1})
    assert deployment.violations({State.COMPLETED: size, State.STUCK: 1}) == []
