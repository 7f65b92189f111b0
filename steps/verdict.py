"""What was decided about an order, why, and what every rule said that was asked."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Decision(StrEnum):
    """Go on, go on and let a person look later, have the payer authenticate, or stop."""

    APPROVE = "approve"
    REVIEW = "review"
    CHALLENGE = "challenge"
    BLOCK = "block"


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """What one rule said: a decision, points, or neither, which is *no opinion*.

    `error` names the class of what the rule raised; never its message, which may hold an address.
    """

    rule: str
    decision: Decision | None = None
    points: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A decision, the names of the rules that led to it, and the version of the set of rules."""

    decision: Decision
    reasons: tuple[str, ...]
    ruleset: str
    opinions: tuple[Opinion, ...] = ()
