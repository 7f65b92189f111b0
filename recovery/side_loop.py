"""What a process does every so often beside its own work, in a thread that may be slow."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Final, Self

STOP_SECONDS: Final = 2.0
"""What an end waits for a run under way; one that is cut off is repeated, here or elsewhere."""


class SideLoop(ABC):
    """Calls `run_once` after every pause until it is stopped; a context manager."""

    def __init__(self, name: str, *, pause_seconds: float) -> None:
        self._pause = pause_seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @abstractmethod
    def run_once(self) -> None:
        """Do what is due now. It tells of every outage and raises nothing: the thread lives on."""

    def start(self) -> Self:
        """Start the thread; nothing is done before its first pause is over."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """End soon, whatever is being done."""
        self._stopped.set()
        self._thread.join(timeout=STOP_SECONDS)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        while not self._stopped.wait(self._pause):
            self.run_once()
