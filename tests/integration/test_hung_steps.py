"""Steps that never return: their places are free again, and in the end their process makes way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.client import SagaClient
from orchestrator.entries import StepUnknown, UnknownReason
from orchestrator.state import State
from tests.hanging_sagas import HANGING, SPINNING
from tests.sagas_for_workers import INLINE
from tests.worker_processes import SAGAS, StartWorker, until
from workers.heartbeat import HUNG

WITH_HANGING = f"{SAGAS},tests.hanging_sagas"


def _hang(client: SagaClient, directory: Path, count: int) -> None:
    """Start sagas whose first step never returns, and wait until that many hang."""
    rows = [(f"hangs-{number}", {"directory": str(directory)}) for number in range(count)]
    list(client.start_many(HANGING, rows))
    until(lambda: len(list(directory.glob("hang.*"))) >= count, what=f"{count} hanging steps")


def _reasons(client: SagaClient, key: str) -> list[str]:
    [found] = client.find(definition=HANGING.name, key=key)
    entries = [each.entry for each in client._log.entries(found.id)]
    return [each.reason for each in entries if isinstance(each, StepUnknown)]


def test_all_slots_of_a_worker_hang_and_others_go_on(
    client: SagaClient, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker(pool="threads", concurrency="2", sagas=WITH_HANGING, lease_seconds="1")
    _hang(client, tmp_path, 2)

    started = client.start(INLINE, {"directory": str(tmp_path)}, key="1")

    assert client.wait(started.id, timeout=20).state is State.COMPLETED
    assert worker.is_alive
    assert worker.log.count('"step.hung"') >= 2
    for key in ("hangs-0", "hangs-1"):
        assert UnknownReason.TIMED_OUT in _reasons(client, key)
        assert UnknownReason.LEASE_LOST not in _reasons(client, key)
    worker.terminate()
    assert worker.wait_end(20) == 0


def test_when_too_many_hang_the_worker_hands_back_and_ends_for_its_supervisor(
    client: SagaClient, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker(
        pool="threads",
        concurrency="2",
        sagas=WITH_HANGING,
        lease_seconds="1",
        max_hung_threads="1",
        grace_seconds="5",
    )
    _hang(client, tmp_path, 2)

    assert worker.wait_end(30) == HUNG
    assert '"worker.hung"' in worker.log
    assert '"step.hung"' in worker.log


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_process_with_one_thread_ends_when_its_step_hangs(
    client: SagaClient, start_worker: StartWorker, tmp_path: Path, pool: str
) -> None:
    worker = start_worker(pool=pool, concurrency="1", sagas=WITH_HANGING, lease_seconds="1")
    _hang(client, tmp_path, 1)

    if pool == "solo":
        assert worker.wait_end(30) == HUNG
        worker = start_worker(pool=pool, sagas=WITH_HANGING, lease_seconds="1")
    started = client.start(INLINE, {"directory": str(tmp_path)}, key="1")

    assert client.wait(started.id, timeout=30).state is State.COMPLETED
    assert UnknownReason.TIMED_OUT in _reasons(client, "hangs-0")
    assert worker.is_alive


def test_a_child_whose_step_never_lets_the_interpreter_go_is_killed(
    client: SagaClient, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker(pool="prefork", concurrency="1", sagas=WITH_HANGING, lease_seconds="1")
    client.start(SPINNING, {"directory": str(tmp_path)}, key="spins")
    pid = int(until(lambda: _text(tmp_path / "spin"), what="the spinning step"))

    until(lambda: not _runs(pid), seconds=30, what="the end of the child")

    assert '"worker.child_killed"' in worker.log
    started = client.start(INLINE, {"directory": str(tmp_path)}, key="1")
    assert client.wait(started.id, timeout=40).state is State.COMPLETED


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
