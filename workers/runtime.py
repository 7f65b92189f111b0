"""What one process needs to run steps, built at its first use, anew after a fork."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from celery.app.trace import build_tracer
from celery.utils import uuid as new_task_id

from orchestrator.client import SagaClient
from orchestrator.doorbell import Ring
from orchestrator.storage.attempts import Attempts
from orchestrator.storage.database import Database
from orchestrator.storage.processes import Process, Processes
from workers.bootstrap import build_coordinator, build_engine, pool_size_of
from workers.draining import PutBack
from workers.hand_off import CeleryDoorbell, FallbackDoorbell, task_name
from workers.heartbeat import Heartbeat
from workers.owner import owner
from workers.slots import Slots
from workers.step_runner import StepRunner

if TYPE_CHECKING:
    from workers.saga_app import SagaApp

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

    def __init__(self, app: SagaApp) -> None:
        self._app = app
        engine = build_engine(app.settings, pool_size=pool_size_of(app.settings))
        self.database = Database(engine)
        self.slots = Slots()
        self.doorbell = FallbackDoorbell(CeleryDoorbell(app), self.run_locally)
        self.coordinator = build_coordinator(
            app.settings,
            database=self.database,
            doorbell=self.doorbell,
            definitions=app.definitions,
            owner=owner,
            drains=app.drain.has_begun,
        )
        self.client = SagaClient(engine, self.doorbell, definitions=app.definitions)
        put_back = PutBack()
        self.heartbeat = Heartbeat(
            coordinator=self.coordinator,
            processes=Processes(self.database),
            describe=self._describe,
            drain=app.drain,
            put_back=put_back,
            lease_seconds=app.settings.lease_seconds,
        )
        self.runner = StepRunner(
            app=app,
            coordinator=self.coordinator,
            serves=self.serves,
            drain=app.drain,
            put_back=put_back,
            begin=self.heartbeat.ensure,
            unring=Attempts(self.database).unring,
        )

    def serves(self, queue: str) -> bool:
        """Whether a next step of `queue` may run in this process, without the broker."""
        return self._app.settings.hand_off == "inline" and queue in self._consumed

    @property
    def _consumed(self) -> Any:
        return self._app.amqp.queues.consume_from

    def run_locally(self, ring: Ring) -> bool:
        """Run an attempt in a free thread of this worker; False when there is none.

        The same task, claim and record as if the message had come from the broker.
        """
        name = task_name(ring.definition, ring.step, ring.direction)
        task = self._app.tasks.get(name)
        if task is None or ring.queue not in self._consumed:
            return False
        return self.slots.start(lambda: self._trace(task, ring))

    def _trace(self, task: Any, ring: Ring) -> None:
        if task.__trace__ is None:
            task.__trace__ = build_tracer(task.name, task, self._app.loader, app=self._app)
        task_id = new_task_id()
        kwargs = {"saga_id": str(ring.saga_id), "attempt": ring.attempt}
        request = {
            "id": task_id,
            "task": task.name,
            "root_id": task_id,
            "correlation_id": task_id,
            "delivery_info": {"exchange": "", "routing_key": ring.queue, "redelivered": False},
            "ignore_result": True,
            "is_eager": False,
            "retries": 0,
        }
        task.__trace__(task_id, (), kwargs, request)

    def close(self) -> None:
        """Ring for what was put back and leave the register; connections end with the process."""
        self.heartbeat.close()

    def _describe(self) -> Process:
        return Process(
            owner=owner(),
            kind=f"worker-{self._app.settings.pool}",
            queues=sorted(self._consumed),
            definition_hashes=self._app.definitions.hashes,
            amends_version=version("amends"),
        )
