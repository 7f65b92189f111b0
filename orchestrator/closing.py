"""The closing check: what a definition wants to see in the books before its saga may end.

The engine knows movements, not prices. A definition that handles money declares a function of the
replayed saga which answers before a terminal state is recorded: it may end, it has to wait (an
accepted refund is not settled yet), or it must stop in front of an operator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from orchestrator.books import Balance, Moved
from orchestrator.entries import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """A saga that is about to end.

    Args:
        outcome: ``completed`` or ``compensated``.
        payload: as it was given at the start, as JSON.
        skipped: steps whose condition was false.
        books: what was moved, by currency.
        movements: one by one.
        now: the database's time; pure, so that the answer can be replayed.
    """

    outcome: str
    payload: Json
    skipped: frozenset[str]
    books: Mapping[str, Balance]
    movements: Sequence[Moved]
    now: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """The saga may end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldOn:
    """Look again at `until`, or when something more was heard."""

    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Park the saga: `question` is what an operator has to answer, with the amount at risk."""

    question: str


ClosingCheck = Callable[[Closing], Close | HoldOn | Stop]
"""Must be pure: it is asked again whenever the log is replayed."""


def may_always(_closing: Any) -> Close:
    """Let every saga end: for definitions that move no money."""
    return Close()
