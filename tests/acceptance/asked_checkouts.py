"""A checkout that asks a person soon: few tries, short timeouts. Name it in AMENDS_SAGAS."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from orchestrator.definition import Retry, Step
from steps.checkout import checkout

FEW = Retry(max_attempts=2, base=timedelta(milliseconds=100), cap=timedelta(milliseconds=200))


def _soon(step: Step) -> Step:
    changes: dict[str, Any] = {"retry": FEW, "undo_retry": FEW, "probe_retry": FEW}
    return replace(step, timeout=timedelta(seconds=6), lag=timedelta(seconds=1), **changes)


ASKED = replace(checkout, version=9, steps=[_soon(each) for each in checkout.steps])
