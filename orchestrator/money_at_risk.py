"""Which money a saga's log leaves open: held and not let go, or taken and not given back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.books import books
from orchestrator.entries import Recorded


@dataclass(frozen=True, slots=True, kw_only=True)
class MoneyAtRisk:
    """Open amounts of one currency in minor units, never negative."""

    held_minor: int = 0
    captured_minor: int = 0


def money_at_risk(entries: Iterable[Recorded]) -> Mapping[str, MoneyAtRisk]:
    """Return the open amounts by currency; empty when nothing is open.

    Held is what was authorized and neither captured nor voided, captured what was captured and not
    refunded, each summed over the saga.
    """
    found = {
        currency: MoneyAtRisk(held_minor=each.held, captured_minor=max(0, each.kept))
        for currency, each in sorted(books(entries).items())
    }
    return {currency: each for currency, each in found.items() if each != MoneyAtRisk()}
