"""The sagas and tasks that the benchmark runs: four steps that do nothing."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from orchestrator.definition import HandOff, SagaDefinition, step

NOTHING = "none, because it does nothing"


class Nothing(BaseModel):
    """The smallest payload."""

    number: int


def do_nothing(context: Any) -> None:
    """Do nothing, as a step."""


def _definition(name: str, hand_off: HandOff) -> SagaDefinition[Nothing]:
    return SagaDefinition(
        name=name,
        version=1,
        payload=Nothing,
        steps=[
            step(f"step_{number}", do_nothing, no_compensation=NOTHING, hand_off=hand_off)
            for number in range(1, 5)
        ],
    )


inline = _definition("noop_inline", HandOff.AUTO)
brokered = _definition("noop_brokered", HandOff.BROKER)
