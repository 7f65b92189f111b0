"""The sweep: find what is due and nobody is moving, and put it back on the one road.

Recovery has no executor of its own. It records that a lost attempt will not answer, rings for what
is due, and asks the state machine again; everything else the workers do, as always. It is
leaderless and idempotent: run it from beat, from cron, in a thread of every worker, all at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta

from orchestrator.coordinator import Coordinator
from orchestrator.doorbell import Ring, ring_each
from orchestrator.entries import UnknownReason
from orchestrator.instrumentation import emit
from orchestrator.state import PARKED
from orchestrator.storage.alerts import Alerts
from orchestrator.storage.attempts import (
    BLIND_PATIENCE_SECONDS,
    LOOK_BATCH,
    Attempts,
    DueSaga,
)
from orchestrator.storage.database import Database
from orchestrator.storage.processes import Life, Processes, Sight
from orchestrator.storage.rows import RING_PATIENCE_SECONDS, OpenAttempt
from recovery.lost_processes import LostProcesses

BATCH = 500

PASS_SECONDS = 2.0
"""The longest that one part of a sweep goes on, so that a flood of one kind holds up no other. What
it leaves the next sweep does, which follows at once."""

LONG_PASS_SECONDS = 0.5
"""After a pass of this length leases may have ended: they do not wait for the end of the sweep."""

UNRUNG_PAUSE_SECONDS = 3.0
"""How long a broker that refused is left alone: silence is answered by a timeout of seconds."""

OWN_WORD = timedelta(seconds=2)
"""How long after a timeout its own process is waited for, which knows best what became of it."""

RunLocally = Callable[[Ring], bool]
"""Starts an attempt in this worker's free slots, without the broker; False when none is free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepReport:
    """What one sweep did.

    Args:
        taken_over: attempts whose lease was over, recorded as unanswered.
        rung: attempts that came due and were rung for the first time.
        rung_again: attempts whose message seems lost.
        ran_locally: attempts handed to this worker because the broker took none.
        looked: due sagas that were decided again.
        foreign: due sagas of definitions this process has not.
    """

    taken_over: int = 0
    rung: int = 0
    rung_again: int = 0
    ran_locally: int = 0
    looked: int = 0
    foreign: int = 0

    def __add__(self, other: SweepReport) -> SweepReport:
        return SweepReport(
            **{
                each.name: getattr(self, each.name) + getattr(other, each.name)
                for each in fields(self)
            }
        )

    @property
    def is_quiet(self) -> bool:
        """Whether there was nothing to do."""
        return self == SweepReport()


class Sweeper:
    """Sweeps with one coordinator's definitions, doorbell and database.

    Many may sweep at once; of one sweeper's sweeps, one at a time: a second call does nothing.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        database: Database,
        *,
        run_locally: RunLocally | None = None,
        ring_patience_seconds: float = RING_PATIENCE_SECONDS,
    ) -> None:
        self._coordinator = coordinator
        self._alerts = Alerts(database)
        self._attempts = Attempts(database)
        self._processes = Processes(database)
        self._lost = LostProcesses(self._processes)
        self._run_locally = run_locally
        self._patience = ring_patience_seconds
        self._woke_foreign = False
        self._sweeps = threading.Lock()
        self._silent_until = 0.0
        self._has_more = False
        self._is_held_up = False

    @property
    def has_more(self) -> bool:
        """Whether the last sweep ended before all was done that was due: sweep again at once."""
        return self._has_more

    def run_once(self) -> SweepReport:
        """Do what is due now, a while of each kind, and return how much that was; see `has_more`.

        Raises:
            LogUnavailableError: Postgres does not answer; the next sweep starts afresh.
        """
        if not self._sweeps.acquire(blocking=False):
            return SweepReport()
        try:
            return self._sweep()
        finally:
            self._sweeps.release()

    def ring_due(self) -> SweepReport:
        """Ring for timers that came due; the cheap part of a sweep, for between two of them."""
        return self._ring_first(time.monotonic() + PASS_SECONDS)

    def next_timer(self) -> float | None:
        """Return in how many seconds `ring_due` has something to do, or None."""
        return self._attempts.next_timer()

    def take_over_lost(self) -> SweepReport:
        """Give up what processes held that are gone, and have others go on with it.

        The cheap look between two sweeps: one statement while everybody lives. What the last sweep
        could not take over, it takes over now.
        """
        if not self._sweeps.acquire(blocking=False):
            return SweepReport()
        try:
            until = time.monotonic() + PASS_SECONDS
            lost = self._lost.find()
            report = self._take_over_dead(lost)
            if self._is_held_up:
                report += self._take_over(until)
            if not report.is_quiet:
                report += self._ring_first(until)
            return report + self._ring_again(until) if lost else report
        finally:
            self._sweeps.release()

    def take_over_from(self, owners: Sequence[str]) -> int:
        """Give up everything these dead processes held, without waiting for their leases."""
        held = self._attempts.owned_by(owners)
        return sum(self._give_up(each, UnknownReason.CRASHED) for each in held)

    def _take_over_dead(self, lost: Sequence[Sight]) -> SweepReport:
        return SweepReport(taken_over=sum(self._take_over_one(each) for each in lost))

    def _take_over_one(self, lost: Sight) -> int:
        """Give up what a dead process held; of other definitions, only who has them can.

        The messages that it had fetched and not begun died with it, where the broker forgets what
        it has delivered: what is missing in its queues is rung again without the usual patience.
        """
        taken_over = self.take_over_from([lost.owner])
        queues = self._processes.deregister(lost)
        if queues is None:
            self._lost.put_off(lost)
        else:
            self._attempts.doubt(queues)
            emit("worker.died", owners=[lost.owner], taken_over=taken_over)
        return taken_over

    @property
    def _hashes(self) -> list[str]:
        return self._coordinator.definitions.hashes

    def _sweep(self) -> SweepReport:
        if not self._woke_foreign:
            self._attempts.wake_foreign(self._hashes)
            self._woke_foreign = True
        self._has_more = False
        report = self._take_over_dead(self._lost.find()) + self._take_over(
            time.monotonic() + PASS_SECONDS
        )
        for work in (
            self._deliver,
            self._ring_first,
            self._look,
            self._look_at_late_effects,
            self._ring_first,
            self._ring_again,
        ):
            report += self._pass(work)
        if not report.is_quiet:
            emit("sweep.done", **{each.name: getattr(report, each.name) for each in fields(report)})
        return report

    def _pass(self, work: Callable[[float], SweepReport]) -> SweepReport:
        """Do one kind of work for a while; after a long while, take over what ended meanwhile."""
        began = time.monotonic()
        report = work(began + PASS_SECONDS)
        ended = time.monotonic()
        if ended - began > LONG_PASS_SECONDS:
            report += self._take_over_dead(self._lost.find()) + self._take_over(
                ended + PASS_SECONDS
            )
        return report

    def _is_over(self, until: float) -> bool:
        """Whether the pass has had its time; then there may be more to do."""
        is_over = time.monotonic() > until
        self._has_more |= is_over
        return is_over

    def _deliver(self, until: float) -> SweepReport:
        while self._coordinator.mover.deliver() and not self._is_over(until):
            pass
        return SweepReport()

    def _take_over(self, until: float) -> SweepReport:
        """Give up what is over; what cannot be given up does not stand in front of the rest."""
        taken = 0
        last: OpenAttempt | None = None
        self._is_held_up = False
        while True:
            expired = self._attempts.expired(self._hashes, BATCH, after=last)
            self._is_held_up |= any(each.is_held_up for each in expired)
            for each, reason in self._with_reasons(expired):
                taken += self._give_up(each, reason)
                if self._is_over(until):
                    return SweepReport(taken_over=taken)
            if len(expired) < BATCH:
                return SweepReport(taken_over=taken)
            last = expired[-1]

    def _with_reasons(
        self, expired: Sequence[OpenAttempt]
    ) -> Iterator[tuple[OpenAttempt, UnknownReason]]:
        """Say of each why it is over; one whose own process is about to say so is left to that."""
        free = [each for each in expired if not each.is_held_up]
        owners = {each.owner for each in free if each.ran_out and each.owner}
        lives = self._processes.lives(sorted(owners)) if owners else {}
        for each in free:
            life = lives.get(each.owner or "") if each.ran_out else None
            reason = UnknownReason.LEASE_LOST if life is None else _reason(each, life)
            if reason is None:
                self._is_held_up = True
            else:
                yield each, reason

    def _give_up(self, attempt: OpenAttempt, reason: UnknownReason) -> bool:
        return self._coordinator.mover.give_up(attempt, reason, will_ring=False)

    def _look(self, until: float) -> SweepReport:
        """Look at due sagas for a while; leases that end meanwhile do not wait for it."""
        report = SweepReport()
        while True:
            due = self._attempts.due_sagas(self._hashes)
            report += self._look_at_each(due, until)
            if len(due) < LOOK_BATCH or self._is_over(until):
                return report
            report += self._take_over(until) + self._ring_first(until)

    def _look_at_each(self, due: Sequence[DueSaga], until: float) -> SweepReport:
        """Those that there is no time for come due again by themselves."""
        foreign = [each for each in due if not each.is_known]
        for each in foreign:
            emit(
                "saga.foreign_definition",
                saga_id=each.id,
                saga=each.definition,
                version=each.version,
            )
        looked = 0
        for each in due:
            if each.is_known:
                self._look_at(each)
                looked += 1
                if self._is_over(until):
                    break
        return SweepReport(looked=looked, foreign=len(foreign))

    def _look_at_late_effects(self, until: float) -> SweepReport:
        """Decide on what others logged of sagas that had ended, for want of their definition."""
        looked = 0
        for alert_id, saga_id in self._alerts.late_effects(self._hashes):
            if self._coordinator.mover.look(saga_id, will_ring=False) is not None:
                self._alerts.close([alert_id])
            looked += 1
            if self._is_over(until):
                break
        return SweepReport(looked=looked)

    def _look_at(self, due: DueSaga) -> None:
        state = self._coordinator.mover.look(due.id, will_ring=False)
        if state in PARKED:
            emit("saga.still_parked", saga_id=due.id, saga=due.definition, state=state)

    def _ring_first(self, until: float) -> SweepReport:
        report = SweepReport()
        while True:
            rings = self._attempts.ring_first(self._hashes, BATCH)
            sent, ran = self._ring(rings)
            report += SweepReport(rung=sent, ran_locally=ran)
            if len(rings) < BATCH or not sent or self._is_over(until):
                return report

    def _ring_again(self, until: float) -> SweepReport:
        """Ring only for what is missing in the queue: rung and unclaimed, minus its depth.

        A slow queue is full of messages that are merely waiting; ringing for those again would
        double them at every sweep.
        """
        report = SweepReport()
        is_blind = False
        for backlog in self._attempts.backlogs(self._hashes):
            depth = None if is_blind else self._depth(backlog.queue)
            is_blind = depth is None  # asking for every queue would cost a timeout each
            missing = backlog.overdue if depth is None else backlog.rung - depth
            left = min(missing, backlog.overdue)
            while left > 0:
                rings = self._attempts.ring_again(
                    backlog.queue, self._hashes, min(left, BATCH), self._patience
                )
                sent, ran = self._ring(rings)
                if sent and depth is None:
                    self._attempts.trust(rings, BLIND_PATIENCE_SECONDS)
                report += SweepReport(rung_again=sent, ran_locally=ran)
                left -= len(rings)
                if not rings or not sent:
                    break
                if self._is_over(until):
                    return report
        return report

    @property
    def _is_silent(self) -> bool:
        """Whether the broker refused a moment ago."""
        return time.monotonic() < self._silent_until

    def _depth(self, queue: str) -> int | None:
        return None if self._is_silent else self._coordinator.doorbell.depth(queue)

    def _ring(self, rings: Sequence[Ring]) -> tuple[int, int]:
        """Publish, or run here what the broker does not take; return how many of each."""
        if not rings:
            return 0, 0
        if not self._is_silent:
            if ring_each(self._coordinator.doorbell, rings):
                return len(rings), 0
            self._silent_until = time.monotonic() + UNRUNG_PAUSE_SECONDS
        ran: list[Ring] = []
        for each in rings:
            if self._run_locally is None or not self._run_locally(each):
                break
            ran.append(each)
        self._attempts.unring(rings, UNRUNG_PAUSE_SECONDS)
        return 0, len(ran)


def _reason(attempt: OpenAttempt, life: Life) -> UnknownReason | None:
    """Whether a process that ran into a timeout lived, and its step hangs, or took it down.

    A process that lives says so itself a moment later; None: it shall have that moment. Where
    nothing shows whether it lives, it counts as a crash: else a step that kills its process in the
    last part of its time would never be called poison.
    """
    assert attempt.lease_until is not None, "only what was claimed runs out of time"
    if life.shows_it or life.seen_at >= attempt.lease_until:
        return UnknownReason.TIMED_OUT
    if life.shows_it is None and life.now < attempt.lease_until + OWN_WORD:
        return None
    return UnknownReason.LEASE_LOST
