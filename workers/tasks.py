"""The Celery tasks: one per step and per compensation, and the one that starts sagas."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from celery.exceptions import Reject

from orchestrator.definition import DEFAULT_QUEUE, Definitions, Step
from orchestrator.entries import Direction
from orchestrator.errors import AmendsError, LogUnavailableError
from orchestrator.instrumentation import emit
from workers.hand_off import task_name
from workers.step_runner import Address

if TYPE_CHECKING:
    from workers.saga_app import SagaApp

START = "amends.start"
SWEEP = "amends.sweep"

START_PATIENCE_SECONDS = 30.0
"""How long a start by message is offered to a database that does not answer."""


def register(app: SagaApp) -> None:
    """Give `app` its tasks."""
    for address in addresses(app.definitions):
        _register_step(app, address)
    _register_start(app)


def addresses(definitions: Definitions) -> Iterable[Address]:
    """Return what every task stands for. The versions of a definition share their tasks."""
    found: dict[str, Address] = {}
    for definition in sorted(definitions, key=lambda each: (each.name, each.version)):
        for step in definition.steps:
            for direction in _directions(step):
                name = task_name(definition.name, step.name, direction)
                found[name] = Address(
                    definition=definition.name,
                    step=step.name,
                    direction=direction,
                    queue=step.queue,
                )
    return found.values()


def queues(definitions: Definitions) -> list[str]:
    """Return the names of all queues that the definitions' steps use, the default one first."""
    named = {step.queue for definition in definitions for step in definition.steps}
    return [DEFAULT_QUEUE, *sorted(named - {DEFAULT_QUEUE})]


def _directions(step: Step) -> Iterable[Direction]:
    if step.compensation is None:
        return (Direction.FORWARD,)
    return (Direction.FORWARD, Direction.COMPENSATE)


def _register_step(app: SagaApp, address: Address) -> None:
    def answer(*args: Any, **kwargs: Any) -> None:
        runtime = app.runtime()
        with runtime.slots:
            runtime.runner.answer(address, kwargs, args)

    _add(app, answer, task_name(address.definition, address.step, address.direction), address.queue)


def _register_start(app: SagaApp) -> None:
    def start(*args: Any, **kwargs: Any) -> None:
        if args:
            emit("start.refused", error="give saga, key and payload as named arguments")
            return
        start_saga(app, kwargs)

    # This message is not a hint: it holds the only copy of a payload until the saga exists.
    _add(app, start, START, DEFAULT_QUEUE, acks_late=True, reject_on_worker_lost=True)


def _add(app: Any, function: Callable[..., None], name: str, queue: str, **options: bool) -> None:
    app.task(
        function,
        name=name,
        queue=queue,
        shared=False,  # never on another Celery app of this process
        typing=False,  # whatever a message holds, the body looks at it itself
        **options,
    )


def start_saga(app: SagaApp, arguments: Mapping[str, Any]) -> None:
    """Start the saga that a message asks for; idempotent, as every start.

    A start that can never succeed is told of and dropped.

    Raises:
        Reject: Postgres does not answer; the message goes back to its queue.
    """
    saga, key = arguments.get("saga"), arguments.get("key")
    payload = arguments.get("payload")
    if not (isinstance(saga, str) and isinstance(key, str) and isinstance(payload, Mapping)):
        emit("start.refused", error="saga and key must be strings, and payload an object")
        return
    until = time.monotonic() + START_PATIENCE_SECONDS
    while True:
        try:
            app.runtime().client.start(saga, payload, key=key)
        except LogUnavailableError as error:
            if app.drain.has_begun() or time.monotonic() > until:
                raise Reject(str(error), requeue=True) from error
            time.sleep(0.5)
        except AmendsError as error:
            emit("start.refused", saga=saga, key=key, error=f"{type(error).__name__}: {error}")
            return
        else:
            return
