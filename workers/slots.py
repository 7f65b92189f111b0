"""The free threads of this worker, for work that reaches it without the broker."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class _Depth(threading.local):
    held = 0


class Slots:
    """Counts the threads of this worker that are at work, and starts one more where there is room.

    A thread holds one slot, however many tasks run inside each other in it. Until a thread pool is
    adopted nothing is free: a prefork parent runs no steps itself.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._here = _Depth()
        self._taken = 0
        self._size = 0
        self._pool: Any = None

    def adopt(self, pool: Any, size: int) -> None:
        """Use Celery's thread pool of that size."""
        self._pool, self._size = pool, size

    def __enter__(self) -> None:
        if self._here.held == 0:
            with self._lock:
                self._taken += 1
        self._here.held += 1

    def __exit__(self, *_: object) -> None:
        self._here.held -= 1
        if self._here.held == 0:
            self._free()

    def start(self, work: Callable[[], object]) -> bool:
        """Run `work` in a free thread, or return False when there is none."""
        with self._lock:
            if self._taken >= self._size:
                return False
            self._taken += 1  # until it begins, so that no second caller takes the same thread
        try:
            self._pool.apply_async(self._work, (work,), callback=_ignore)
        except RuntimeError:  # the pool has been shut down
            self._free()
            return False
        return True

    def _work(self, work: Callable[[], object]) -> None:
        self._here.held += 1  # the slot that `start` took for this thread
        try:
            work()
        finally:
            self.__exit__()

    def _free(self) -> None:
        with self._lock:
            self._taken -= 1


def _ignore(_: object) -> None:
    """Celery's pools call back with what a task returned."""
