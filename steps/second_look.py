"""A question in place of an answer that can never come.

A gateway that keeps its failures replays a 500 for as long as the key lives, and one that holds a
key with other parameters will not say what it did under it. Sending again settles neither. Asking
does, when it finds something: *found* is proof. *Not found* is not, so then the outcome stays
unknown and the engine decides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from orchestrator.errors import OutcomeUnknown, Retriable
from steps.gateways.errors import GatewayServerError, KeyConflictError

T = TypeVar("T")


def call_or_find(call: Callable[[], T], find: Callable[[], T | None]) -> T:
    """Return what `call` answers or, where its answer settles nothing, what `find` finds.

    Raises:
        StepError: as `call` raised it; a question that got no answer adds nothing to it.
    """
    try:
        return call()
    except (GatewayServerError, KeyConflictError) as error:
        if isinstance(error, GatewayServerError) and not error.is_replayed:
            raise  # the next attempt may be told what happened
        found = found_if_answered(find)
        if found is None:
            raise
        return found


def found_if_answered(find: Callable[[], T | None]) -> T | None:
    """Return what `find` finds; None also where nobody answers, or no time is left to ask."""
    try:
        return find()
    except (Retriable, OutcomeUnknown):
        return None
