"""Blocking work for a coroutine: in a thread of its own, which may run coroutines of the loop."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

RunOnLoop = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine on the caller's loop, waits for it in the thread, and returns its result."""


async def in_thread(work: Callable[[RunOnLoop], T]) -> T:
    """Return what `work` returns; the loop goes on meanwhile.

    A thread of its own and none of the loop's executor: what waits for each other could fill that.
    A cancelled caller waits no longer; the work runs to its end all the same.
    """
    loop = asyncio.get_running_loop()
    done: Future[T] = Future()

    def run_on_loop(coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result()

    def run() -> None:
        try:
            done.set_result(work(run_on_loop))
        except BaseException as error:  # noqa: BLE001 - the caller's to handle
            done.set_exception(error)

    done.set_running_or_notify_cancel()  # from here on it cannot be cancelled
    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(run,), name="amends-call", daemon=True).start()
    return await asyncio.wrap_future(done)
