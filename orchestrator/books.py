"""The money that a saga's log tells of, summed by currency.

Only what the log tells: what an attempt of unknown outcome may have moved is not in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from orchestrator.entries import (
    Direction,
    EffectReported,
    Entry,
    Json,
    LateOutcomeRecorded,
    MovementSettled,
    Recorded,
    StepProbed,
    StepSettled,
    StepSucceeded,
    UndoFailed,
    believed,
)

Name = tuple[str, ...]
"""Step, kind, currency and reference: a movement counts once, however often it is told of.

One without a reference is named by its effect: that of the same reference or, without one, of the
same key. What was moved under another key was moved once more.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """What was moved in one currency, in minor units. `pending`: part of it is not settled yet."""

    authorized: int = 0
    captured: int = 0
    voided: int = 0
    refunded: int = 0
    pending: int = 0

    @property
    def held(self) -> int:
        """Authorized, and neither captured nor let go; never negative."""
        return max(0, self.authorized - self.captured - self.voided)

    @property
    def kept(self) -> int:
        """Captured and not given back."""
        return self.captured - self.refunded


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """One movement: who told of it and when, and whether the other side has settled it."""

    step: str
    is_undo: bool
    kind: str
    minor: int
    currency: str
    reference: str | None
    since: datetime
    is_pending: bool = False


def movements(entries: Iterable[Recorded], *, words: bool = False) -> list[Moved]:
    """Return every movement of a log, once, in the order in which it was first told of.

    Args:
        words: also those that nobody could look up, which two persons vouch for.
    """
    moved: dict[Name, Moved] = {}
    effects = _Effects()
    for recorded in believed(entries):
        effects.hear(recorded.entry)
        match recorded.entry:
            case StepSettled(unverified=True) | MovementSettled(unverified=True) if not words:
                continue
            case UndoFailed() as failed:
                _take_back(moved, failed)
            case MovementSettled(reference=reference):
                _settle(moved, reference)
            case entry if (told_by := _told_by(entry)) is not None:
                told: list[dict[str, Json]] = getattr(entry, "movements", None) or []
                for place, each in enumerate(told):
                    movement = _moved(told_by, each, recorded.at)
                    _add(moved, movement, f"{effects.name(entry)}/{place}")
            case _:
                pass
    return list(moved.values())


def books(entries: Iterable[Recorded], *, words: bool = False) -> Mapping[str, Balance]:
    """Return what a log moved, by currency; `words` as of `movements`."""
    found: dict[str, Balance] = {}
    for each in movements(entries, words=words):
        balance = found.get(each.currency, Balance())
        found[each.currency] = _with(balance, each)
    return found


def _with(balance: Balance, moved: Moved) -> Balance:
    pending = balance.pending + (moved.minor if moved.is_pending else 0)
    match moved.kind:
        case "authorize":
            return replace(balance, authorized=balance.authorized + moved.minor, pending=pending)
        case "capture":
            return replace(balance, captured=balance.captured + moved.minor, pending=pending)
        case "void":
            return replace(balance, voided=balance.voided + moved.minor, pending=pending)
        case "refund":
            return replace(balance, refunded=balance.refunded + moved.minor, pending=pending)
        case _:
            return balance


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
        case StepProbed(landed=True):
            return entry.step, entry.direction == Direction.PROBE_UNDO
        case EffectReported():
            return entry.step, False
        case _:
            return None


def _moved(told_by: tuple[str, bool], movement: dict[str, Json], at: datetime) -> Moved:
    step, is_undo = told_by
    return Moved(
        step=step,
        is_undo=is_undo,
        kind=movement["kind"],
        minor=movement["amount_minor"],
        currency=movement["currency"],
        reference=movement.get("reference"),
        since=at,
        is_pending=bool(movement.get("pending")),
    )


class _Effects:
    """Names the effects that entries tell of, as far as their movements do not."""

    def __init__(self) -> None:
        self._settled: dict[str, list[int]] = {}
        self._firsts: dict[tuple[str, int], str] = {}

    def hear(self, entry: Entry) -> None:
        """Note that a step has a new key, since that of its attempts so far is settled."""
        match entry:
            case StepSettled(direction=Direction.FORWARD, landed=False, attempt=int() as last):
                self._settled.setdefault(entry.step, []).append(last)
            case _:
                pass

    def name(self, entry: Any) -> str:
        if getattr(entry, "direction", None) == Direction.COMPENSATE:
            return ""
        generation = self._generation(entry)
        named = entry.reference or f"generation {generation}"
        first = self._firsts.setdefault((entry.step, generation), named)
        return entry.reference or first

    def _generation(self, entry: Any) -> int:
        settled = self._settled.get(entry.step, [])
        match entry:
            case EffectReported(generation=generation):
                return generation or 1
            case StepProbed() | StepSettled():
                return 1 + len(settled)
            case _:
                attempt: int = entry.attempt
                return 1 + sum(last < attempt for last in settled)


def _add(moved: dict[Name, Moved], movement: Moved, effect: str) -> None:
    name = (movement.step, movement.kind, movement.currency, movement.reference or effect)
    known = moved.get(name)
    moved[name] = movement if known is None else replace(movement, since=known.since)


def _settle(moved: dict[Name, Moved], reference: str) -> None:
    for name, each in moved.items():
        if each.reference == reference:
            moved[name] = replace(each, is_pending=False)


def _take_back(moved: dict[Name, Moved], entry: UndoFailed) -> None:
    """Forget the undo that proved undone; where it cannot be told which, all of that step."""
    undone = {k: v for k, v in moved.items() if v.is_undo and v.step == entry.step}
    named = [name for name, each in undone.items() if each.reference == entry.reference]
    for name in named or list(undone):
        del moved[name]
