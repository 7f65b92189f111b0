"""The Celery tasks: one per step, compensation and probe, and the one that starts sagas."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from celery import Celery
from celery.exceptions import Reject

from orchestrator.definition import DEFAULT_QUEUE, Step
from orchestrator.definitions import Definitions
from orchestrator.entries import Direction
from orchestrator.errors import AmendsError, LogUnavailableError
from orchestrator.instrumentation import emit
from workers.address import Address
from workers.draining import Drain
from workers.runtime import Runtime

START = "amends.start"
SWEEP = "amends.sweep"

STEP_REQUEST = "workers.step_request:StepRequest"
START_REQUEST = "workers.redacted_request:RedactedRequest"

START_PATIENCE_SECONDS = 30.0
"""How long a start by message is offered to a database that does not answer."""


def register(
    app: Celery, definitions: Definitions, runtime: Callable[[], Runtime], drain: Drain
) -> None:
    """Give `app` its tasks; `runtime` is asked when one of them runs."""
    for address in addresses(definitions):
        _register_step(app, address, runtime)
    _register_start(app, runtime, drain)


def addresses(definitions: Definitions) -> Iterable[Address]:
    """Return what every task stands for. The versions of a definition share their tasks."""
    found: dict[str, Address] = {}
    for definition in sorted(definitions, key=lambda each: (each.name, each.version)):
        for step in definition.steps:
            for direction in _directions(step):
                address = Address(
                    definition=definition.name,
                    step=step.name,
                    direction=direction,
                    queue=step.queue,
                )
                found[address.task] = address
    return found.values()


def queues(definitions: Definitions) -> list[str]:
    """Return the names of all queues that the definitions' steps use, the default one first."""
    named = {step.queue for definition in definitions for step in definition.steps}
    return [DEFAULT_QUEUE, *sorted(named - {DEFAULT_QUEUE})]


def _directions(step: Step) -> Iterable[Direction]:
    yield Direction.FORWARD
    if step.compensation is not None:
        yield Direction.COMPENSATE
    if step.probe is not None:
        yield Direction.PROBE
    if step.undo_probe is not None:
        yield Direction.PROBE_UNDO


def _register_step(app: Celery, address: Address, runtime: Callable[[], Runtime]) -> None:
    def answer(*args: Any, **kwargs: Any) -> None:
        here = runtime()
        with here.slots:
            here.runner.answer(address, kwargs, args)

    _add(app, answer, address.task, address.queue, Request=STEP_REQUEST)


def _register_start(app: Celery, runtime: Callable[[], Runtime], drain: Drain) -> None:
    def start(*args: Any, **kwargs: Any) -> None:
        if args:
            emit("start.refused", error="give saga, key and payload as named arguments")
            return
        start_saga(runtime, drain, kwargs)

    # This message is not a hint: it holds the only copy of a payload until the saga exists.
    late = {"acks_late": True, "reject_on_worker_lost": True}
    _add(app, start, START, DEFAULT_QUEUE, Request=START_REQUEST, **late)


def _add(app: Any, function: Callable[..., None], name: str, queue: str, **options: Any) -> None:
    app.task(
        function,
        name=name,
        queue=queue,
        shared=False,  # never on another Celery app of this process
        typing=False,  # whatever a message holds, the body looks at it itself
        **options,
    )


def start_saga(runtime: Callable[[], Runtime], drain: Drain, arguments: Mapping[str, Any]) -> None:
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
            runtime().client.start(saga, payload, key=key)
        except LogUnavailableError as error:
            if drain.has_begun() or time.monotonic() > until:
                raise Reject(str(error), requeue=True) from error
            time.sleep(0.5)
        except AmendsError as error:
            emit("start.refused", saga=saga, key=key, error=f"{type(error).__name__}: {error}")
            return
        else:
            return
