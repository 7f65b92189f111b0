"""How workers stop, and what becomes of what they were doing."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from orchestrator.client import SagaClient
from orchestrator.entries import StepStarted, StepUnknown, UnknownReason
from orchestrator.state import State
from tests.sagas_for_workers import INLINE
from tests.worker_processes import StartWorker, until

POOLS = ["threads", "prefork"]


def _is_called(directory: Path, call: str) -> bool:
    return (directory / call).exists()


@pytest.mark.parametrize("pool", [*POOLS, "solo"])
def test_an_idle_worker_ends_at_once(start_worker: StartWorker, pool: str) -> None:
    worker = start_worker(pool=pool, grace_seconds="60")

    worker.terminate()

    assert worker.wait_end() == 0


@pytest.mark.parametrize("pool", POOLS)
def test_a_draining_worker_finishes_what_runs_and_begins_nothing_more(
    client: SagaClient, start_worker: StartWorker, tmp_path: Path, pool: str
) -> None:
    worker = start_worker(pool=pool, grace_seconds="60")
    started = client.start(INLINE, {"directory": str(tmp_path), "blocks": "flight"}, key="1")
    until(lambda: _is_called(tmp_path, "flight.forward.1"), what="the first step")

    worker.terminate()
    until(lambda: "shutdown (MainProcess)" in worker.log, what="the signal")
    (tmp_path / "open").touch()

    assert worker.wait_end() == 0
    assert not _is_called(tmp_path, "hotel.forward.1")
    assert client.get(started.id).state is State.RUNNING
    start_worker(pool=pool)
    assert client.wait(started.id).state is State.COMPLETED
    assert not _is_called(tmp_path, "flight.forward.2")


@pytest.mark.parametrize("pool", POOLS)
def test_at_the_end_of_grace_what_runs_is_handed_on_as_unknown(
    client: SagaClient, start_worker: StartWorker, tmp_path: Path, pool: str
) -> None:
    worker = start_worker(pool=pool, grace_seconds="1")
    started = client.start(INLINE, {"directory": str(tmp_path), "blocks": "flight"}, key="1")
    until(lambda: _is_called(tmp_path, "flight.forward.1"), what="the first step")

    worker.terminate()
    code = worker.wait_end()
    (tmp_path / "open").touch()

    entries = [each.entry for each in client._log.entries(started.id)]
    given_up = [each for each in entries if isinstance(each, StepUnknown)]
    assert [(each.step, each.reason) for each in given_up] == [("flight", UnknownReason.DRAINED)]
    assert code == 0
    start_worker(pool=pool)
    assert client.wait(started.id).state is State.COMPLETED


def test_what_a_draining_worker_had_fetched_is_rung_again_at_once(
    client: SagaClient, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker(concurrency="2", grace_seconds="60")
    blocked = [
        client.start(INLINE, {"directory": str(tmp_path), "blocks": "flight"}, key=f"b{each}")
        for each in range(2)
    ]
    until(lambda: all(_begun(client, each.id) for each in blocked), what="two steps that block")
    behind = [
        client.start(INLINE, {"directory": str(tmp_path)}, key=f"w{each}") for each in range(4)
    ]

    worker.terminate()
    until(lambda: "shutdown (MainProcess)" in worker.log, what="the signal")
    (tmp_path / "open").touch()
    assert worker.wait_end() == 0
    start_worker()

    for each in (*behind, *blocked):
        assert client.wait(each.id, 13).state is State.COMPLETED


def _begun(client: SagaClient, saga_id: object) -> bool:
    return any(isinstance(each.entry, StepStarted) for each in client._log.entries(saga_id))  # type: ignore[arg-type]


@pytest.mark.parametrize("pool", POOLS)
def test_a_cold_shutdown_drains_too(
    client: SagaClient, start_worker: StartWorker, tmp_path: Path, pool: str
) -> None:
    worker = start_worker(pool=pool, grace_seconds="1")
    started = client.start(INLINE, {"directory": str(tmp_path), "blocks": "flight"}, key="1")
    until(lambda: _is_called(tmp_path, "flight.forward.1"), what="the first step")

    worker.send(signal.SIGQUIT)
    worker.wait_end()
    (tmp_path / "open").touch()

    entries = [each.entry for each in client._log.entries(started.id)]
    assert [each.reason for each in entries if isinstance(each, StepUnknown)] == ["drained"]
