"""What a step's task does: claim, run, record, and go on in place while the road leads on here.

    message ─► outermost task: claim ─► execute ─► next attempt, already claimed?
                                                     │ yes: run its task through Celery's tracer,
                                                     │      here, and look again
                                                     └ no: done

The loop is in the outermost task, so a saga of a hundred steps is two frames deep, and every step
is a Celery task with its own id, signals and name. The tracer hands no objects over; the claim
travels beside it, in a thread-local slot, and a task whose message names another attempt (or none)
never finds it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from celery import Celery
from celery.app.trace import build_tracer
from celery.utils import uuid as new_task_id
from structlog.contextvars import bind_contextvars, reset_contextvars

from orchestrator.coordinator import Claim, Coordinator
from orchestrator.doorbell import Ring
from orchestrator.errors import LogUnavailableError
from orchestrator.instrumentation import emit
from orchestrator.planning import Serves
from orchestrator.storage.rows import AttemptId
from workers.draining import Drain, PutBack
from workers.hand_off import task_name

MAX_ATTEMPT = 2**31 - 1
"""The column is an integer of Postgres."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """What a step's task stands for."""

    definition: str
    step: str
    direction: str
    queue: str


class _Slot(threading.local):
    claim: Claim | None = None
    following: Claim | None = None


class StepRunner:
    """Runs the attempts that messages name.

    Args:
        serves: whether the next step of a queue may run in this worker.
        begin: called before the first claim of a process: starts its heartbeat.
        unring: told of a ring that led to no claim. If the attempt still waits, its saga is one
            that only other workers know: they should not have to wait for this ring to be missed.
    """

    def __init__(
        self,
        *,
        app: Celery,
        coordinator: Coordinator,
        serves: Serves,
        drain: Drain,
        put_back: PutBack,
        begin: Callable[[], None],
        unring: Callable[[Sequence[Ring]], None],
    ) -> None:
        self._app = app
        self._coordinator = coordinator
        self._serves = serves
        self._drain = drain
        self._put_back = put_back
        self._begin = begin
        self._unring = unring
        self._slot = _Slot()

    def answer(self, address: Address, arguments: Mapping[str, Any], args: object = ()) -> None:
        """Run the attempt that a message names, if it is there to be run.

        Never raises for what a message says: a forged or damaged one is told of and ignored.
        """
        attempt = attempt_of(address, arguments)
        if attempt is None or args:
            emit("message.ignored", task=_name(address), reason="not the id of an attempt")
            return
        handed = self._take_handed()
        if handed is not None and handed.attempt == attempt:
            self._slot.following = self._execute(handed)
            return
        try:
            self._run(address, attempt)
        except LogUnavailableError as error:
            emit("attempt.left", saga_id=attempt.saga_id, step=attempt.step, error=str(error))

    def _run(self, address: Address, attempt: AttemptId) -> None:
        if self._drain.has_begun():
            self._put_back.add(_ring(address, attempt))
            return
        self._begin()
        claim = self._coordinator.claim(attempt)
        if claim is None:
            emit("message.stale", saga_id=attempt.saga_id, step=attempt.step)
            self._unring([_ring(address, attempt)])
            return
        following = self._execute(claim)
        while following is not None:
            following = self._trace_in_place(following)

    def _execute(self, claim: Claim) -> Claim | None:
        attempt = claim.attempt
        tokens = bind_contextvars(
            saga_id=str(attempt.saga_id),
            saga=claim.saga.definition,
            step=attempt.step,
            direction=str(attempt.direction),
            attempt=attempt.number,
        )
        try:
            return self._coordinator.execute(claim, self._serves)
        finally:
            reset_contextvars(**tokens)

    def _trace_in_place(self, claim: Claim) -> Claim | None:
        """Run a claimed attempt as the Celery task it is; return what follows it."""
        attempt = claim.attempt
        name = task_name(claim.saga.definition, attempt.step, attempt.direction)
        task = self._app.tasks[name]
        if task.__trace__ is None:
            task.__trace__ = build_tracer(name, task, self._app.loader, app=self._app)
        task_id = new_task_id()
        kwargs = {"saga_id": str(attempt.saga_id), "attempt": attempt.number}
        self._slot.claim, self._slot.following = claim, None
        task.__trace__(task_id, (), kwargs, self._request(task, task_id))
        left = self._take_handed()
        if left is not None:  # something in front of the task's body kept it from running
            return self._execute(left)
        following, self._slot.following = self._slot.following, None
        return following

    def _take_handed(self) -> Claim | None:
        handed, self._slot.claim = self._slot.claim, None
        return handed

    def _request(self, task: Any, task_id: str) -> dict[str, Any]:
        outer = self._app.current_worker_task
        parent = outer.request if outer is not None else None
        return {
            "id": task_id,
            "task": task.name,
            "root_id": (parent.root_id or parent.id) if parent is not None else task_id,
            "parent_id": parent.id if parent is not None else None,
            "correlation_id": task_id,
            "hostname": parent.hostname if parent is not None else None,
            "delivery_info": {"exchange": "", "routing_key": task.queue, "redelivered": False},
            "ignore_result": True,
            "is_eager": False,
            "retries": 0,
        }


def attempt_of(address: Address, arguments: Mapping[str, Any]) -> AttemptId | None:
    """Return the attempt that a message's arguments name, or None when they name none."""
    saga_id, number = arguments.get("saga_id"), arguments.get("attempt")
    if not isinstance(saga_id, str) or type(number) is not int:
        return None
    if not 0 < number <= MAX_ATTEMPT:
        return None
    try:
        identity = UUID(saga_id)
    except ValueError:
        return None
    return AttemptId(
        saga_id=identity, step=address.step, direction=address.direction, number=number
    )


def _ring(address: Address, attempt: AttemptId) -> Ring:
    return Ring(
        definition=address.definition,
        saga_id=attempt.saga_id,
        step=attempt.step,
        direction=attempt.direction,
        attempt=attempt.number,
        queue=address.queue,
    )


def _name(address: Address) -> str:
    return task_name(address.definition, address.step, address.direction)
