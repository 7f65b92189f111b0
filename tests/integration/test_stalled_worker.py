"""Real workers that take nothing: they connect anew, and in the end end themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.client import SagaClient
from orchestrator.state import State
from tests.sagas_for_workers import BROKERED
from tests.worker_processes import StartWorker, WorkerProcess, until
from workers.consumption import STALLED

POOLS = ["threads", "prefork"]
QUICK = {"stall_seconds": "3", "concurrency": "2", "workers_sweep": "false"}


def _deaf(start_worker: StartWorker, directory: Path, pool: str) -> tuple[WorkerProcess, Path]:
    deaf = directory / "deaf"
    chosen = QUICK | {"sagas": "tests.stalls", "broker_profile": "redeliver"}
    return start_worker(pool=pool, test_deaf=str(deaf), **chosen), deaf


@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_that_takes_nothing_connects_anew(
    client: SagaClient, start_worker: StartWorker, tmp_path: Path, pool: str
) -> None:
    worker, deaf = _deaf(start_worker, tmp_path, pool)
    deaf.write_text("once")
    until(lambda: deaf.read_text() == "", seconds=60, what="a deaf consumer")

    started = client.start(BROKERED, {"directory": str(tmp_path)}, key="1")

    assert client.wait(started.id, 120).state is State.COMPLETED
    assert '"worker.stalled"' in worker.log
    assert worker.is_alive


@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_that_still_takes_nothing_ends_for_its_supervisor(
    client: SagaClient, start_worker: StartWorker, tmp_path: Path, pool: str
) -> None:
    worker, deaf = _deaf(start_worker, tmp_path, pool)
    deaf.write_text("always")

    client.start(BROKERED, {"directory": str(tmp_path)}, key="1")  # in a read that is under way
    started = client.start(BROKERED, {"directory": str(tmp_path)}, key="2")

    assert worker.wait_end(120) == STALLED
    assert worker.log.count('"worker.stalled"') >= 2
    start_worker(pool=pool, **QUICK)
    assert client.wait(started.id).state is State.COMPLETED


@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_whose_steps_are_long_takes_no_offence_at_what_waits(
    client: SagaClient, start_worker: StartWorker, tmp_path: Path, pool: str
) -> None:
    worker = start_worker(pool=pool, **{**QUICK, "stall_seconds": "0.6"})
    payload = {"directory": str(tmp_path), "blocks": "flight"}
    busy = [client.start(BROKERED, payload, key=str(number)) for number in range(20)]
    until(lambda: len(list(tmp_path.glob("flight.*"))) > 0, what="long steps")

    until(lambda: client.get(busy[-1].id).seq > 1 or _is_old(client), seconds=20, what="age")

    assert '"worker.stalled"' not in worker.log
    (tmp_path / "open").touch()
    assert all(client.wait(each.id).state is State.COMPLETED for each in busy)
    assert worker.is_alive


def _is_old(client: SagaClient) -> bool:
    """Whether what waits has waited for ten times as long as a stalled worker would bear."""
    database = client._log._database
    [(age,)] = database.run(
        "SELECT coalesce(extract(epoch FROM clock_timestamp() - min(due_at)), 0)::float8 "
        "FROM amends.attempt WHERE token IS NULL",
        {},
    )
    return bool(age > 6)
