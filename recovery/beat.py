"""What recovery adds to the Celery app: the beat entry, its task, and a sweeper in every worker.

Celery imports this module by name when a worker or beat starts (`SagaApp.CONTRIBUTIONS`), because
the workers' package may not know recovery. Three ways into the same sweep:

    beat              the entry below sends `amends.sweep`, and any worker runs it
    threads worker    a thread of its own sweeps, with or without beat, and also without a broker
    prefork worker    a process beside the parent sweeps; the parent tells it of dead children
"""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import IO, Any

from celery import bootsteps

from orchestrator.errors import LogUnavailableError
from orchestrator.instrumentation import emit
from orchestrator.storage.database import Moved
from orchestrator.storage.processes import Processes
from recovery.alerts.in_worker import AlertsInWorker
from recovery.isolation import child_environment
from recovery.reconciliation.nightly import LOOK_EVERY_SECONDS, RECONCILE, reconcile_if_due
from recovery.sweep_loop import SweepLoop, sweeper_process
from recovery.sweeper import Sweeper, SweepReport
from recovery.webhook_loop import PROCESS_WEBHOOKS, WebhookLoop
from workers.celery import app
from workers.children import on_child_death
from workers.lifecycle import runs_steps_itself
from workers.owner import owner_of
from workers.runtime import PerProcess
from workers.tasks import SWEEP

STOP_SECONDS = 5.0
LOOK_AFTER_SECONDS = 1.0
"""How soon the sweeper beside a prefork worker is replaced after its death."""


def _build_sweeper() -> Sweeper:
    runtime = app.runtime()
    return Sweeper(runtime.coordinator, runtime.database, run_locally=runtime.run_locally)


sweeper = PerProcess(_build_sweeper)
"""The process's one sweeper: a tick of beat that finds it sweeping is done at once."""


@app.task(name=SWEEP, queue=app.conf.task_default_queue, shared=False)
def sweep() -> None:
    """Sweep once; what beat sends. A sweep that finds no database leaves it to the next."""
    try:
        Processes(app.runtime().database).seen(sweeper_process(app.definitions))
        sweeper().run_once()
    except (LogUnavailableError, Moved) as error:
        emit("sweep.failed", error=str(error))


def _webhooks() -> WebhookLoop:
    runtime = app.runtime()
    return WebhookLoop.of(app.settings, runtime.database, runtime.client)


webhooks = PerProcess(_webhooks)


@app.task(name=PROCESS_WEBHOOKS, queue=app.conf.task_default_queue, shared=False)
def process_webhooks() -> None:
    """Process the webhooks that are due; what beat sends."""
    webhooks().run_once()


app.conf.beat_schedule = {
    **(app.conf.beat_schedule or {}),
    SWEEP: {
        "task": SWEEP,
        "schedule": app.settings.sweep_seconds,
        # Ticks that nobody took are dropped, instead of piling up in front of a stopped worker.
        "options": {"expires": app.settings.sweep_seconds},
    },
    PROCESS_WEBHOOKS: {
        "task": PROCESS_WEBHOOKS,
        "schedule": app.settings.sweep_seconds,
        "options": {"expires": app.settings.sweep_seconds},
    },
}


@app.task(name=RECONCILE, queue=app.conf.task_default_queue, shared=False)
def reconcile() -> None:
    """Reconcile yesterday once its hour has come; what beat sends, and any worker may take."""
    reconcile_if_due(app.settings, app.runtime().database, app.definitions)


if app.settings.reconcile_hour is not None:
    app.conf.beat_schedule[RECONCILE] = {
        "task": RECONCILE,
        "schedule": LOOK_EVERY_SECONDS,
        "options": {"expires": LOOK_EVERY_SECONDS},
    }


class SweeperInWorker(bootsteps.StartStopStep):
    """Sweeps in a thread of a threads worker, and hands it due work while the broker is away."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self.enabled = runs_steps_itself(worker) and worker.app.settings.workers_sweep
        self._loop: SweepLoop | None = None
        self._thread: threading.Thread | None = None

    def start(self, worker: Any) -> None:
        """Start the thread; nothing is opened before its first sweep."""
        self._loop = SweepLoop(
            sweeper(),
            worker.app.runtime().database,
            definitions=worker.app.definitions,
            interval_seconds=worker.app.settings.sweep_seconds,
            on_report=_ignore,
        )
        self._thread = threading.Thread(target=self._loop.run, name="amends-sweeper", daemon=True)
        self._thread.start()

    def stop(self, worker: Any) -> None:  # noqa: ARG002 - Celery's signature
        """Stop sweeping: a worker that ends rings for nothing any more."""
        if self._loop is not None and self._thread is not None:
            self._loop.stop()
            self._thread.join(timeout=STOP_SECONDS)


class WebhooksInWorker(bootsteps.StartStopStep):
    """Processes webhooks in a thread of a worker that sweeps: a slow gateway delays no sweep."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self.enabled = runs_steps_itself(worker) and worker.app.settings.workers_sweep
        self._loop: WebhookLoop | None = None

    def start(self, worker: Any) -> None:  # noqa: ARG002 - Celery's signature
        """Start the thread; nothing is opened before its first run."""
        self._loop = _webhooks().start()

    def stop(self, worker: Any) -> None:  # noqa: ARG002 - likewise
        """Process no more; whoever goes on has the rows."""
        if self._loop is not None:
            self._loop.stop()


class SweeperBesideWorker(bootsteps.StartStopStep):
    """Runs `amends sweep --beside` next to a prefork parent, which keeps no thread and no pool.

    The pipe to it is the parent's life: when it ends, however that happened, the sweeper ends.
    """

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self.enabled = not runs_steps_itself(worker) and worker.app.settings.workers_sweep
        self._process: subprocess.Popen[bytes] | None = None
        on_child_death(self._tell)

    def start(self, worker: Any) -> None:  # noqa: ARG002 - Celery's signature
        """Start it once; a broken broker connection restarts bootsteps, not processes."""
        if self._process is None or self._process.poll() is not None:
            self._start_process()

    def register_with_event_loop(self, worker: Any, hub: Any) -> None:  # noqa: ARG002 - likewise
        """Look after it from now on; Celery ends the timer with the connection it belongs to."""
        hub.call_repeatedly(LOOK_AFTER_SECONDS, self._replace_dead)

    def stop(self, worker: Any) -> None:  # noqa: ARG002 - Celery's signature
        """End its input and wait for it."""
        process, self._process = self._process, None
        if process is None:
            return
        _close(process.stdin)
        try:
            process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _start_process(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "recovery.cli", "sweep", "--beside"],
            stdin=subprocess.PIPE,
            close_fds=True,
            env=child_environment(),
        )

    def _replace_dead(self) -> None:
        """Called in the parent's event loop: whether it lives is asked, never waited for."""
        if self._process is None or (ended := self._process.poll()) is None:
            return
        emit("sweep.failed", error=f"the sweeper beside this worker ended ({ended}): replaced")
        _close(self._process.stdin)
        try:
            self._start_process()
        except OSError as error:
            emit("sweep.failed", error=f"no sweeper beside this worker: {error}")

    def _tell(self, pid: int) -> None:
        """Called in the parent's event loop: one short line into a pipe, or nothing."""
        line = f"died {owner_of(pid)}\n".encode()
        if not self._write(line):
            self._replace_dead()
            self._write(line)  # refused again, leases end by themselves

    def _write(self, line: bytes) -> bool:
        if self._process is None or self._process.stdin is None:
            return False
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except (OSError, ValueError):  # the sweeper is gone, or this end of its pipe is closed
            return False
        return True


def _ignore(report: SweepReport) -> None:
    """A sweep that found something has told the log already."""


def _close(pipe: IO[bytes] | None) -> None:
    try:
        if pipe is not None:
            pipe.close()
    except OSError:
        return  # the other end is gone, which is what closing is for


app.steps["worker"].add(SweeperInWorker)
app.steps["worker"].add(WebhooksInWorker)
app.steps["worker"].add(SweeperBesideWorker)
app.steps["worker"].add(AlertsInWorker)
