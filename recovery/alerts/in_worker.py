"""Alerts from workers: beside their sweeper, or standing by where they do not sweep."""

from __future__ import annotations

from typing import Any

from celery import bootsteps, signals

from recovery.alerts.loop import AlertLoop
from workers.lifecycle import runs_steps_itself


class AlertsInWorker(bootsteps.StartStopStep):
    """Runs a notifier in every process that runs steps.

    The sweeper of a prefork worker is another process, with a notifier of its own: the children
    stand by for the day when it hangs.
    """

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self._app = worker.app
        self._loop: AlertLoop | None = None
        self.enabled = runs_steps_itself(worker)
        if not self.enabled:
            signals.worker_process_init.connect(self._start_in_child, weak=False)

    def start(self, worker: Any) -> None:
        """Start the thread; nothing is opened before its first run."""
        self._start(sweeps=worker.app.settings.workers_sweep)

    def stop(self, worker: Any) -> None:  # noqa: ARG002 - Celery's signature
        """Stop telling; whoever goes on has the rows."""
        if self._loop is not None:
            self._loop.stop()

    def _start_in_child(self, **_: Any) -> None:
        self._start(sweeps=False)

    def _start(self, *, sweeps: bool) -> None:
        settings, database = self._app.settings, self._app.runtime().database
        self._loop = AlertLoop.of(settings, database, sweeps=sweeps).start()
