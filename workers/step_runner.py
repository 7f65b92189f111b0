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
from typing import Any

from celery import Celery
from structlog.contextvars import bind_contextvars, reset_contextvars

from orchestrator.coordinator import Claim, Coordinator
from orchestrator.doorbell import Ring
from orchestrator.errors import LogUnavailableError
from orchestrator.instrumentation import emit
from orchestrator.planning import Serves
from orchestrator.storage.rows import AttemptId
from workers.address import Address, attempt_of, ring_of
from workers.draining import Drain, PutBack
from workers.hand_off import task_name
from workers.in_place import run_in_place


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
            emit("message.ignored", task=address.task, reason="not the id of an attempt")
            return
        handed = self._take_handed()
        if handed is not None and handed.attempt == attempt:
            self._slot.following = self._execute(handed)
            return
        try:
            self._run(address, attempt)
        except LogUnavailableError as error:
            emit("attempt.left", saga_id=attempt.saga_id, step=attempt.step, error=str(error))

    def disown(self, address: Address, arguments: Mapping[str, Any]) -> None:
        """Note of a step that only other workers have that its ring led to nothing.

        The message is gone for them: they should not have to wait for it to be missed.
        """
        attempt = attempt_of(address, arguments)
        if attempt is None:
            return
        try:
            self._unring([ring_of(address, attempt)])
        except LogUnavailableError as error:
            emit("attempt.left", saga_id=attempt.saga_id, step=attempt.step, error=str(error))

    def _run(self, address: Address, attempt: AttemptId) -> None:
        if self._drain.has_begun():
            self._put_back.add(ring_of(address, attempt))
            return
        self._begin()
        if self._coordinator.puts_off(address.definition, attempt):
            return
        claim = self._coordinator.claim(attempt)
        if claim is None:
            emit("message.stale", saga_id=attempt.saga_id, step=attempt.step)
            self._unring([ring_of(address, attempt)])
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
        self._slot.claim, self._slot.following = claim, None
        run_in_place(self._app, name, attempt)
        left = self._take_handed()
        if left is not None:  # something in front of the task's body kept it from running
            return self._execute(left)
        following, self._slot.following = self._slot.following, None
        return following

    def _take_handed(self) -> Claim | None:
        handed, self._slot.claim = self._slot.claim, None
        return handed
