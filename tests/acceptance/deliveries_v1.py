"""The sagas of the old deploy."""

from __future__ import annotations

from orchestrator.definition import HandOff, SagaDefinition
from tests.outside_world import Job, doing

DELIVERY_1 = SagaDefinition(
    name="delivery",
    version=1,
    payload=Job,
    steps=[
        doing("reserve", hand_off=HandOff.BROKER),
        doing("pay", hand_off=HandOff.BROKER),
        doing("ship", pivot=True, hand_off=HandOff.BROKER),
    ],
)
