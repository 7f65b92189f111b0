"""What a person is asked when an effect is heard of only after its saga has ended."""

from __future__ import annotations

from orchestrator.entries import (
    Direction,
    EffectReported,
    Entry,
    LateOutcomeRecorded,
    UndoFailed,
)


def late_question(fact: Entry) -> str | None:
    """Return what a fact about an ended saga asks, or None: it asks nothing.

    A late success of an undo tells nothing reliable, and a late failure had no effect.
    """
    match fact:
        case LateOutcomeRecorded(direction=Direction.FORWARD, outcome="succeeded"):
            what = "took effect"
        case LateOutcomeRecorded(direction=Direction.FORWARD, outcome="waiting"):
            what = "began something that may take effect"
        case EffectReported():
            what = "took effect"
        case UndoFailed():
            what = "is not undone after all"
        case _:
            return None
    named = f" as {fact.reference}" if fact.reference else ""
    return (
        f"{fact.step} {what}{named}, and that was heard only after the saga had ended. A worker "
        "that has its definition acts on it; of a saga that was resolved nobody does: is it put "
        "right?"
    )
