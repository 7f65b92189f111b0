"""Recording: how an attempt ended and what that leads to, whatever the database does meanwhile.

The outcome, the decisions and the next attempt are one write. If the saga moved first, the outcome
is appended alone; if the token is gone, it is kept as a late one. Nothing that happened is lost.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from orchestrator import outcomes
from orchestrator.actions import RunStep
from orchestrator.admission import Admission
from orchestrator.announcing import announce, error_of
from orchestrator.claiming import Claim, started
from orchestrator.context import Lease
from orchestrator.doorbell import Doorbell, ring_each
from orchestrator.entries import (
    Entry,
    Outcome,
    Recorded,
    StepStarted,
    StepSucceeded,
    StepWaiting,
)
from orchestrator.errors import LogUnavailableError, NotKeptError, SagaNotFoundError
from orchestrator.folding import apply
from orchestrator.instrumentation import emit
from orchestrator.leases import Leases
from orchestrator.mover import RECORD_GRACE_SECONDS, RECORD_PAUSE_SECONDS, Mover
from orchestrator.planning import (
    ClaimInPlace,
    Serves,
    attempt_id,
    due_in,
    is_linear,
    rings,
    runs_in_place,
    scheduled,
    tells,
)
from orchestrator.state import FoldedSaga, State
from orchestrator.state_machine import Decision, decide
from orchestrator.storage.database import Moved
from orchestrator.storage.rows import Advance, AttemptId, Closing, Scheduled
from orchestrator.storage.saga_log import SagaLog
from orchestrator.storage.set_aside import is_log_ahead
from orchestrator.troubles import is_its_own


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One write: the outcome and what follows; `next_claim` counts once it is committed."""

    change: Advance
    next_claim: Claim | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _InPlace:
    """What follows at once: `begun`, its intent and the state with that, or put off by `pause`."""

    run: RunStep | None = None
    begun: tuple[StepStarted, FoldedSaga] | None = None
    pause: timedelta = timedelta(0)


class Recorder:
    """Records outcomes of claims and hands on.

    Args:
        owner: names this process in the log; asked anew after a fork.
        admission: whether an attempt had better wait before it is claimed.
        drains: whether this process has begun to stop; then nothing goes on in place.
    """

    def __init__(
        self,
        log: SagaLog,
        doorbell: Doorbell,
        mover: Mover,
        leases: Leases,
        *,
        owner: Callable[[], str],
        drains: Callable[[], bool],
        admission: Admission,
    ) -> None:
        self._log = log
        self._doorbell = doorbell
        self._mover = mover
        self._leases = leases
        self._owner = owner
        self._drains = drains
        self._admission = admission

    def record(self, claim: Claim, outcome: Outcome, serves: Serves) -> Claim | None:
        """Record an outcome and what it leads to, whatever the database does meanwhile."""
        until = max(claim.lease.ends_at, time.monotonic() + RECORD_GRACE_SECONDS)
        try:
            plan = self.plan(claim, outcome, serves)
        except Exception:  # noqa: BLE001 - what happened is a fact; the look sets the saga aside
            self._record_fact(claim, outcome, until)
            return None
        in_doubt = False
        while True:
            try:
                moved_on = self._log.advance(plan.change)
            except Moved:
                moved_on = False
            except LogUnavailableError:
                if time.monotonic() > until:
                    raise
                if self._is_recorded(claim, outcome, until):
                    return self.hand_on(claim, plan)
                in_doubt = True
                time.sleep(RECORD_PAUSE_SECONDS)
                continue
            except Exception as error:
                if not is_its_own(error):
                    raise
                self._mover.set_aside(claim.attempt.saga_id, error)
                moved_on = False
            if moved_on:
                return self.hand_on(claim, plan)
            if in_doubt and self._is_recorded(claim, outcome, until):
                return self.hand_on(claim, plan)  # our first write landed after we had read
            self._record_fact(claim, outcome, until)
            return None

    def hand_back(self, claim: Claim, serves: Serves = lambda _queue: False) -> Claim | None:
        """End an attempt whose step was not called: nothing of it counts."""
        outcome = outcomes.released(claim.step, claim.attempt.direction, claim.attempt.number)
        try:
            return self.record(claim, outcome, serves)
        finally:
            self._leases.remove(claim.token)

    def read_patiently(self, claim: Claim, until: float | None = None) -> list[Recorded]:
        """Read what was logged since the claim, once Postgres answers again.

        Nothing else can be done meanwhile.
        """
        limit = time.monotonic() + RECORD_GRACE_SECONDS if until is None else until
        pause = 0.05
        while True:
            try:
                entries = self._log.entries(claim.attempt.saga_id, after=claim.state.seq - 1)
            except LogUnavailableError:
                if time.monotonic() > limit:
                    raise
                time.sleep(pause)
                pause = min(pause * 2, 2.0)
                continue
            if not entries:  # not even the claim's own
                raise SagaNotFoundError("saga vanished", saga_id=claim.attempt.saga_id)
            return entries

    def plan(self, claim: Claim, outcome: Outcome, serves: Serves) -> Plan:
        """Decide what follows from `outcome`, were it recorded at the seq of the claim."""
        now = claim.now()
        saga_id = claim.attempt.saga_id
        state = apply(claim.state, Recorded(seq=claim.state.seq + 1, at=now, entry=outcome))
        decision = decide(claim.definition, state, now, str(saga_id))
        rung_before = _scheduled_before(claim)
        entries: list[Entry] = [outcome, *decision.entries]
        here = self._in_place(claim, decision, now, serves)
        next_claim, schedule = None, []
        for run in decision.runs:
            if run is here.run and here.begun is not None:
                right = ClaimInPlace(
                    token=uuid.uuid4(),
                    owner=self._owner(),
                    lease_seconds=self._leases.length_seconds,
                )
                row = scheduled(claim.definition, run, now, claim=right)
                schedule.append(row)
                intent, state = here.begun
                entries.append(intent)
                next_claim = self._next_claim(claim, row, right.token, state, decision.visible)
            else:
                will_ring = attempt_id(saga_id, run) not in rung_before
                later = replace(run, not_before=now + here.pause) if run is here.run else run
                schedule.append(scheduled(claim.definition, later, now, will_ring=will_ring))
        current = None if next_claim is None else next_claim.attempt
        return Plan(
            next_claim=next_claim,
            change=Advance(
                saga_id=saga_id,
                seq=claim.state.seq,
                entries=entries,
                state=decision.visible,
                due_in_seconds=due_in(decision, now, claim.saga.state),
                closing=closing_of(claim),
                schedule=schedule,
                current=None
                if current is None
                else (current.step, current.direction, current.number),
                last_error=error_of(outcome),
                tells=tells(claim.saga, decision.visible),
            ),
        )

    def _in_place(
        self, claim: Claim, decision: Decision, now: datetime, serves: Serves
    ) -> _InPlace:
        """Which attempt goes on here, or had better wait.

        What it needs may be in the log only: then its own claim reads that. Inside a step's
        transaction nobody is asked whether it had better wait: then a message asks.
        """
        run = runs_in_place(claim.definition, decision.runs, now, serves)
        if run is None or self._drains():
            return _InPlace()
        name, attempt = claim.definition.name, attempt_id(claim.attempt.saga_id, run)
        if claim.step.transactional and not self._admission.is_free(name, run.step):
            return _InPlace()
        pause = self._admission.pause(name, attempt)
        if pause is not None:
            return _InPlace(run=run, pause=pause)
        intent = started(attempt, self._owner())
        recorded = Recorded(seq=decision.state.seq + 1, at=now, entry=intent)
        try:
            return _InPlace(run=run, begun=(intent, apply(decision.state, recorded)))
        except NotKeptError:
            return _InPlace()

    def _next_claim(
        self, claim: Claim, row: Scheduled, token: UUID, state: FoldedSaga, visible: State
    ) -> Claim:
        """The claim of the next attempt; it counts once the record is committed."""
        asked = time.monotonic()
        timeout = row.timeout_seconds
        return Claim(
            attempt=attempt_id(claim.attempt.saga_id, row),
            token=token,
            definition=claim.definition,
            saga=replace(claim.saga, state=visible, seq=state.seq),
            state=state,
            lease=Lease(
                valid_until=asked + min(self._leases.length_seconds, timeout),
                ends_at=asked + timeout,
            ),
            claimed_at=claim.now(),
            claimed_monotonic=asked,
            alone=row.alone,
        )

    def hand_on(self, claim: Claim, plan: Plan) -> Claim | None:
        """After the commit: tell, ring, and return the attempt that goes on in place."""
        self._leases.remove(claim.token)
        announce(claim.saga, plan.change.entries)
        ring_each(
            self._doorbell, rings(claim.definition, claim.attempt.saga_id, plan.change.schedule)
        )
        if plan.change.tells:
            self._mover.pass_on(claim.saga)
        if any(isinstance(each, StepWaiting) for each in plan.change.entries):
            self._mover.hear_early(claim.saga.id)
        following = plan.next_claim
        if following is not None:
            self._leases.hold(following.attempt, following.token, following.lease)
        return following

    def _record_fact(self, claim: Claim, outcome: Outcome, until: float) -> None:
        """The saga moved meanwhile: what happened is still a fact, if the token is still ours."""
        while True:
            try:
                kept = self._log.append_outcome(
                    closing_of(claim), outcome, last_error=error_of(outcome)
                )
            except Moved:
                continue
            except LogUnavailableError:
                if time.monotonic() > until:
                    raise
                if self._is_recorded(claim, outcome):
                    self._mover.look(claim.attempt.saga_id)
                    return
                time.sleep(RECORD_PAUSE_SECONDS)
                continue
            except Exception as error:
                if not is_log_ahead(error) or time.monotonic() > until:
                    raise
                self._mover.set_aside(claim.attempt.saga_id, error)  # then there is room for it
                continue
            break
        if kept:
            self.announce_fact(claim, outcome)
            self._mover.look(claim.attempt.saga_id)
        elif not self._is_recorded(claim, outcome):
            self.refuse(claim, outcome)

    def _is_recorded(self, claim: Claim, outcome: Outcome, until: float | None = None) -> bool:
        """Whether the log holds it; of a saga that was pruned meanwhile it holds nothing."""
        try:
            return is_recorded(self.read_patiently(claim, until), outcome)
        except SagaNotFoundError:
            return False

    def announce_fact(self, claim: Claim, outcome: Outcome) -> None:
        announce(claim.saga, (outcome,))

    def refuse(self, claim: Claim, outcome: Outcome) -> None:
        """The attempt was taken away: not the step's result, but not forgotten either."""
        late = outcomes.late(outcome)
        emit(
            "saga.stale_result_refused",
            saga_id=str(claim.attempt.saga_id),
            step=claim.attempt.step,
            direction=claim.attempt.direction,
            attempt=claim.attempt.number,
            outcome=late.outcome if late else "released",
        )
        if late is None or (claim.step.transactional and isinstance(outcome, StepSucceeded)):
            return  # rolled back or never begun: nothing happened
        self._mover.keep_late(claim.attempt.saga_id, late, since=claim.state.seq)


def _scheduled_before(claim: Claim) -> set[AttemptId]:
    """The attempts that were written down before `claim` ended; they need no second ring.

    A guess is enough: the rows themselves are made to agree with the decision in the write.
    """
    if is_linear(claim.definition):
        return set()
    saga_id = claim.attempt.saga_id
    before = decide(claim.definition, claim.state, claim.now(), str(saga_id)).runs
    return {attempt_id(saga_id, run) for run in before}


def closing_of(claim: Claim) -> Closing:
    """Return what the record of a claim ends."""
    return Closing(id=claim.attempt, token=claim.token)


def is_recorded(since: Sequence[Recorded], outcome: Outcome) -> bool:
    """Whether exactly this outcome was logged since the claim: then it is our own, not late."""
    return any(_mark(each.entry) == _mark(outcome) for each in since)


def _mark(entry: Entry) -> tuple[object, ...]:
    """What tells an attempt's outcome from what others record about it.

    Not its values: Postgres gives a large float back as an integer.
    """
    if not isinstance(entry, Outcome):
        return (type(entry),)
    how = getattr(entry, "reason", None), getattr(entry, "crashed", None)
    return type(entry), entry.step, entry.direction, entry.attempt, *how
