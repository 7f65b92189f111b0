"""Three generations: an order starts a parcel, which starts a box that waits to be picked up."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from orchestrator.child_sagas import child_saga
from orchestrator.context import StepContext
from orchestrator.definition import Retry, SagaDefinition
from orchestrator.waits import wait_for
from tests.outside_world import Job, called, doing

TWICE = Retry(max_attempts=2, base=timedelta(milliseconds=20), cap=timedelta(milliseconds=50))


def same(ctx: StepContext[Job]) -> dict[str, Any]:
    """The child's payload: the parent's, but for what befalls the parent only."""
    called(ctx)
    return {"number": ctx.payload.number}


BOX = SagaDefinition(
    name="box",
    version=1,
    payload=Job,
    steps=[
        doing("pack", retry=TWICE, undo_retry=TWICE),
        wait_for("picked_up", within=timedelta(hours=1)),
    ],
)

PARCEL = SagaDefinition(
    name="parcel",
    version=1,
    payload=Job,
    steps=[doing("label"), child_saga("box", BOX, same, max_crashes=50)],
)

ORDER = SagaDefinition(
    name="order",
    version=1,
    payload=Job,
    steps=[
        doing("pay"),
        child_saga("parcel", PARCEL, same, max_crashes=50),
        doing("thank"),
    ],
)
