"""What one process needs to run steps, built at its first use, anew after a fork."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, Generic, TypeVar

from celery import Celery

from orchestrator.client import SagaClient
from orchestrator.definitions import Definitions
from orchestrator.doorbell import Ring
from orchestrator.storage.attempts import Attempts, attempt_of
from orchestrator.storage.database import Database
from orchestrator.storage.processes import Process, Processes
from workers.bootstrap import (
    build_coordinator,
    build_engine,
    build_process_session,
    pool_size_of,
)
from workers.consumption import STALLED, Busy, ConsumerWatch, Consumption
from workers.draining import Drain, PutBack
from workers.hand_off import CeleryDoorbell, FallbackDoorbell, task_name
from workers.heartbeat import Heartbeat
from workers.hung_steps import HungSteps
from workers.in_place import run_in_place
from workers.owner import owner, pid_space, pid_started
from workers.settings import Settings
from workers.slots import Slots
from workers.step_runner import StepRunner

T = TypeVar("T")


class PerProcess(Generic[T]):
    """One instance per process: a forked child builds its own."""

    def __init__(self, build: Callable[[], T]) -> None:
        self._build = build
        self._lock = threading.Lock()
        self._pid = 0
        self._instance: T | None = None
        os.register_at_fork(after_in_child=self._forget)

    def __call__(self) -> T:
        """Return this process's instance, built at the first call."""
        instance = self._instance
        if instance is not None:
            return instance
        with self._lock:
            if self._instance is None:
                self._instance = self._build()
            return self._instance

    @property
    def built(self) -> T | None:
        """This process's instance, or None when nothing has asked for it yet."""
        return self._instance

    def _forget(self) -> None:
        self._lock, self._instance = threading.Lock(), None


class Runtime:
    """Everything that runs steps in this process. Opens nothing before the first attempt."""

    def __init__(
        self,
        app: Celery,
        *,
        settings: Settings,
        definitions: Definitions,
        drain: Drain,
        consumption: Consumption,
    ) -> None:
        self._app, self._settings, self._definitions = app, settings, definitions
        engine = build_engine(settings, pool_size=pool_size_of(settings))
        self.database = Database(engine)
        self.slots = Slots()
        self.busy = Busy()
        self.attempts = Attempts(self.database)
        self.doorbell = FallbackDoorbell(CeleryDoorbell(app), self.run_locally)
        self.coordinator = build_coordinator(
            settings,
            database=self.database,
            doorbell=self.doorbell,
            definitions=definitions,
            owner=owner,
            drains=drain.has_begun,
        )
        self.client = SagaClient(engine, self.doorbell, definitions=definitions)
        put_back = PutBack()
        self.heartbeat = Heartbeat(
            coordinator=self.coordinator,
            processes=Processes(self.database),
            session=build_process_session(settings),
            describe=self._describe,
            drain=drain,
            put_back=put_back,
            lease_seconds=settings.lease_seconds,
            grace_seconds=settings.grace_seconds,
            hung=HungSteps(
                self.coordinator,
                replace=self.slots.replace,
                replaced=lambda: self.slots.replaced,
                limit=settings.max_hung_threads,
            ),
        )
        self.runner = StepRunner(
            app=app,
            coordinator=self.coordinator,
            serves=self.serves,
            drain=drain,
            put_back=put_back,
            begin=self.heartbeat.ensure,
            unring=self.attempts.unring,
        )
        self.watch = ConsumerWatch(
            consumption,
            stall_seconds=settings.stall_seconds,
            has_room=self._has_room,
            waiting=self._waiting,
            on_unheard=self._end_unheard,
        )
        self._drain = drain

    def serves(self, queue: str) -> bool:
        """Whether a next step of `queue` may run in this process, without the broker."""
        return self._settings.hand_off == "inline" and queue in self._consumed

    @property
    def _consumed(self) -> Any:
        return self._app.amqp.queues.consume_from

    def run_locally(self, ring: Ring) -> bool:
        """Run an attempt in a free thread of this worker; False when there is none.

        The same task, claim and record as if the message had come from the broker.
        """
        name = task_name(ring.definition, ring.step, ring.direction)
        if name not in self._app.tasks or ring.queue not in self._consumed:
            return False
        return self.slots.start(lambda: run_in_place(self._app, name, attempt_of(ring)))

    def _has_room(self) -> bool:
        """Whether one more step could run in this process; a child of a prefork worker runs one."""
        at_work = self.busy.threads - self.slots.replaced
        return at_work < (self._settings.concurrency if self._settings.pool == "threads" else 1)

    def _waiting(self, age_seconds: float) -> Sequence[str]:
        """Queues of ours with messages, for attempts of ours that are due for so long."""
        late = self.attempts.late_queues(
            sorted(self._consumed), self._definitions.hashes, age_seconds
        )
        return [each for each in late if self.doorbell.depth(each)]

    def _end_unheard(self) -> None:
        """End a worker whose main process hangs: hand on what runs here, or kill the parent.

        The children of a prefork worker die with it, and a supervisor sees how it ended.
        """
        if self._settings.pool == "prefork":
            os.kill(os.getppid(), signal.SIGKILL)
        else:
            self._drain.begin(self._settings.grace_seconds, exit_code=STALLED)

    def close(self) -> None:
        """Ring for what was put back and leave the register; connections end with the process."""
        self.heartbeat.close()

    def _describe(self) -> Process:
        return Process(
            owner=owner(),
            kind=f"worker-{self._settings.pool}",
            queues=sorted(self._consumed),
            definition_hashes=self._definitions.hashes,
            amends_version=version("amends"),
            pid_space=pid_space(),
            pid=os.getpid() if pid_space() else None,
            pid_started=pid_started(),
        )
