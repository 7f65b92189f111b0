"""Which steps of a saga nobody knows the outcome of, and since when."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
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
    return Followed().through(entries).unsettled()


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """A log up to `state.seq`, and since which entry of it what is unsettled; it may go on."""

    state: FoldedSaga = field(default_factory=FoldedSaga)
    since: Mapping[tuple[str, Direction], Recorded] = field(default_factory=dict)

    def through(self, entries: Iterable[Recorded]) -> Followed:
        """Return the log with the entries that follow.

        Raises:
            HistoryError: they are not a legal history.
        """
        log = list(entries)
        ahead = frozenset(seq for seq in voided(log) if seq > self.state.seq)
        state, since = replace(self.state, voided=self.state.voided | ahead), self.since
        for recorded in log:
            state = apply(state, recorded)
            since = {each: since.get(each, recorded) for each in _unsettled_in(state)}
        return Followed(state=state, since=since)

    def unsettled(self) -> list[Unsettled]:
        """Return what is unsettled now; see the function of that name."""
        if self.state.phase not in (State.RUNNING, State.COMPENSATING):
            return []
        return [
            Unsettled(step=step, direction=direction, seq=began.seq, since=began.at)
            for (step, direction), began in sorted(self.since.items(), key=lambda item: item[1].seq)
        ]


def _unsettled_in(state: FoldedSaga) -> Iterable[tuple[str, Direction]]:
    for name, step in state.steps.items():
        for direction, track in step.tracks:
            is_waiting = isinstance(track.last, StepWaiting)
            if track.unsettled and direction not in PROBES and not is_waiting:
                yield name, direction
