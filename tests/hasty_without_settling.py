"""A worker that imports this takes sagas back without first asking what is unknown."""

from __future__ import annotations

from typing import Any

from orchestrator import going_forward
from tests.hasty_checkouts import FORGETFUL, HASTY

__all__ = ["FORGETFUL", "HASTY"]


def unwind_at_once(_definition: Any, state: Any, _now: Any, _seed: Any, trouble: Any) -> Any:
    return () if state.is_open else (trouble,)


unprotected: Any = going_forward
unprotected._turning_round = unwind_at_once
