"""The bootstep that ties a worker's pool to what runs in it."""

from __future__ import annotations

import time
from typing import Any

from celery import bootsteps, signals

from orchestrator.instrumentation import emit
from workers import children
from workers.consumption import STALLED, Order
from workers.pulse import LOOK_SECONDS, PulseWatch

FOLLOW_SECONDS = 1.0
"""How soon the main process follows an order of those who watch what it takes."""

THREADED = ("celery.concurrency.thread", "celery.concurrency.solo")


def runs_steps_itself(worker: Any) -> bool:
    """Whether steps run in the worker's own process, not in children of it."""
    return worker.pool_cls.__module__ in THREADED


class Lifecycle(bootsteps.StartStopStep):
    """Begins the process's heartbeat where it runs steps, and watches its children where not."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        app = worker.app
        self._watch = PulseWatch(app.pulses, lease_seconds=app.settings.lease_seconds)

    def start(self, worker: Any) -> None:
        """The pool is there; the broker may not be."""
        if runs_steps_itself(worker):
            runtime = worker.app.runtime()
            if worker.pool_cls.__module__ == THREADED[0]:
                runtime.slots.adopt(worker.pool, worker.concurrency)
                # Celery drops what waits for a thread when it stops; run, it is put back.
                worker.pool.on_stop = worker.pool.executor.shutdown
                runtime.heartbeat.hand_back = lambda: _return_unbegun(worker)
                runtime.heartbeat.stop_taking = worker.end
            watch(runtime)
            runtime.heartbeat.ensure()

    def stop(self, worker: Any) -> None:
        """Nothing: what runs is drained by the signal, not by the order of bootsteps."""

    def register_with_event_loop(self, worker: Any, hub: Any) -> None:
        """Called before the pool registers, because Celery goes through the steps backwards."""
        children.watch(worker.pool)
        hub.call_repeatedly(FOLLOW_SECONDS, _follow, worker)
        processes = getattr(worker.pool, "_pool", None)
        if hasattr(processes, "_pool"):
            hub.call_repeatedly(LOOK_SECONDS, self._look_at_pulses, processes)

    def _look_at_pulses(self, processes: Any) -> None:
        self._watch.look(list(processes._pool), time.monotonic())  # noqa: SLF001 - has no other name


def watch(runtime: Any) -> None:
    """Have the heartbeat of this process watch whether the worker takes what waits for it."""
    signals.task_prerun.connect(runtime.busy.begin, weak=False)
    signals.task_postrun.connect(runtime.busy.end, weak=False)
    runtime.heartbeat.watch = runtime.watch.look


def _follow(worker: Any) -> None:
    """Do in the main process what those who watch it have ordered.

    Raises:
        ConnectionResetError: as a lost connection would; Celery connects anew, with all its places.
    """
    order = worker.app.consumption.take_order()
    if order is Order.RECONNECT:
        raise ConnectionResetError("this worker takes nothing, though messages wait")
    if order is Order.END:
        worker.end(STALLED)


def _return_unbegun(worker: Any) -> int:
    """Return the messages that wait for a thread to their queue; how many there were.

    As kombu does when it closes, which a process that leaves its threads behind cannot wait for.
    RabbitMQ needs no such help: there the end of the connection is enough.
    """
    qos: Any = getattr(getattr(worker.consumer.task_consumer, "channel", None), "qos", None)
    if not hasattr(qos, "restore_unacked"):
        return 0
    unbegun = len(qos._delivered) - len(qos._dirty)  # noqa: SLF001 - has no public name
    try:
        qos.restore_unacked()
    except Exception as error:  # noqa: BLE001 - each transport raises errors of its own library
        emit("drain.failed", error=f"{type(error).__name__}: {error}")
        return 0
    return unbegun
