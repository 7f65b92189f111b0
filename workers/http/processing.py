"""Has what was received processed soon, and never in front of the answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from orchestrator.instrumentation import emit

END_SECONDS: Final = 5.0
"""Beyond the grace of the requests: whoever stops us waits for both."""


class Processing:
    """One thread that processes when it is asked to; asked twice meanwhile is once more.

    It may fail or die: what is due stays due, and the sweep processes it too.
    """

    def __init__(self, process: Callable[[], object]) -> None:
        self._process = process
        self._is_asked = threading.Event()
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name="amends-webhooks", daemon=True)

    def begin(self) -> None:
        """Start the thread."""
        self._thread.start()

    def ask(self) -> None:
        """Have it process once more."""
        self._is_asked.set()

    def end(self) -> None:
        """Let what runs finish, for some seconds; what is left is due again in a minute."""
        self._is_over = True
        self._is_asked.set()
        self._thread.join(END_SECONDS)

    def _run(self) -> None:
        while True:
            self._is_asked.wait()
            self._is_asked.clear()
            if self._is_over:
                return
            try:
                self._process()
            except Exception as error:  # noqa: BLE001 - the next request must find the thread alive
                emit("http.processing_failed", error=f"{type(error).__name__}: {error}")
