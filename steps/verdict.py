"""What was decided about an order before its payment, and why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Decision(StrEnum):
    """Go on, go on and let a person look later, or stop."""

    APPROVE = "approve"
    REVIEW = "review"
    BLOCK = "block"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A decision, the names of the rules that led to it, and the version of the set of rules."""

    decision: Decision
    reasons: tuple[str, ...]
    ruleset: str
