"""Alerting for ever, in a thread of its own: sending may wait without holding anything up."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.errors import LogUnavailableError
from orchestrator.instrumentation import emit
from orchestrator.storage.database import Database
from recovery.alerts.notifier import Notifier
from recovery.side_loop import SideLoop
from workers.settings import Settings


class AlertLoop(SideLoop):
    """Runs a notifier every so often and survives every outage."""

    def __init__(self, notify: Callable[[], object], *, pause_seconds: float) -> None:
        super().__init__("amends-alerts", pause_seconds=pause_seconds)
        self._notify = notify

    @classmethod
    def of(cls, settings: Settings, database: Database, *, sweeps: bool) -> AlertLoop:
        """Return the loop of a process that sweeps too, or of one that only stands by."""
        notifier = Notifier.of(settings, database)
        if sweeps:
            return cls(notifier.run_once, pause_seconds=settings.sweep_seconds)
        return cls(notifier.stand_by, pause_seconds=settings.sweep_patience_seconds / 3)

    def run_once(self) -> None:
        """Raise, close and send what is due; what cannot be sent stays due."""
        try:
            self._notify()
        except LogUnavailableError as error:
            emit("alert.failed", error=str(error))
        except Exception as error:  # noqa: BLE001 - without this thread nobody is told
            emit("alert.failed", error=f"{type(error).__name__}: {error}")
