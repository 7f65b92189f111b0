"""Checkouts that are as patient as a test can be: versions 7 and 8 of the same saga.

Version 8 knows that its gateway forgets a key after four seconds. Name this module in AMENDS_SAGAS.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from orchestrator.definition import Retry, SagaDefinition, Step
from steps.checkout import checkout

QUICK = Retry(max_attempts=3, base=timedelta(milliseconds=100), cap=timedelta(milliseconds=300))
FORGETS = timedelta(seconds=4)
QUIET_SECONDS = 8.0
"""Timeout and lag together: from when on "not there" is believed."""


def _hastily(step: Step, **changes: Any) -> Step:
    if step.probe is None:
        return step
    quick = {"retry": QUICK, "probe_retry": replace(QUICK, max_attempts=6), **changes}
    return replace(step, timeout=timedelta(seconds=7), lag=timedelta(seconds=1), **quick)


def _version(number: int, **changes: Any) -> SagaDefinition[Any]:
    steps = [_hastily(each, **changes) for each in checkout.steps]
    return replace(checkout, version=number, steps=steps)


HASTY = _version(7)
FORGETFUL = _version(8, key_life=FORGETS)
