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

    A thread that hangs cannot be ended, only replaced: its slot is free, and the pool may start
    another thread. One that comes back after all takes the place of the next that hangs.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._here = _Depth()
        self._taken = 0
        self._size = 0
        self._pool: Any = None
        self._at_work: set[int] = set()
        self._replaced: dict[int, threading.Thread] = {}
        self._spare = 0

    @property
    def replaced(self) -> int:
        """How many threads hang, and were replaced."""
        return len(self._replaced)

    @property
    def taken(self) -> int:
        """How many threads are at work, those that were replaced apart."""
        return self._taken

    def replace(self, ident: int) -> bool:
        """Free the slot of a thread that hangs, and have another in its place.

        False: it is none of the pool's threads, so nobody can take its place.
        """
        with self._lock:
            thread = next((each for each in self._threads if each.ident == ident), None)
            if thread is None or ident not in self._at_work:
                return False
            self._replaced[ident] = thread
            self._taken -= 1
            if self._spare:
                self._spare -= 1
                return True
        self._start_another(thread)
        return True

    @property
    def _threads(self) -> set[threading.Thread]:
        executor = getattr(self._pool, "executor", None)
        return set(getattr(executor, "_threads", ()))

    def _start_another(self, thread: threading.Thread) -> None:
        """The executor neither counts the thread any more nor waits for it; see its `submit`."""
        executor = self._pool.executor
        with executor._shutdown_lock:  # noqa: SLF001 - it has no other way to let a thread go
            executor._threads.discard(thread)  # noqa: SLF001
            if executor._work_queue.qsize():  # noqa: SLF001
                executor._adjust_thread_count()  # noqa: SLF001

    def adopt(self, pool: Any, size: int) -> None:
        """Use Celery's thread pool of that size."""
        self._pool, self._size = pool, size

    def __enter__(self) -> None:
        if self._here.held == 0:
            with self._lock:
                self._taken += 1
                self._at_work.add(threading.get_ident())
        self._here.held += 1

    def __exit__(self, *_: object) -> None:
        self._here.held -= 1
        if self._here.held == 0:
            self._end_work()

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
        with self._lock:
            self._at_work.add(threading.get_ident())
        try:
            work()
        finally:
            self.__exit__()

    def _end_work(self) -> None:
        ident = threading.get_ident()
        with self._lock:
            self._at_work.discard(ident)
            if self._replaced.pop(ident, None) is not None:
                self._spare += 1  # its slot was freed long ago
                return
        self._free()

    def _free(self) -> None:
        with self._lock:
            self._taken -= 1


def _ignore(_: object) -> None:
    """Celery's pools call back with what a task returned."""
