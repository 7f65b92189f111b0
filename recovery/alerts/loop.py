"""Alerting for ever, in a thread of its own: sending may wait without holding anything up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Self

from orchestrator.errors import LogUnavailableError
from orchestrator.instrumentation import emit
from orchestrator.storage.database import Database
from recovery.alerts.notifier import Notifier
from workers.settings import Settings

STOP_SECONDS = 2.0
"""What an end waits for a sending under way; one that is cut off is repeated by somebody else."""


class AlertLoop:
    """Runs a notifier every so often and survives every outage; a context manager."""

    def __init__(self, run_once: Callable[[], object], *, pause_seconds: float) -> None:
        self._run_once = run_once
        self._pause = pause_seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="amends-alerts", daemon=True)

    @classmethod
    def of(cls, settings: Settings, database: Database, *, sweeps: bool) -> AlertLoop:
        """Return the loop of a process that sweeps too, or of one that only stands by."""
        notifier = Notifier.of(settings, database)
        if sweeps:
            return cls(notifier.run_once, pause_seconds=settings.sweep_seconds)
        return cls(notifier.stand_by, pause_seconds=settings.sweep_patience_seconds / 3)

    def start(self) -> Self:
        """Start the thread; nothing is done before its first pause is over."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """End soon, whatever is being sent."""
        self._stopped.set()
        self._thread.join(timeout=STOP_SECONDS)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        while not self._stopped.wait(self._pause):
            try:
                self._run_once()
            except LogUnavailableError as error:
                emit("alert.failed", error=str(error))
            except Exception as error:  # noqa: BLE001 - without this thread nobody is told
                emit("alert.failed", error=f"{type(error).__name__}: {error}")
