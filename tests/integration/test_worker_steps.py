"""Sagas that real worker processes run to their end."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.client import SagaClient
from orchestrator.definition import SagaDefinition
from orchestrator.state import State
from tests.sagas_for_workers import BROKERED, INLINE, TWO_QUEUES, Trip
from tests.worker_processes import StartWorker, until

STEPS = ("flight", "hotel", "car")


def _calls(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.glob("*.*.*"))


@pytest.mark.parametrize("pool", ["threads", "prefork", "solo"])
@pytest.mark.parametrize("saga", [INLINE, BROKERED], ids=["inline", "brokered"])
def test_a_saga_completes(
    client: SagaClient,
    start_worker: StartWorker,
    tmp_path: Path,
    pool: str,
    saga: SagaDefinition[Trip],
) -> None:
    start_worker(pool=pool)

    started = client.start(saga, {"directory": str(tmp_path)}, key="1")

    assert client.wait(started.id).state is State.COMPLETED
    assert _calls(tmp_path) == ["car.forward.1", "flight.forward.1", "hotel.forward.1"]


def test_a_failed_saga_is_taken_back(
    client: SagaClient, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker()

    started = client.start(INLINE, {"directory": str(tmp_path), "fails": "car"}, key="1")

    assert client.wait(started.id).state is State.COMPENSATED
    assert {"flight.compensate.1", "hotel.compensate.1"} < set(_calls(tmp_path))


def test_the_next_step_goes_to_the_worker_of_its_queue(
    client: SagaClient, start_worker: StartWorker, tmp_path: Path
) -> None:
    here = start_worker("-Q", "amends")
    there = start_worker("-Q", "elsewhere")

    started = client.start(TWO_QUEUES, {"directory": str(tmp_path)}, key="1")

    assert client.wait(started.id).state is State.COMPLETED
    ran_by = [int((tmp_path / f"{step}.forward.1").read_text()) for step in STEPS]
    assert ran_by == [here.pid, there.pid, here.pid]


def test_every_step_run_in_place_is_a_task_of_its_own_to_celery(
    client: SagaClient, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker()

    started = client.start(INLINE, {"directory": str(tmp_path)}, key="1")

    assert client.wait(started.id).state is State.COMPLETED
    until(
        lambda: all(f"Task inline_trip.{step}[" in worker.log for step in STEPS),
        what="a line of Celery's about each step",
    )
