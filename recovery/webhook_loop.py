"""Processing webhooks for ever, in a thread of its own: a gateway that hangs delays no sweep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Self

from orchestrator.client import SagaClient
from orchestrator.errors import LogUnavailableError
from orchestrator.instrumentation import emit
from orchestrator.storage.database import Database
from recovery.side_loop import SideLoop
from steps.webhooks.inbox import ProcessReport
from workers.bootstrap import webhook_inbox
from workers.settings import Settings

PROCESS_WEBHOOKS: Final = "amends.webhooks"

BATCH: Final = 100


class WebhookLoop(SideLoop):
    """Processes what is due every so often and survives every outage."""

    def __init__(self, process: Callable[[int], ProcessReport], *, pause_seconds: float) -> None:
        super().__init__("amends-webhooks", pause_seconds=pause_seconds)
        self._process = process

    @classmethod
    def of(cls, settings: Settings, database: Database, client: SagaClient) -> Self:
        """Return the loop of a process that sweeps."""
        inbox = webhook_inbox(settings, database=database, client=client)
        return cls(inbox.process_due, pause_seconds=settings.sweep_seconds)

    def run_once(self) -> None:
        """Process what is due now; what cannot be processed stays due."""
        try:
            while self._process(BATCH).total == BATCH and not self._stopped.is_set():
                continue
        except LogUnavailableError as error:
            emit("webhook.failed", error=str(error))
        except Exception as error:  # noqa: BLE001 - without this thread nobody looks
            emit("webhook.failed", error=f"{type(error).__name__}: {error}")
