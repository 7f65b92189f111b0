"""A checkout in small: two steps that can be undone, the pivot, and one to be repeated."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from orchestrator.definition import HandOff, SagaDefinition
from tests.outside_world import Job, doing

ERRAND = SagaDefinition(
    name="errand",
    version=1,
    payload=Job,
    steps=[
        doing("reserve", hand_off=HandOff.BROKER),
        doing("pay", hand_off=HandOff.BROKER),
        doing("ship", pivot=True, hand_off=HandOff.BROKER),
        doing("mail", retriable=True, hand_off=HandOff.BROKER),
    ],
)

URGENT = replace(ERRAND, name="urgent", deadline=timedelta(seconds=3))
