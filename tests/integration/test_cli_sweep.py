"""`amends sweep` as a process: beside a worker, and for ever."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from orchestrator.client import SagaClient
from orchestrator.coordinator import Coordinator
from orchestrator.definitions import Definitions
from orchestrator.doorbell import SilentDoorbell
from orchestrator.entries import StepFailed, StepStarted, StepUnknown
from orchestrator.storage.database import Database, create_engine
from orchestrator.storage.processes import Processes
from orchestrator.storage.rows import AttemptId
from recovery.sweep_loop import KIND
from steps.checkout import checkout
from tests.worker_processes import until

ROOT = Path(__file__).parents[2]
DEAD = "host/nonce/4242"
ORDER = {
    "order_id": "A-1",
    "customer_id": "C-1",
    "units": 1,
    "amount_minor": 0,
    "currency": "EUR",
}


@pytest.fixture
def known(database: str) -> Iterator[Database]:
    engine = create_engine(database)
    yield Database(engine)
    engine.dispose()


@pytest.fixture
def held(known: Database) -> tuple[Coordinator, UUID]:
    """A saga whose first attempt is held, for a minute, by a process that is dead."""
    saga = SagaClient(known.engine).start(checkout, ORDER, key="A-1")
    coordinator = Coordinator(
        database=known,
        definitions=Definitions([checkout]),
        doorbell=SilentDoorbell(),
        owner=lambda: DEAD,
        lease=timedelta(minutes=1),
    )
    first = AttemptId(saga_id=saga.id, step="reserve_inventory", direction="forward", number=1)
    assert coordinator.claim(first) is not None
    return coordinator, saga.id


def sweep(database: str, broker_url: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "recovery.cli", "sweep", *arguments],
        cwd=ROOT,
        env={**os.environ, "AMENDS_DATABASE_URL": database, "AMENDS_BROKER_URL": broker_url},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_beside_a_worker_it_takes_over_what_a_dead_process_held(
    held: tuple[Coordinator, UUID], database: str, broker_url: str
) -> None:
    coordinator, saga_id = held
    with sweep(database, broker_url, "--beside") as process:
        assert process.stdin is not None
        process.stdin.write(f"died {DEAD}\n")
        process.stdin.flush()
        until(
            lambda: [
                each.entry
                for each in coordinator.log.entries(saga_id)
                if isinstance(each.entry, StepFailed | StepUnknown)
            ],
            what="the take-over, long before the lease is over",
        )
        process.stdin.close()
        assert process.wait(timeout=20) == 0


def test_a_line_that_means_nothing_changes_nothing(
    held: tuple[Coordinator, UUID], database: str, broker_url: str
) -> None:
    coordinator, saga_id = held
    process = sweep(database, broker_url, "--beside")
    process.communicate("died host/nonce/1\nhello\ndied \n\n", timeout=30)
    assert process.returncode == 0
    entries = [each.entry for each in coordinator.log.entries(saga_id)]
    assert isinstance(entries[-1], StepStarted)


@pytest.mark.parametrize(
    "arguments", [(), ("--interval", "0.5", "--json")], ids=["as set", "given"]
)
def test_for_ever_means_until_sigterm(
    known: Database, database: str, broker_url: str, arguments: tuple[str, ...]
) -> None:
    processes = Processes(known)
    with sweep(database, broker_url, *arguments) as process:
        until(
            lambda: [each for each in processes.all() if each.process.kind == KIND],
            what="the sweeper's sign of life",
        )
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    assert processes.all() == []


@pytest.mark.parametrize("arguments", [("--beside",), ("--interval", "0.3"), ("--once", "--json")])
def test_every_line_of_a_sweeper_is_json(
    held: tuple[Coordinator, UUID], database: str, broker_url: str, arguments: tuple[str, ...]
) -> None:
    coordinator, saga_id = held
    with coordinator.log._database.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE amends.attempt SET lease_until = clock_timestamp() - interval '1 s'"
        )
    process = sweep(database, broker_url, *arguments)
    until(
        lambda: isinstance(coordinator.log.entries(saga_id)[-1].entry, StepFailed | StepUnknown),
        what="the take-over",
    )
    if "--interval" in arguments:
        process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=30)  # closes its input, which ends it beside
    lines = [*output.splitlines(), *errors.splitlines()]
    assert lines
    assert [each for each in lines if not isinstance(json.loads(each), dict)] == []
