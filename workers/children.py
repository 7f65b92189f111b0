"""The deaths of a prefork worker's children, told the moment their parent sees them.

Celery itself speaks of a lost child only some ten seconds later; a lease need not wait for that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

REAP_SECONDS = 0.05
REAP_TRIES = 40

OnDeath = Callable[[int], None]

_callbacks: list[OnDeath] = []


def on_child_death(callback: OnDeath) -> None:
    """Have `callback` called with the process id of every child that ends, however it ends.

    Called in the parent's event loop: it must return at once.
    """
    _callbacks.append(callback)


def watch(pool: Any) -> None:
    """Watch the children of Celery's prefork pool; nothing to do for other pools.

    Called before the pool registers with the event loop, which happens again whenever the broker's
    connection was lost, and makes the pool's handlers anew: so their maker is wrapped.
    """
    processes: Any = getattr(pool, "_pool", None)
    if not hasattr(processes, "_create_process_handlers") or hasattr(processes, "tells_deaths"):
        return
    processes.tells_deaths = True
    processes.did_start_ok = lambda: _replace_dead(processes)
    make_handlers = processes._create_process_handlers  # noqa: SLF001 - Celery has no hook
    on_exit = processes._event_process_exit  # noqa: SLF001 - likewise

    def make_and_tell(hub: Any) -> None:
        make_handlers(hub)
        on_down = processes.on_process_down

        def down(process: Any) -> None:
            on_down(process)
            for callback in _callbacks:
                callback(process.pid)

        processes.on_process_down = down

    def exit_and_reap(hub: Any, process: Any) -> None:
        on_exit(hub, process)
        _reap(processes, hub, process, REAP_TRIES)

    processes._create_process_handlers = make_and_tell  # noqa: SLF001 - likewise
    processes._event_process_exit = exit_and_reap  # noqa: SLF001 - likewise


def _replace_dead(processes: Any) -> bool:
    """Replace children that died at their start, as is done with those that die later.

    Celery asks once whether all could start, and otherwise ends the whole worker.
    """
    processes.maintain_pool()
    return True


def _reap(processes: Any, hub: Any, process: Any, tries: int) -> None:
    """Look again soon while the kernel has not finished with a dying child.

    Its pipe closes a moment before it can be waited for. Celery looks once, then forgets the pipe,
    and sees the death only at its next round, up to five seconds later.
    """
    if tries > 0 and process in processes._pool:  # noqa: SLF001 - likewise
        hub.call_later(REAP_SECONDS, _reap, processes, hub, process, tries - 1)
        processes.maintain_pool()
