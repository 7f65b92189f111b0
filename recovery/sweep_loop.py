"""Sweeping for ever: `Sweeper.run_once` under a thin ticker that survives every outage."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version

from orchestrator.definitions import Definitions
from orchestrator.errors import LogUnavailableError
from orchestrator.instrumentation import emit
from orchestrator.storage.database import Database
from orchestrator.storage.processes import Process, Processes
from recovery.lost_processes import LOOK_SECONDS
from recovery.sweeper import Sweeper, SweepReport
from workers.owner import owner

KIND = "sweeper"
"""How sweepers are registered, also those in a worker's thread; `doctor` looks for them."""

SHORTEST_PAUSE_SECONDS = 0.02


class SweepLoop:
    """Sweeps every interval; between two sweeps it rings for timers and looks for the dead."""

    def __init__(
        self,
        sweeper: Sweeper,
        database: Database,
        *,
        definitions: Definitions,
        interval_seconds: float,
        on_report: Callable[[SweepReport], object],
    ) -> None:
        self.sweeper = sweeper
        self._processes = Processes(database)
        self._definitions = definitions
        self._interval = interval_seconds
        self._on_report = on_report
        self._next_sweep = self._next_look = time.monotonic()
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Have `run` return soon; may be called in a signal handler."""
        self._stopped.set()

    def run(self) -> None:
        """Sweep until `stop` is called."""
        pause = 0.0
        while not self._stopped.wait(pause):
            pause = self.tick()
        self.leave()

    def tick(self) -> float:
        """Do what is due now, and return in how many seconds there may be more to do."""
        timer = None
        try:
            report = self._work()
            timer = self.sweeper.next_timer()
        except LogUnavailableError as error:
            self._failed(str(error))
        except Exception as error:  # noqa: BLE001 - without this loop nothing is taken over here
            self._failed(f"{type(error).__name__}: {error}")
        else:
            self._on_report(report)
        until_due = min(self._next_sweep, self._next_look) - time.monotonic()
        return max(SHORTEST_PAUSE_SECONDS, min(until_due, until_due if timer is None else timer))

    def take_over_from(self, owners: Sequence[str]) -> int:
        """Give up at once what dead processes held; a bare process id is one of this host.

        Raises:
            LogUnavailableError: Postgres does not answer.
        """
        known = [each.process.owner for each in self._processes.all()]
        host = owner().partition("/")[0]
        dead = [
            name
            for given in owners
            for name in (
                [given]
                if "/" in given
                else [each for each in known if _is_pid_on(each, host, given)]
            )
        ]
        taken_over = self.sweeper.take_over_from(dead)
        self._processes.gone(dead)
        return taken_over

    def leave(self) -> None:
        """Take this sweeper off the register."""
        try:
            self._processes.gone([_name()])
        except LogUnavailableError as error:
            emit("sweep.failed", error=str(error))

    def _failed(self, error: str) -> None:
        emit("sweep.failed", error=error)
        self._next_sweep = min(self._next_sweep, time.monotonic() + self._interval)

    def _work(self) -> SweepReport:
        now = time.monotonic()
        looks = now >= self._next_look
        if looks:
            self._next_look = now + LOOK_SECONDS
        if now < self._next_sweep:
            lost = self.sweeper.take_over_lost() if looks else SweepReport()
            return lost + self.sweeper.ring_due()
        self._next_sweep = now + self._interval
        self._processes.seen(sweeper_process(self._definitions))
        report = self.sweeper.run_once()
        if self.sweeper.has_more and not report.is_quiet:
            self._next_sweep = now  # a backlog is worked off in one go
        return report


def sweeper_process(definitions: Definitions, name: str | None = None) -> Process:
    """Return what the register of processes should say of whoever sweeps here.

    Without a name: of this process, beside the worker that may live in it under `owner`.
    """
    return Process(
        owner=name or _name(),
        kind=KIND,
        queues=(),
        definition_hashes=definitions.hashes,
        amends_version=version("amends"),
    )


def _name() -> str:
    return f"{owner()}/{KIND}"


def _is_pid_on(name: str, host: str, pid: str) -> bool:
    return name.startswith(f"{host}/") and name.endswith(f"/{pid}")
