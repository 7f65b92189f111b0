"""The free threads of this worker, for work that reaches it without the broker."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class Slots:
    """Counts the tasks that run in this worker, and starts one more where there is room.

    Until a thread pool is adopted nothing is free: a prefork parent runs no steps itself.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = 0
        self._size = 0
        self._pool: Any = None

    def adopt(self, pool: Any, size: int) -> None:
        """Use Celery's thread pool of that size."""
        self._pool, self._size = pool, size

    def __enter__(self) -> None:
        with self._lock:
            self._taken += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._taken -= 1

    def start(self, work: Callable[[], object]) -> bool:
        """Run `work` in a free thread, or return False when there is none."""
        with self._lock:
            if self._taken >= self._size:
                return False
            self._taken += 1  # until it begins, so that no second caller takes the same thread
        try:
            self._pool.apply_async(self._work, (work,), callback=_ignore)
        except RuntimeError:  # the pool has been shut down
            self.__exit__()
            return False
        return True

    def _work(self, work: Callable[[], object]) -> None:
        try:
            work()
        finally:
            self.__exit__()


def _ignore(_: object) -> None:
    """Celery's pools call back with what a task returned."""
