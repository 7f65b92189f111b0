"""Which money a saga's log leaves open: held and not let go, or taken and not given back.

Only what the log tells: what an attempt of unknown outcome may have moved is not in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.entries import (
    Direction,
    EffectReported,
    Entry,
    Json,
    LateOutcomeRecorded,
    Recorded,
    StepProbed,
    StepSettled,
    StepSucceeded,
    UndoFailed,
)

Name = tuple[str, ...]
"""Step, kind, currency and reference: a movement counts once, however often it is told of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MoneyAtRisk:
    """Open amounts of one currency in minor units, never negative."""

    held_minor: int = 0
    captured_minor: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Moved:
    step: str
    is_undo: bool
    kind: str
    minor: int
    currency: str
    reference: str | None


def money_at_risk(entries: Iterable[Recorded]) -> Mapping[str, MoneyAtRisk]:
    """Return the open amounts by currency; empty when nothing is open.

    Held is what was authorized and neither captured nor voided, captured what was captured and not
    refunded, each summed over the saga.
    """
    moved: dict[Name, _Moved] = {}
    for recorded in entries:
        entry = recorded.entry
        if isinstance(entry, UndoFailed):
            _take_back(moved, entry)
        elif (step := _told_by(entry)) is not None:
            movements: list[dict[str, Json]] = getattr(entry, "movements", None) or []
            for place, each in enumerate(movements):
                _add(moved, _moved(step, each), place)
    currencies = sorted({each.currency for each in moved.values()})
    sums = {each: _open(moved.values(), each) for each in currencies}
    return {currency: each for currency, each in sums.items() if each != MoneyAtRisk()}


def _told_by(entry: Entry) -> tuple[str, bool] | None:
    """The step, and whether it was undone, of an entry that tells of an effect.

    A late undo is left out, as everywhere: it tells nothing reliable.
    """
    match entry:
        case (
            StepSucceeded(direction=Direction.FORWARD | Direction.COMPENSATE)
            | LateOutcomeRecorded(direction=Direction.FORWARD, outcome="succeeded")
            | StepSettled(landed=True)
        ):
            return entry.step, entry.direction == Direction.COMPENSATE
        case StepProbed(landed=True) | EffectReported():
            return entry.step, False
        case _:
            return None


def _moved(told_by: tuple[str, bool], movement: dict[str, Json]) -> _Moved:
    step, is_undo = told_by
    return _Moved(
        step=step,
        is_undo=is_undo,
        kind=movement["kind"],
        minor=movement["amount_minor"],
        currency=movement["currency"],
        reference=movement.get("reference"),
    )


def _add(moved: dict[Name, _Moved], movement: _Moved, place: int) -> None:
    """Without a reference it cannot be told from the step's one before: the key was the same."""
    own_name = movement.reference or str(place)
    moved[movement.step, movement.kind, movement.currency, own_name] = movement


def _take_back(moved: dict[Name, _Moved], entry: UndoFailed) -> None:
    """Forget the undo that proved undone; where it cannot be told which, all of that step."""
    undone = {k: v for k, v in moved.items() if v.is_undo and v.step == entry.step}
    named = [name for name, each in undone.items() if each.reference == entry.reference]
    for name in named or list(undone):
        del moved[name]


def _open(moved: Iterable[_Moved], currency: str) -> MoneyAtRisk:
    sums = dict.fromkeys(("authorize", "capture", "void", "refund"), 0)
    for each in moved:
        if each.currency == currency:
            sums[each.kind] = sums.get(each.kind, 0) + each.minor
    return MoneyAtRisk(
        held_minor=max(0, sums["authorize"] - sums["capture"] - sums["void"]),
        captured_minor=max(0, sums["capture"] - sums["refund"]),
    )
