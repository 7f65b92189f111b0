"""Claim, run, record, hand on: the one road every attempt takes, also after a crash.

    message (saga, step, direction, attempt)
      claim     the attempt row gets our token and lease, StepStarted is logged: intent first
      run       the step's function, under a lease and a send-by
      record    outcome, decisions and the next attempt in one compare-and-set
      hand on   the next attempt runs in place if it was claimed in the record, else its bell rings

What can go wrong between two of these, and what holds then:

    died before the claim    the message is lost; the sweep rings again
    died after it            the lease ends; the sweep records the attempt as unknown and goes on
    claim or record in doubt read back: our token or outcome is there, or we try once more
    saga moved meanwhile     the outcome is appended alone (it is a fact), then decided again
    token taken away         the result is refused as the step's, and kept as a late outcome

Nothing here decides anything about sagas; that is `orchestrator.state_machine`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from orchestrator import outcomes
from orchestrator.actions import RunStep
from orchestrator.announcing import announce, error_of
from orchestrator.context import Lease, Resources, StepContext
from orchestrator.definition import Definitions, SagaDefinition, Step
from orchestrator.doorbell import Doorbell, ring_each
from orchestrator.entries import (
    Direction,
    Entry,
    Outcome,
    Recorded,
    StepFailed,
    StepStarted,
    StepSucceeded,
)
from orchestrator.errors import LogUnavailableError, SagaNotFoundError
from orchestrator.instrumentation import emit
from orchestrator.keys import key_of
from orchestrator.leases import Gate, Leases
from orchestrator.mover import Mover
from orchestrator.payloads import read_back
from orchestrator.planning import (
    ClaimInPlace,
    Serves,
    attempt_id,
    due_in,
    is_linear,
    rings,
    runs_in_place,
    scheduled,
)
from orchestrator.state import SagaState, State, replay
from orchestrator.state_machine import Decision, decide
from orchestrator.storage.database import Database, Moved
from orchestrator.storage.rows import Advance, AttemptId, Closing, SagaRow, Snapshot
from orchestrator.storage.saga_log import SagaLog
from orchestrator.storage.step_transaction import (
    StepTransaction,
    TransactionLostError,
    step_transaction,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection

DEFAULT_LEASE = timedelta(seconds=15)
RECORD_GRACE_SECONDS = 60.0
"""How long a finished outcome is offered to a database that does not answer."""

RECORD_PAUSE_SECONDS = 0.05
"""Between two offers of an outcome to a database that reads but does not write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The right to run one attempt, and all that is known about its saga."""

    attempt: AttemptId
    token: UUID
    definition: SagaDefinition[Any]
    saga: SagaRow
    state: SagaState
    lease: Lease
    claimed_at: datetime
    claimed_monotonic: float
    alone: bool = False

    @property
    def step(self) -> Step:
        return self.definition.step(self.attempt.step)

    def now(self) -> datetime:
        """The database's time, carried forward on the monotonic clock."""
        return self.claimed_at + timedelta(seconds=time.monotonic() - self.claimed_monotonic)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    change: Advance
    decision: Decision
    next_claim: Claim | None


class Coordinator:
    """Runs attempts and keeps their sagas moving.

    Args:
        owner: names this process in the log; asked anew after a fork.
        lease: how long a claim lives without being extended.
        drains: whether this process has begun to stop; then nothing more is claimed.
    """

    def __init__(
        self,
        *,
        database: Database,
        definitions: Definitions,
        doorbell: Doorbell,
        owner: Callable[[], str],
        resources: Resources | None = None,
        lease: timedelta = DEFAULT_LEASE,
        drains: Callable[[], bool] = lambda: False,
    ) -> None:
        self.log = SagaLog(database)
        self.definitions = definitions
        self.doorbell = doorbell
        self.mover = Mover(self.log, definitions, doorbell)
        self.leases = Leases(self.log, lease)
        self.gate = Gate()
        self._database = database
        self._resources = resources or Resources()
        self._owner = owner
        self.lease_seconds = lease.total_seconds()
        self._drains = drains

    # -- claim -------------------------------------------------------------------------------------

    def claim(self, attempt: AttemptId) -> Claim | None:
        """Claim an attempt, or return None when it is not ours to run (a duplicate, not due, ...).

        Raises:
            LogUnavailableError: Postgres does not answer; the lease, if any was taken, will end.
        """
        if self._drains():
            return None
        try:
            return self._claim_once(attempt)
        except LogUnavailableError:
            return self._claim_once(attempt)

    def _claim_once(self, attempt: AttemptId) -> Claim | None:
        token = uuid.uuid4()
        asked = time.monotonic()
        try:
            claimed = self.log.claim(
                attempt,
                token=token,
                owner=self._owner(),
                lease_seconds=self.lease_seconds,
                hashes=self.definitions.hashes,
            )
        except Moved:
            return None
        except LogUnavailableError:
            if not self.log.holds(attempt, token):
                raise
            return self._claim_in_doubt(attempt, token, asked)
        if claimed is None:
            return None
        before = replay(claimed.entries)
        started = _started(attempt, self._owner())
        state = before.apply(Recorded(seq=claimed.saga.seq, at=claimed.now, entry=started))
        lease = self.leases.add(attempt, token, claimed.timeout_seconds, asked)
        claim = self._claim(
            attempt, token, claimed.saga, state, lease, claimed.now, asked, alone=claimed.alone
        )
        if self._asked_for(claim, before) is None:
            self._hand_back(claim)
            return None
        return claim

    def _claim_in_doubt(self, attempt: AttemptId, token: UUID, asked: float) -> Claim | None:
        """The claim was committed, though its answer was lost: our token in the row says so."""
        snapshot = self.log.read(attempt.saga_id)
        if snapshot is None:
            return None
        timeout = self._definition(snapshot.saga).step(attempt.step).timeout.total_seconds()
        lease = self.leases.add(attempt, token, timeout, asked)
        before = replay(snapshot.entries[: _place_of_start(snapshot, attempt)])
        state = replay(snapshot.entries[before.seq :], before)
        claim = self._claim(attempt, token, snapshot.saga, state, lease, snapshot.now, asked)
        run = self._asked_for(claim, before)
        if run is None:
            self._hand_back(claim)
            return None
        return replace(claim, alone=run.alone)

    def _asked_for(self, claim: Claim, before: SagaState) -> RunStep | None:
        """What the log asked for when it was claimed; None when the row outlived its decision."""
        saga_id = claim.attempt.saga_id
        runs = decide(claim.definition, before, claim.claimed_at, str(saga_id)).runs
        return next((run for run in runs if attempt_id(saga_id, run) == claim.attempt), None)

    def _hand_back(self, claim: Claim) -> None:
        """End an attempt that nobody wants before its step is called."""
        try:
            self._record(claim, self._handed_back(claim), lambda _queue: False)
        finally:
            self.leases.remove(claim.token)

    def _claim(
        self,
        attempt: AttemptId,
        token: UUID,
        saga: SagaRow,
        state: SagaState,
        lease: Lease,
        now: datetime,
        asked: float,
        *,
        alone: bool = False,
    ) -> Claim:
        announce(saga, (_started(attempt, self._owner()),))
        return Claim(
            attempt=attempt,
            token=token,
            definition=self._definition(saga),
            saga=saga,
            state=state,
            lease=lease,
            claimed_at=now,
            claimed_monotonic=asked,
            alone=alone,
        )

    def _definition(self, saga: SagaRow) -> SagaDefinition[Any]:
        definition = self.definitions.by_hash(saga.definition_hash)
        assert definition is not None, "claims and looks pass only known hashes"
        return definition

    # -- run ---------------------------------------------------------------------------------------

    def execute(self, claim: Claim, serves: Serves = lambda _queue: False) -> Claim | None:
        """Run a claimed attempt and record how it ended; return the next attempt if claimed too.

        Args:
            serves: whether this worker takes a queue's tasks, so that the next step may run here.
        """
        try:
            with self.gate.entered(alone=claim.alone):
                if self._drains():
                    return self._record(claim, self._handed_back(claim), serves)
                if claim.step.transactional:
                    return self._run_in_transaction(claim, serves)
                return self._record(claim, self._call(claim, None), serves)
        finally:
            self.leases.remove(claim.token)

    def _handed_back(self, claim: Claim) -> Outcome:
        return outcomes.released(claim.step, claim.attempt.direction, claim.attempt.number)

    def _call(self, claim: Claim, connection: Connection | None) -> Outcome:
        step, attempt = claim.step, claim.attempt
        undoing = attempt.direction == Direction.COMPENSATE
        function = step.compensation if undoing else step.run
        assert function is not None, "only steps with a compensation are unwound"
        try:
            context = self._context(claim, connection)
        except Exception as error:  # noqa: BLE001 - the step was not called: no effect
            return self._failed_without_effect(claim, error)
        try:
            returned = function(context)
            return outcomes.succeeded(step, attempt.direction, attempt.number, returned)
        except Exception as error:  # noqa: BLE001 - every way to end becomes one value
            return outcomes.raised(step, attempt.direction, attempt.number, error)

    def _context(self, claim: Claim, connection: Connection | None) -> StepContext[Any]:
        attempt, state, name = claim.attempt, claim.state, claim.attempt.step
        known = state.step(name)
        return StepContext(
            saga_id=attempt.saga_id,
            definition=claim.saga.definition,
            saga_key=claim.saga.key,
            step=name,
            direction=attempt.direction,
            attempt=attempt.number,
            idempotency_key=key_of(
                state, claim.saga.definition, claim.saga.key, name, attempt.direction
            ),
            payload=read_back(claim.definition, state.payload),
            results={each: done.effect.result for each, done in state.steps.items() if done.effect},
            effect=known.uncovered_effect if attempt.direction == Direction.COMPENSATE else None,
            signal=None if known.signal is None else known.signal.payload,
            resources=self._resources,
            lease=claim.lease,
            connection=connection,
        )

    def _run_in_transaction(self, claim: Claim, serves: Serves) -> Claim | None:
        """Run a step whose writes commit together with its log entry, the entry last."""
        try:
            with step_transaction(self._database) as transaction:
                with transaction.lent() as connection:
                    outcome = self._call(claim, connection)
                if isinstance(outcome, StepSucceeded):
                    if transaction.is_intact:
                        return self._record_with_its_writes(claim, outcome, serves, transaction)
                    outcome = self._failed_without_effect(claim, _ended_by_its_step(claim))
                transaction.abandon()
        except TransactionLostError as error:
            outcome = self._failed_without_effect(claim, error)
        return self._record(claim, outcome, serves)

    def _record_with_its_writes(
        self, claim: Claim, outcome: StepSucceeded, serves: Serves, transaction: StepTransaction
    ) -> Claim | None:
        plan = self._plan(claim, outcome, serves)
        moved_on = self.log.advance(plan.change, transaction.connection)
        if not moved_on and not self.log.append_outcome(
            _closing(claim), outcome, connection=transaction.connection
        ):
            transaction.abandon()
            self._refuse(claim, outcome)
            return None
        try:
            transaction.commit()
        except LogUnavailableError as error:
            return self._commit_in_doubt(claim, outcome, plan if moved_on else None, error)
        if not moved_on:
            self._announce_fact(claim, outcome)
            self.mover.look(claim.attempt.saga_id)
            return None
        return self._hand_on(claim, plan)

    def _commit_in_doubt(
        self, claim: Claim, outcome: StepSucceeded, plan: _Plan | None, error: Exception
    ) -> Claim | None:
        """An error from COMMIT: only the log knows."""
        snapshot = self._read_patiently(claim)
        if _is_recorded(snapshot, outcome):
            if plan is None:
                self.mover.look(claim.attempt.saga_id)
                return None
            return self._hand_on(claim, plan)
        return self._record(claim, self._failed_without_effect(claim, error), lambda _: False)

    def _failed_without_effect(self, claim: Claim, error: Exception) -> StepFailed:
        return StepFailed(
            step=claim.attempt.step,
            direction=claim.attempt.direction,
            attempt=claim.attempt.number,
            terminal=False,
            error=outcomes.described(error),
        )

    # -- record ------------------------------------------------------------------------------------

    def _record(self, claim: Claim, outcome: Outcome, serves: Serves) -> Claim | None:
        """Record an outcome and what it leads to, whatever the database does meanwhile."""
        plan = self._plan(claim, outcome, serves)
        until = max(claim.lease.ends_at, time.monotonic() + RECORD_GRACE_SECONDS)
        in_doubt = False
        while True:
            try:
                moved_on = self.log.advance(plan.change)
            except Moved:
                moved_on = False
            except LogUnavailableError:
                if time.monotonic() > until:
                    raise
                if _is_recorded(self._read_patiently(claim, until), outcome):
                    return self._hand_on(claim, plan)
                in_doubt = True
                time.sleep(RECORD_PAUSE_SECONDS)
                continue
            if moved_on:
                return self._hand_on(claim, plan)
            if in_doubt and _is_recorded(self._read_patiently(claim, until), outcome):
                return self._hand_on(claim, plan)  # our first write landed after we had read
            self._record_fact(claim, outcome, until)
            return None

    def _read_patiently(self, claim: Claim, until: float | None = None) -> Snapshot:
        """Read the saga once Postgres answers again; nothing else can be done meanwhile."""
        limit = time.monotonic() + RECORD_GRACE_SECONDS if until is None else until
        pause = 0.05
        while True:
            try:
                snapshot = self.log.read(claim.attempt.saga_id)
            except LogUnavailableError:
                if time.monotonic() > limit:
                    raise
                time.sleep(pause)
                pause = min(pause * 2, 2.0)
                continue
            if snapshot is None:
                raise SagaNotFoundError("saga vanished", saga_id=claim.attempt.saga_id)
            return snapshot

    def _plan(self, claim: Claim, outcome: Outcome, serves: Serves) -> _Plan:
        """Decide what follows from `outcome`, were it recorded at the seq of the claim."""
        now = claim.now()
        saga_id = claim.attempt.saga_id
        state = claim.state.apply(Recorded(seq=claim.state.seq + 1, at=now, entry=outcome))
        decision = decide(claim.definition, state, now, str(saga_id))
        rung_before = _scheduled_before(claim)
        entries: list[Entry] = [outcome, *decision.entries]
        in_place = None
        if not self._drains():
            in_place = runs_in_place(claim.definition, decision.runs, now, serves)
        next_claim, schedule = None, []
        for run in decision.runs:
            if run is in_place:
                right = ClaimInPlace(
                    token=uuid.uuid4(), owner=self._owner(), lease_seconds=self.lease_seconds
                )
                attempt = attempt_id(saga_id, run)
                started = _started(attempt, self._owner())
                entries.append(started)
                seq = decision.state.seq + 1
                state = decision.state.apply(Recorded(seq=seq, at=now, entry=started))
                next_claim = self._next_claim(claim, attempt, right.token, state, decision.visible)
                schedule.append(scheduled(claim.definition, run, now, claim=right))
            else:
                will_ring = attempt_id(saga_id, run) not in rung_before
                schedule.append(scheduled(claim.definition, run, now, will_ring=will_ring))
        current = None if next_claim is None else next_claim.attempt
        return _Plan(
            decision=decision,
            next_claim=next_claim,
            change=Advance(
                saga_id=saga_id,
                seq=claim.state.seq,
                entries=entries,
                state=decision.visible,
                due_in_seconds=due_in(decision, now, claim.saga.state),
                closing=_closing(claim),
                schedule=schedule,
                current=None
                if current is None
                else (current.step, current.direction, current.number),
                last_error=error_of(outcome),
            ),
        )

    def _next_claim(
        self, claim: Claim, attempt: AttemptId, token: UUID, state: SagaState, visible: State
    ) -> Claim:
        """The claim of the next attempt; it counts once the record is committed."""
        asked = time.monotonic()
        timeout = claim.definition.step(attempt.step).timeout.total_seconds()
        return Claim(
            attempt=attempt,
            token=token,
            definition=claim.definition,
            saga=replace(claim.saga, state=visible, seq=state.seq),
            state=state,
            lease=Lease(
                valid_until=asked + min(self.lease_seconds, timeout), ends_at=asked + timeout
            ),
            claimed_at=claim.now(),
            claimed_monotonic=asked,
        )

    def _hand_on(self, claim: Claim, plan: _Plan) -> Claim | None:
        """After the commit: tell, ring, and return the attempt that goes on in place."""
        self.leases.remove(claim.token)
        announce(claim.saga, plan.change.entries)
        ring_each(
            self.doorbell, rings(claim.definition, claim.attempt.saga_id, plan.change.schedule)
        )
        following = plan.next_claim
        if following is not None:
            self.leases.hold(following.attempt, following.token, following.lease)
        return following

    def _record_fact(self, claim: Claim, outcome: Outcome, until: float) -> None:
        """The saga moved meanwhile: what happened is still a fact, if the token is still ours."""
        while True:
            try:
                kept = self.log.append_outcome(
                    _closing(claim), outcome, last_error=error_of(outcome)
                )
            except Moved:
                continue
            except LogUnavailableError:
                if time.monotonic() > until:
                    raise
                if _is_recorded(self._read_patiently(claim), outcome):
                    self.mover.look(claim.attempt.saga_id)
                    return
                time.sleep(RECORD_PAUSE_SECONDS)
                continue
            break
        if kept:
            self._announce_fact(claim, outcome)
            self.mover.look(claim.attempt.saga_id)
        elif not _is_recorded(self._read_patiently(claim), outcome):
            self._refuse(claim, outcome)

    def _announce_fact(self, claim: Claim, outcome: Outcome) -> None:
        announce(claim.saga, (outcome,))

    def _refuse(self, claim: Claim, outcome: Outcome) -> None:
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
        self.mover.keep_late(claim.attempt.saga_id, late)


def _scheduled_before(claim: Claim) -> set[AttemptId]:
    """The attempts that were written down before `claim` ended; they need no second ring.

    A guess is enough: the rows themselves are made to agree with the decision in the write.
    """
    if is_linear(claim.definition):
        return set()
    saga_id = claim.attempt.saga_id
    before = decide(claim.definition, claim.state, claim.now(), str(saga_id)).runs
    return {attempt_id(saga_id, run) for run in before}


def _place_of_start(snapshot: Snapshot, attempt: AttemptId) -> int:
    """How many entries there were before the attempt's intent was logged."""
    for place, each in enumerate(snapshot.entries):
        match each.entry:
            case StepStarted(step=attempt.step, direction=attempt.direction, attempt=number):
                if number == attempt.number:
                    return place
            case _:
                pass
    return len(snapshot.entries)


def _ended_by_its_step(claim: Claim) -> TransactionLostError:
    return TransactionLostError(
        f"step {claim.attempt.step} committed or rolled back the engine's transaction; "
        "it may do neither"
    )


def _started(attempt: AttemptId, owner: str) -> StepStarted:
    return StepStarted(
        step=attempt.step, direction=attempt.direction, attempt=attempt.number, owner=owner
    )


def _closing(claim: Claim) -> Closing:
    return Closing(id=claim.attempt, token=claim.token)


def _is_recorded(snapshot: Snapshot, outcome: Outcome) -> bool:
    """Whether the log already holds exactly this outcome: then it is our own, not a late one."""
    return any(_mark(each.entry) == _mark(outcome) for each in snapshot.entries)


def _mark(entry: Entry) -> tuple[object, ...]:
    """What tells an attempt's outcome from what others record about it.

    Not its values: Postgres gives a large float back as an integer.
    """
    if not isinstance(entry, Outcome):
        return (type(entry),)
    how = getattr(entry, "reason", None), getattr(entry, "crashed", None)
    return type(entry), entry.step, entry.direction, entry.attempt, *how
