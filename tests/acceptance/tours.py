"""A saga whose steps run side by side and join, with a branch that is two steps deep."""

from __future__ import annotations

from dataclasses import replace

from pydantic import BaseModel

from orchestrator.context import Effect, StepContext
from orchestrator.definition import SagaDefinition
from tests.outside_world import Job, act, doing

PRICES = {"flight": 200, "hotel": 120, "car": 45}


class Leg(BaseModel):
    """What one branch hands to the step that joins them."""

    place: str
    price: int


def book(ctx: StepContext[Job]) -> Effect:
    """Do the deed of one branch; its result is a `Leg`."""
    leg = Leg(place=f"{ctx.step} of {ctx.payload.number}", price=PRICES[ctx.step])
    return replace(act(ctx), value=leg)


def total(ctx: StepContext[Job]) -> Effect:
    """Join the branches: what they cost together."""
    legs = [ctx.result(name, Leg) for name in PRICES]
    return replace(act(ctx), value=sum(each.price for each in legs))


TOUR = SagaDefinition(
    name="tour",
    version=1,
    payload=Job,
    steps=[
        doing("draft"),
        doing("flight", run=book, after=["draft"]),
        doing("seat", after=["flight"]),
        doing("hotel", run=book, after=["draft"]),
        doing("car", run=book, after=["draft"], queue="garage"),
        doing("invoice", run=total, after=["seat", "hotel", "car"]),
        doing("depart", pivot=True, after=["invoice"]),
    ],
)
