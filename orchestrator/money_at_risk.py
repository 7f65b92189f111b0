"""Which money a saga's log leaves open: held and not let go, or taken and not given back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.books import books
from orchestrator.entries import (
    Direction,
    MovementSettled,
    Recorded,
    StepSettled,
    UnreadableEntry,
    believed,
)
from orchestrator.errors import HistoryError


@dataclass(frozen=True, slots=True, kw_only=True)
class MoneyAtRisk:
    """Open amounts of one currency in minor units, never negative."""

    held_minor: int = 0
    captured_minor: int = 0


def money_at_risk(entries: Iterable[Recorded]) -> Mapping[str, MoneyAtRisk]:
    """Return the open amounts by currency; empty when nothing is open.

    Held is what was authorized and neither captured nor voided, captured what was captured and not
    refunded, each summed over the saga. Of what nobody could look up, what was done counts, and
    what was given back does not.

    Raises:
        HistoryError: an entry cannot be read, so what it tells of is not known.
    """
    facts = believed(entries)
    told: list[object] = [each.entry for each in facts]
    if any(isinstance(each, UnreadableEntry) for each in told):
        raise HistoryError("an entry cannot be read, so what is at risk is not known")
    cautious = [each for each in facts if not _gives_back_by_word(each)]
    found = {
        currency: MoneyAtRisk(held_minor=each.held, captured_minor=max(0, each.kept))
        for currency, each in sorted(books(cautious, words=True).items())
    }
    return {currency: each for currency, each in found.items() if each != MoneyAtRisk()}


def _gives_back_by_word(recorded: Recorded) -> bool:
    match recorded.entry:
        case StepSettled(unverified=True, direction=Direction.COMPENSATE):
            return True
        case MovementSettled(unverified=True):
            return True
        case _:
            return False
