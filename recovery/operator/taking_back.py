"""The money that an undo gives back, when a person says that the undo is done."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.books import movements
from orchestrator.context import Movement
from orchestrator.entries import Json
from orchestrator.state import FoldedSaga

UNDOES: Mapping[str, str] = {"authorize": "void", "capture": "refund"}
"""What takes back which kind of movement."""


def taken_back(state: FoldedSaga, step: str, reference: str | None) -> list[dict[str, Json]]:
    """Return the movements that undo the step's outstanding effect, whole, under one reference.

    Empty where that effect moved no money, or none is known.
    """
    outstanding = state.effect_to_undo(step)
    if outstanding is None:
        return []
    is_one_of_many = len(state.step(step).effects) > 1
    return [
        Movement(
            kind=UNDOES[each.kind],
            amount_minor=each.minor,
            currency=each.currency,
            reference=reference,
        ).as_json()
        for each in movements(state.money)
        if each.step == step
        and each.kind in UNDOES
        and not (is_one_of_many and each.reference != outstanding.reference)
    ]
