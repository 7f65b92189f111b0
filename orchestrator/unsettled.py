"""Which steps of a saga nobody knows the outcome of, and since when."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from orchestrator.entries import PROBES, Direction, Recorded, StepWaiting, voided
from orchestrator.folding import apply
from orchestrator.state import FoldedSaga, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsettled:
    """A step whose outcome, in one direction, is not known since an entry of the log."""

    step: str
    direction: Direction
    seq: int
    since: datetime


def unsettled(entries: Iterable[Recorded]) -> list[Unsettled]:
    """Return what is unsettled at the end of a whole log, the oldest first.

    Of a saga that ended or is parked that is nothing: somebody was asked. Nor is a step that waits
    for an answer it was promised: nobody can settle it before.

    Raises:
        HistoryError: the entries are not a legal history.
    """
    log = list(entries)
    state = FoldedSaga(voided=frozenset(voided(log)))
    since: dict[tuple[str, Direction], Recorded] = {}
    for recorded in log:
        state = apply(state, recorded)
        since = {each: since.get(each, recorded) for each in _unsettled_in(state)}
    if state.phase not in (State.RUNNING, State.COMPENSATING):
        return []
    return [
        Unsettled(step=step, direction=direction, seq=began.seq, since=began.at)
        for (step, direction), began in sorted(since.items(), key=lambda item: item[1].seq)
    ]


def _unsettled_in(state: FoldedSaga) -> Iterable[tuple[str, Direction]]:
    for name, step in state.steps.items():
        for direction, track in step.tracks:
            is_waiting = isinstance(track.last, StepWaiting)
            if track.unsettled and direction not in PROBES and not is_waiting:
                yield name, direction
