"""Sagas that wait: for a signal, for a signal within seconds, and for time to pass."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from orchestrator.context import Effect, StepContext
from orchestrator.definition import SagaDefinition
from orchestrator.errors import Wait
from orchestrator.waits import sleep, wait_for
from tests.outside_world import Job, act, doing

NAP = timedelta(seconds=2)
SHORT = timedelta(seconds=2)


def approve(ctx: StepContext[Job]) -> Effect:
    """Wait for the approval, then do the deed with it."""
    if not ctx.waited:
        raise Wait("approved", ctx.now + timedelta(hours=1))
    return replace(act(ctx), value=ctx.signal)


APPROVAL = SagaDefinition(
    name="approval",
    version=1,
    payload=Job,
    steps=[doing("file"), doing("approve", run=approve), doing("tell", pivot=True)],
)

HURRY = SagaDefinition(
    name="hurry",
    version=1,
    payload=Job,
    steps=[doing("file"), wait_for("approved", within=SHORT), doing("tell", pivot=True)],
)

SLEEPER = SagaDefinition(
    name="sleeper",
    version=1,
    payload=Job,
    steps=[doing("file"), sleep("rest", NAP), doing("tell", pivot=True)],
)

PATIENT = SagaDefinition(
    name="patient",
    version=1,
    payload=Job,
    steps=[wait_for("approved", within=timedelta(days=1)), doing("tell", pivot=True)],
)
