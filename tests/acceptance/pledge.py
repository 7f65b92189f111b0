"""A saga that parks with money in its hands."""

from __future__ import annotations

from pydantic import BaseModel

from orchestrator.context import Effect, Movement, StepContext
from orchestrator.definition import SagaDefinition, step
from orchestrator.errors import Terminal


class Pledge(BaseModel):
    """Somebody's money, and a secret of theirs."""

    name: str


def _hold(context: StepContext[Pledge]) -> Effect:
    return Effect(
        value={"holder": context.payload.name},
        reference="p-1",
        movements=[Movement(kind="authorize", amount_minor=1990, currency="EUR")],
    )


def _refuse(_: StepContext[Pledge]) -> None:
    raise Terminal("no", decisive=True)


PLEDGE = SagaDefinition(
    name="pledge",
    version=1,
    payload=Pledge,
    steps=[step("hold", _hold, compensation=_refuse), step("deliver", _refuse, pivot=True)],
)
