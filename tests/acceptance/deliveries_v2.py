"""The sagas of the new deploy: the old one, and one with a step more and a step renamed."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.definition import HandOff
from tests.acceptance.deliveries_v1 import DELIVERY_1
from tests.outside_world import doing

__all__ = ["DELIVERY_1", "DELIVERY_2"]

RESERVE, _, SHIP = DELIVERY_1.steps

DELIVERY_2 = replace(
    DELIVERY_1,
    version=2,
    steps=[
        RESERVE,
        doing("insure", hand_off=HandOff.BROKER),
        doing("charge", hand_off=HandOff.BROKER),
        SHIP,
    ],
)
