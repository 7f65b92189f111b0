"""Small sagas that worker processes import by name in tests."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from orchestrator.context import StepContext
from orchestrator.definition import HandOff, Retry, SagaDefinition, step
from orchestrator.errors import Terminal


class Trip(BaseModel):
    """What a test chooses.

    `directory` receives a file per call of a step. `fails` declines, `blocks` waits until the file
    ``open`` is there.
    """

    directory: str
    fails: str | None = None
    blocks: str | None = None


def _call(context: StepContext[Trip]) -> dict[str, Any]:
    trip = context.payload
    directory = Path(trip.directory)
    mark = directory / f"{context.step}.{context.direction}.{context.attempt}"
    mark.write_text(str(os.getpid()))
    if context.direction == "forward" and trip.fails == context.step:
        raise Terminal("declined", code="declined", decisive=True)
    if context.direction == "forward" and trip.blocks == context.step:
        while not (directory / "open").exists():
            time.sleep(0.02)
    return {"pid": os.getpid()}


def _undo(context: StepContext[Trip]) -> None:
    _call(context)


def _trip(name: str, hand_off: HandOff, queues: tuple[str, str, str]) -> SagaDefinition[Trip]:
    names = ("flight", "hotel", "car")
    return SagaDefinition(
        name=name,
        version=1,
        payload=Trip,
        steps=[
            step(
                each,
                _call,
                compensation=_undo,
                hand_off=hand_off,
                queue=queue,
                timeout=timedelta(seconds=60),
                retry=Retry(base=timedelta(milliseconds=50), cap=timedelta(milliseconds=100)),
            )
            for each, queue in zip(names, queues, strict=True)
        ],
    )


INLINE = _trip("inline_trip", HandOff.AUTO, ("amends", "amends", "amends"))
BROKERED = _trip("brokered_trip", HandOff.BROKER, ("amends", "amends", "amends"))
TWO_QUEUES = _trip("two_queue_trip", HandOff.AUTO, ("amends", "elsewhere", "amends"))
