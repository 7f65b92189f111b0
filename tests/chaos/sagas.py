"""Sagas that are made to be broken, or to be many."""

from __future__ import annotations

import os
import signal
from datetime import timedelta

from pydantic import BaseModel

from orchestrator.context import StepContext
from orchestrator.definition import Retry, SagaDefinition, step


class Nothing(BaseModel):
    """A saga that only has a number."""

    number: int


class Dose(BaseModel):
    """Whether the second step takes its process down."""

    is_poison: bool = False


def _pass(_: StepContext[Nothing]) -> None:
    """Nothing to do, so that only the engine works."""


def _swallow(context: StepContext[Dose]) -> None:
    if context.payload.is_poison:
        os.kill(os.getpid(), signal.SIGKILL)


_NOTHING = "none, because nothing was done"

NOOP = SagaDefinition(
    name="noop",
    version=1,
    payload=Nothing,
    steps=[step(each, _pass, no_compensation=_NOTHING) for each in ("first", "second")],
)

_QUICK = Retry(base=timedelta(milliseconds=50), cap=timedelta(milliseconds=100))

POISON = SagaDefinition(
    name="poison",
    version=1,
    payload=Dose,
    steps=[
        step("taste", _pass, no_compensation=_NOTHING, retry=_QUICK),
        step("swallow", _swallow, no_compensation=_NOTHING, retry=_QUICK, max_crashes=3),
    ],
)
