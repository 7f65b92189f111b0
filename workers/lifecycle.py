"""The bootstep that ties a worker's pool to what runs in it."""

from __future__ import annotations

from typing import Any

from celery import bootsteps

from workers import children

THREADED = ("celery.concurrency.thread", "celery.concurrency.solo")


def runs_steps_itself(worker: Any) -> bool:
    """Whether steps run in the worker's own process, not in children of it."""
    return worker.pool_cls.__module__ in THREADED


class Lifecycle(bootsteps.StartStopStep):
    """Begins the process's heartbeat where it runs steps, and watches its children where not."""

    requires = ("celery.worker.components:Pool",)

    def start(self, worker: Any) -> None:
        """The pool is there; the broker may not be."""
        if runs_steps_itself(worker):
            runtime = worker.app.runtime()
            if worker.pool_cls.__module__ == THREADED[0]:
                runtime.slots.adopt(worker.pool, worker.concurrency)
            runtime.heartbeat.ensure()

    def stop(self, worker: Any) -> None:
        """Nothing: what runs is drained by the signal, not by the order of bootsteps."""

    def register_with_event_loop(self, worker: Any, hub: Any) -> None:  # noqa: ARG002 - Celery's
        """Called before the pool registers, because Celery goes through the steps backwards."""
        children.watch(worker.pool)
