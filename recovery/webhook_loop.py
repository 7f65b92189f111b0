"""Processing webhooks for ever, in a thread of its own: a gateway that hangs delays no sweep."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, Self

from orchestrator.client import SagaClient
from orchestrator.errors import LogUnavailableError
from orchestrator.instrumentation import emit
from orchestrator.storage.database import Database
from steps.webhooks.inbox import ProcessReport
from workers.bootstrap import webhook_inbox
from workers.settings import Settings

PROCESS_WEBHOOKS: Final = "amends.webhooks"

STOP_SECONDS: Final = 2.0
"""What an end waits for a look under way; one that is cut off is due again in a minute."""

BATCH: Final = 100


class WebhookLoop:
    """Processes what is due every so often and survives every outage; a context manager."""

    def __init__(self, process: Callable[[int], ProcessReport], *, pause_seconds: float) -> None:
        self._process = process
        self._pause = pause_seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="amends-webhooks", daemon=True)

    @classmethod
    def of(cls, settings: Settings, database: Database, client: SagaClient) -> Self:
        """Return the loop of a process that sweeps."""
        inbox = webhook_inbox(settings, database=database, client=client)
        return cls(inbox.process_due, pause_seconds=settings.sweep_seconds)

    def start(self) -> Self:
        """Start the thread; nothing is done before its first pause is over."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """End soon, whatever is being looked at."""
        self._stopped.set()
        self._thread.join(timeout=STOP_SECONDS)

    def run_once(self) -> None:
        """Process what is due now; what cannot be processed stays due."""
        try:
            while self._process(BATCH).total == BATCH and not self._stopped.is_set():
                continue
        except LogUnavailableError as error:
            emit("webhook.failed", error=str(error))
        except Exception as error:  # noqa: BLE001 - without this thread nobody looks
            emit("webhook.failed", error=f"{type(error).__name__}: {error}")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        while not self._stopped.wait(self._pause):
            self.run_once()
