"""Real worker processes for tests, and a way to wait for what they do."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from orchestrator.client import SagaClient
from tests.forkserver import ForkedProcess
from workers import connect
from workers.settings import Settings

ROOT = Path(__file__).parent.parent
SAGAS = "tests.sagas_for_workers"

T = TypeVar("T")


def until(look: Callable[[], T], *, seconds: float = 60.0, what: str = "the state") -> T:
    """Return the first true answer of `look`; fail when none comes in time."""
    deadline = time.monotonic() + seconds
    pause = 0.01
    while not (found := look()):
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not come within {seconds:g} s")
        time.sleep(pause)  # between two looks at the state
        pause = min(pause * 1.5, 0.25)
    return found


class WorkerProcess:
    """One ``celery -A workers worker`` and its log."""

    def __init__(self, environment: dict[str, str], log: Path, arguments: Sequence[str]) -> None:
        self.log_path = log
        self._process = ForkedProcess(
            ["celery", "-A", "workers", "worker", *arguments],
            environment=environment,
            cwd=ROOT,
            log=log,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.pid).children()

    def wait_ready(self) -> WorkerProcess:
        """Return once it takes messages."""
        until(
            lambda: " ready." in self.log or not self.is_alive, what=f"a ready worker: {self.log}"
        )
        assert self.is_alive, self.log
        return self

    def terminate(self) -> None:
        self.send(signal.SIGTERM)

    def send(self, signal_number: signal.Signals) -> None:
        self._process.send_signal(signal_number)

    def wait_end(self, seconds: float = 60.0) -> int:
        """Return its exit code."""
        try:
            return self._process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the worker did not end within {seconds:g} s:\n{self.log}")

    def stop(self) -> None:
        """End it and its children, whatever state it is in."""
        if self.is_alive:
            family = psutil.Process(self.pid).children(recursive=True)
            self._process.kill()
            for each in family:
                with suppress(psutil.NoSuchProcess):
                    each.kill()
        self._process.wait(timeout=60)


StartWorker = Callable[..., WorkerProcess]


@pytest.fixture
def settings(database: str, broker_url: str) -> Settings:
    """Settings of a client of the same servers that the workers use."""
    return Settings.load(database_url=database, broker_url=broker_url, sagas=(SAGAS,))


@pytest.fixture
def client(settings: Settings) -> Iterator[SagaClient]:
    """A client as a service has it."""
    connected = connect(settings)
    yield connected
    connected.close()


@pytest.fixture
def start_worker(settings: Settings, tmp_path: Path) -> Iterator[StartWorker]:
    """Starts workers, by ``AMENDS_*`` variables without their prefix; all end with the test."""
    started: list[WorkerProcess] = []

    def start(*arguments: str, ready: bool = True, **variables: str) -> WorkerProcess:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("AMENDS_")
        }
        assert settings.database_url is not None
        assert settings.broker_url is not None
        environment |= {
            "AMENDS_DATABASE_URL": settings.database_url,
            "AMENDS_BROKER_URL": settings.broker_url,
            "AMENDS_SAGAS": SAGAS,
            "AMENDS_LOG_LEVEL": "debug",
            "AMENDS_CONCURRENCY": "4",
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore",
        }
        environment |= {f"AMENDS_{name.upper()}": value for name, value in variables.items()}
        worker = WorkerProcess(environment, tmp_path / f"worker-{len(started)}.log", arguments)
        started.append(worker)
        return worker.wait_ready() if ready else worker

    yield start
    for each in started:
        each.stop()
