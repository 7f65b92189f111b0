"""Letting ended sagas go: whole ones only, after their archive is on disk, a batch at a time.

Two judges must agree. The log says here whether anything is unfinished that only it can tell; the
tables say the rest, once when a saga is read and again, under its lock, when it goes.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from orchestrator.entries import (
    Json,
    Recorded,
    SagaCompensated,
    SagaCompleted,
    SagaResolved,
    decoded,
)
from orchestrator.folding import replay
from orchestrator.money_at_risk import money_at_risk
from orchestrator.state import FoldedSaga, State, StepState
from orchestrator.storage.retention import EndedSaga, Retention

BATCH = 500
PATIENCE_SECONDS = 5.0
"""How long a batch with tombstones waits for transactions that began before these."""

PAUSE_SECONDS = 0.01
ROWS_AT_ONCE = 1000

_ENDS = (SagaCompleted, SagaCompensated, SagaResolved)


class Lines(Protocol):
    """Where sagas are archived: on disk when `write` returns."""

    def write(self, lines: Sequence[str], /) -> None: ...


@dataclass(slots=True, kw_only=True)
class PruneReport:
    """What one run did.

    Args:
        pruned: sagas that are gone, by state; in a dry run those that would go.
        archived: sagas that were written to the archive.
        kept: sagas old enough that stay, by the reason; ``busy``: moved or locked meanwhile.
        waiting: have a tombstone, and go with the next run: an older transaction still runs.
        signals: old signals deleted that no saga ever took.
        alerts: alerts deleted that were closed as long ago.
        records: expired records of idempotent calls deleted.
    """

    pruned: Counter[State] = field(default_factory=Counter)
    archived: int = 0
    kept: Counter[str] = field(default_factory=Counter)
    waiting: int = 0
    signals: int = 0
    alerts: int = 0
    records: int = 0


class Pruner:
    """One run over everything that is old enough.

    Args:
        older_than: how long ago a saga must have ended.
        archive: where sagas are kept; None lets their histories go for good.
    """

    def __init__(
        self, retention: Retention, *, older_than: timedelta, archive: Lines | None = None
    ) -> None:
        self._retention = retention
        self._older_than = older_than
        self._archive = archive

    def run(
        self,
        states: Sequence[State],
        *,
        batch: int = BATCH,
        limit: int | None = None,
        dry_run: bool = False,
    ) -> PruneReport:
        """Prune up to `limit` sagas in one of `states`, then all else that nobody needs any more.

        Safe to interrupt, to repeat and to run several times at once: a saga may be archived twice,
        and is never gone without having been archived.

        Raises:
            LogUnavailableError: Postgres did not answer; run it again.
        """
        report = PruneReport()
        for page in self._retention.ended(states, self._older_than, batch):
            going = self._without_the_kept(page, report)
            if limit is not None:
                going = going[: limit - report.pruned.total()]
            if dry_run:
                report.pruned.update(each.state for each in going)
            elif going:
                self._let_go(going, report)
            is_enough = limit is not None and report.pruned.total() >= limit
            if is_enough or report.waiting:
                break
        if not dry_run:
            self._drop_the_rest(report)
        return report

    def _without_the_kept(self, page: list[EndedSaga], report: PruneReport) -> list[EndedSaga]:
        going = []
        for saga in page:
            kept_because = saga.kept_because or unfinished(json.loads(saga.record)["entries"])
            if kept_because is None:
                going.append(saga)
            else:
                report.kept[kept_because] += 1
        return going

    def _let_go(self, going: list[EndedSaga], report: PruneReport) -> None:
        if self._archive is not None:
            self._archive.write([each.record for each in going])
            report.archived += len(going)
        until = time.monotonic() + PATIENCE_SECONDS
        pause = 0.0
        left = going
        while left:
            answers = self._retention.prune(left, self._older_than)
            report.pruned.update(each.state for each in left if answers.get(each.id))
            report.kept.update("busy" for each in left if each.id not in answers)
            left = [each for each in left if answers.get(each.id) is False]
            if left and time.monotonic() > until:
                report.waiting += len(left)
                return
            time.sleep(pause)
            pause = min(pause * 2 or PAUSE_SECONDS, 0.5)

    def _drop_the_rest(self, report: PruneReport) -> None:
        while dropped := self._retention.prune_signals(self._older_than, ROWS_AT_ONCE):
            report.signals += dropped
        while dropped := self._retention.prune_alerts(self._older_than, ROWS_AT_ONCE):
            report.alerts += dropped
        while dropped := self._retention.prune_records(ROWS_AT_ONCE):
            report.records += dropped


def unfinished(entries: Sequence[Mapping[str, Json]]) -> str | None:
    """Return what an ended saga's log says against letting it go, in a word, or None.

    Told without the definition, which may be long gone. ``open_attempt``; ``unknown``: nobody
    heard whether a step took effect; ``uncovered_effect``: of a saga that was taken back something
    is left, or something happened twice; ``unreadable``: a newer version's log, or damaged.
    """
    try:
        log = [
            Recorded(
                seq=each["seq"],
                at=datetime.fromisoformat(each["recorded_at"]),
                entry=decoded(each["kind"], each["data"]),
            )
            for each in entries
        ]
        state = replay(log)
    except Exception:  # noqa: BLE001 - whatever one damaged log raises, the others are pruned
        return "unreadable"
    if state.is_open:
        return "open_attempt"
    if any(each.forward.unsettled or each.undo.unsettled for each in state.steps.values()):
        return "unknown"
    return "uncovered_effect" if _leaves_something(state, log) else None


def _leaves_something(state: FoldedSaga, log: Sequence[Recorded]) -> bool:
    if state.unwinding is None:  # what was done was meant; only a repetition was not
        return any(each.second_effect for each in state.steps.values())
    ended_seq = max((each.seq for each in log if isinstance(each.entry, _ENDS)), default=0)
    named = () if state.parked is None else state.parked.steps
    return bool(money_at_risk(log)) or any(
        _is_left(step, name in named, ended_seq) for name, step in state.steps.items()
    )


def _is_left(step: StepState, could_not_be_undone: bool, ended_seq: int) -> bool:
    """A step that nothing undoes has an effect too, which was weighed when the saga ended."""
    left = step.uncovered_effect
    had_to_go = could_not_be_undone or step.undo.attempts > 0
    return left is not None and (
        had_to_go or any(each.seq > ended_seq for each in step.effects if not each.covered)
    )
