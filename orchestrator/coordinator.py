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

Here is the run, and the order of it all. The claim is in `orchestrator.claiming`, the record in
`orchestrator.recording`; what happens to a saga next is decided in `orchestrator.state_machine`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from orchestrator import outcomes
from orchestrator.admission import Admission
from orchestrator.claiming import Claim, Claims
from orchestrator.client import SagaClient
from orchestrator.context import (
    CannotTell,
    Found,
    Lease,
    NothingThere,
    NotLanded,
    Resources,
    StepContext,
)
from orchestrator.definitions import Definitions
from orchestrator.doorbell import Doorbell
from orchestrator.entries import PROBES, UNDOING, Direction, Outcome, StepFailed, StepSucceeded
from orchestrator.errors import LogUnavailableError
from orchestrator.folding import replay
from orchestrator.guarding import Guards, Unguarded
from orchestrator.installation import Installation
from orchestrator.instrumentation import emit
from orchestrator.keys import key_of, step_key
from orchestrator.leases import LOST, Gate, Holding, Leases
from orchestrator.mover import Mover
from orchestrator.payloads import payload_fits, read_back
from orchestrator.planning import Serves
from orchestrator.recording import Plan, Recorder, closing_of, is_recorded
from orchestrator.settling import believed_since
from orchestrator.state import PAYLOAD, RecordedEffect
from orchestrator.storage.database import Database
from orchestrator.storage.rows import AttemptId, Snapshot
from orchestrator.storage.saga_log import SagaLog
from orchestrator.storage.set_aside import SetAside
from orchestrator.storage.signals import Signals
from orchestrator.storage.step_transaction import (
    StepTransaction,
    TransactionLostError,
    step_transaction,
)
from orchestrator.storage.tombstones import Tombstones
from orchestrator.troubles import Troubles

if TYPE_CHECKING:
    from sqlalchemy import Connection

T = TypeVar("T")

__all__ = ["DEFAULT_LEASE", "Claim", "Coordinator"]

DEFAULT_LEASE = timedelta(seconds=15)


class Coordinator:
    """Runs attempts and keeps their sagas moving.

    Args:
        owner: names this process in the log; asked anew after a fork.
        lease: how long a claim lives without being extended.
        drains: whether this process has begun to stop; then nothing more is claimed.
        installation: the name that the settings give, if any; in another one nothing is claimed.
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
        installation: str | None = None,
    ) -> None:
        self.log = SagaLog(database)
        self.installation = Installation(database, expected=installation)
        self.definitions = definitions
        self.doorbell = doorbell
        self.mover = Mover(
            self.log,
            Signals(database),
            Tombstones(database),
            definitions,
            doorbell,
            Troubles(SetAside(database)),
            self.installation,
        )
        self.leases = Leases(self.log, lease)
        self.gate = Gate()
        self.database = database
        self._resources = (
            (resources or Resources())
            .also(
                SagaClient, lambda: SagaClient(database.engine, doorbell, definitions=definitions)
            )
            .also(Guards, Unguarded)  # type: ignore[type-abstract]
        )
        self._admission = Admission(definitions, self._resources)
        self.lease_seconds = lease.total_seconds()
        self._stops = drains
        self._recorder = Recorder(
            self.log,
            doorbell,
            self.mover,
            self.leases,
            owner=owner,
            drains=self._drains,
            admission=self._admission,
        )
        self._claims = Claims(
            self.log,
            definitions,
            self.leases,
            owner=owner,
            hand_back=self._recorder.hand_back,
            set_aside=self.mover.set_aside,
        )

    def _drains(self) -> bool:
        return self._stops() or self.installation.is_refused

    def claim(self, attempt: AttemptId) -> Claim | None:
        """Claim an attempt, or return None when it is not ours to run (a duplicate, not due, ...).

        A log that cannot be read is told of; what was claimed of it nobody may run. In a database
        that was copied or restored nothing is claimed until somebody has said what it is.

        Raises:
            LogUnavailableError: Postgres does not answer; the lease, if any was taken, will end.
        """
        if not self.installation.may_act() or self._drains():
            return None
        return self._claims.claim(attempt)

    def puts_off(self, definition: str, attempt: AttemptId) -> bool:
        """Whether an attempt had better not be claimed now; if so, it comes due again later.

        That is so while the rate of its calls is reached or their circuit is open. Nothing is
        logged: the row alone says when it comes due, a minute later at most while a circuit is
        open.

        Raises:
            LogUnavailableError: Postgres does not answer.
        """
        pause = self._admission.pause(definition, attempt)
        if pause is None:
            return False
        if self.log.put_off(attempt, pause.total_seconds()):
            emit(
                "attempt.put_off",
                saga_id=attempt.saga_id,
                saga=definition,
                step=attempt.step,
                direction=attempt.direction,
                attempt=attempt.number,
                seconds=round(pause.total_seconds(), 3),
            )
        return True

    def execute(self, claim: Claim, serves: Serves = lambda _queue: False) -> Claim | None:
        """Run a claimed attempt and record how it ended; return the next attempt if claimed too.

        Args:
            serves: whether this worker takes a queue's tasks, so that the next step may run here.
        """
        try:
            with self.gate.entered(claim.lease, alone=claim.alone) as admitted:
                if not admitted or self._drains():
                    return self._recorder.hand_back(claim, serves)
                if claim.step.transactional:
                    return self._run_in_transaction(claim, serves)
                return self._recorder.record(claim, self._call(claim, None), serves)
        except _NotCalledError as error:
            self._put_aside(claim, error.cause)
            return None
        finally:
            self.leases.remove(claim.token)

    def detach(self, holding: Holding) -> None:
        """Let go of an attempt whose step hangs: it may send nothing more and holds up nobody.

        Writes nothing: call `Mover.give_up`. What the step returns in the end is a late outcome.
        """
        holding.lease.valid_until = LOST
        self.leases.remove(holding.token)
        self.gate.abandon(holding.lease)

    def ask(self, snapshot: Snapshot, step: str, *, asked_before: int = 0) -> Outcome:
        """Ask a step's probe whether it took effect: no attempt, nothing is written.

        Returns `StepProbed`, or `StepFailed` when there was no answer.

        Args:
            asked_before: how often whoever asks now was already told that nothing is there.
        """
        question = self._question(snapshot, step, Direction.PROBE)
        try:
            return self._call(question, None, asked_before=asked_before)
        except _NotCalledError as error:
            return self._failed_without_effect(question, error.cause)

    def look_up(
        self,
        snapshot: Snapshot,
        step: str,
        direction: Direction,
        reference: str | None,
        effect: RecordedEffect | None,
    ) -> Found | NotLanded | CannotTell:
        """Ask a step's lookup what the other side has under a reference: nothing is written.

        Args:
            direction: whether the step itself is meant, or its undo.
            reference: None: what the step acted on.
            effect: for an undo, the effect that it is about.
        """
        question = self._question(snapshot, step, direction)
        lookup = question.step.lookup
        if lookup is None:
            return CannotTell(f"{step} declares no lookup")
        try:
            context = replace(self._context(question, None), effect=effect)
            answer = lookup(context, reference)
        except Exception as error:  # noqa: BLE001 - whatever is raised is no answer
            return CannotTell(f"no answer: {outcomes.described(error)['message']}")
        if not isinstance(answer, Found | NotLanded | CannotTell):
            return CannotTell(f"the lookup of {step} returned {type(answer).__name__}")
        return answer

    def _question(self, snapshot: Snapshot, step: str, direction: Direction) -> Claim:
        """As a claimed attempt, for a function that only asks."""
        definition = self.definitions.by_hash(snapshot.saga.definition_hash)
        assert definition is not None, "only who has the definition can ask"
        known = definition.step(step)
        state = replay(snapshot.entries)
        now = time.monotonic()
        ends_at = now + known.timeout.total_seconds()
        return Claim(
            attempt=AttemptId(
                saga_id=snapshot.saga.id,
                step=step,
                direction=direction,
                number=state.step(step).track(direction).attempts + 1,
            ),
            token=uuid.uuid4(),
            definition=definition,
            saga=snapshot.saga,
            state=state,
            lease=Lease(valid_until=ends_at, ends_at=ends_at),
            claimed_at=snapshot.now,
            claimed_monotonic=now,
        )

    def _call(
        self, claim: Claim, connection: Connection | None, *, asked_before: int = 0
    ) -> Outcome:
        step, attempt = claim.step, claim.attempt
        function = {
            Direction.FORWARD: step.run,
            Direction.COMPENSATE: step.compensation,
            Direction.PROBE: step.probe,
            Direction.PROBE_UNDO: step.undo_probe,
        }[Direction(attempt.direction)]
        assert function is not None, "only what a step declares is asked for"
        try:
            context = self._context(claim, connection)
            context.asked_before += asked_before
        except Exception as error:
            raise _NotCalledError(error) from error
        if claim.lease.valid_until <= time.monotonic():
            # Somebody else may run it by now.
            return outcomes.released(step, attempt.direction, attempt.number)
        try:
            returned = _called(claim.lease, function, context)
            if attempt.direction in PROBES:
                return outcomes.probed(step, attempt.direction, attempt.number, returned)
            if attempt.direction == Direction.COMPENSATE and isinstance(returned, NotLanded):
                return _undo_found_nothing(claim, returned)
            return outcomes.succeeded(step, attempt.direction, attempt.number, returned)
        except Exception as error:  # noqa: BLE001 - every way to end becomes one value
            return outcomes.raised(step, attempt.direction, attempt.number, error)

    def _put_aside(self, claim: Claim, error: Exception) -> None:
        """Hand back a step that could not be given its payload: trying again cannot help.

        No budget is spent and nothing is taken back for it, for the undo would not get it either.
        """
        step, attempt = claim.step, claim.attempt
        released = outcomes.released(step, attempt.direction, attempt.number)
        if self.log.append_outcome(closing_of(claim), released):
            fits = payload_fits(claim.definition, claim.state.payload)
            self.mover.set_aside(attempt.saga_id, error, None if fits else PAYLOAD)

    def _context(self, claim: Claim, connection: Connection | None) -> StepContext[Any]:
        attempt, state, name = claim.attempt, claim.state, claim.attempt.step
        known = state.step(name)
        asks_of_undo = attempt.direction == Direction.PROBE_UNDO
        undoing = attempt.direction in UNDOING
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
            step_key=step_key(
                state, claim.saga.definition, claim.saga.key, name, attempt.direction
            ),
            payload=read_back(claim.definition, state.payload),
            results={each: done.effect.result for each, done in state.steps.items() if done.effect},
            effect=state.effect_to_undo(name) if undoing else None,
            signal=None if known.signal is None else known.signal.payload,
            waited=known.track(attempt.direction).waited,
            signalled=known.signal is not None,
            reference=known.waits_on,
            now=claim.now(),
            asked_before=len(known.undo_denials if asks_of_undo else known.denials),
            resources=self._resources,
            lease=claim.lease,
            calls=claim.step.calls,
            connection=connection,
        )

    def _run_in_transaction(self, claim: Claim, serves: Serves) -> Claim | None:
        """Run a step whose writes commit together with its log entry, the entry last."""
        try:
            with step_transaction(self.database) as transaction:
                with transaction.lent() as connection:
                    outcome = self._call(claim, connection)
                if isinstance(outcome, StepSucceeded):
                    if transaction.is_intact:
                        return self._record_with_its_writes(claim, outcome, serves, transaction)
                    outcome = self._failed_without_effect(claim, _ended_by_its_step(claim))
                transaction.abandon()
        except TransactionLostError as error:
            outcome = self._failed_without_effect(claim, error)
        return self._recorder.record(claim, outcome, serves)

    def _record_with_its_writes(
        self, claim: Claim, outcome: StepSucceeded, serves: Serves, transaction: StepTransaction
    ) -> Claim | None:
        try:
            plan = self._recorder.plan(claim, outcome, serves)
        except Exception:  # noqa: BLE001 - recorded as a fact; the look sets the saga aside
            plan = None
        moved_on = plan is not None and self.log.advance(plan.change, transaction.connection)
        if not moved_on and not self.log.append_outcome(
            closing_of(claim), outcome, connection=transaction.connection
        ):
            transaction.abandon()
            self._recorder.refuse(claim, outcome)
            return None
        try:
            transaction.commit()
        except LogUnavailableError as error:
            return self._commit_in_doubt(claim, outcome, plan if moved_on else None, error)
        if plan is None or not moved_on:
            self._recorder.announce_fact(claim, outcome)
            self.mover.look(claim.attempt.saga_id)
            return None
        return self._recorder.hand_on(claim, plan)

    def _commit_in_doubt(
        self, claim: Claim, outcome: StepSucceeded, plan: Plan | None, error: Exception
    ) -> Claim | None:
        """An error from COMMIT: only the log knows."""
        if is_recorded(self._recorder.read_patiently(claim), outcome):
            if plan is None:
                self.mover.look(claim.attempt.saga_id)
                return None
            return self._recorder.hand_on(claim, plan)
        return self._recorder.record(
            claim, self._failed_without_effect(claim, error), lambda _: False
        )

    def _failed_without_effect(self, claim: Claim, error: Exception) -> StepFailed:
        return StepFailed(
            step=claim.attempt.step,
            direction=claim.attempt.direction,
            attempt=claim.attempt.number,
            terminal=False,
            error=outcomes.described(error),
            spends_budget=not outcomes.is_contention(error),
        )


class _NotCalledError(Exception):
    """A step was not called, because of `cause`."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


def _called(lease: Lease, function: Callable[..., T], context: StepContext[Any]) -> T:
    lease.is_running = True
    try:
        return function(context)
    finally:
        lease.is_running = False


def _undo_found_nothing(claim: Claim, answer: NotLanded) -> StepSucceeded | StepFailed:
    """What was not found is not undone, until it must be shown if it were there."""
    step, attempt = claim.step, claim.attempt
    known = claim.state.step(step.name)
    lag = step.lag if answer.lag is None else answer.lag
    since = believed_since(known, claim.claimed_at, lag)
    if claim.state.effect_to_undo(step.name) or since is None:
        return outcomes.succeeded(step, attempt.direction, attempt.number, NothingThere())
    return outcomes.denied(step, attempt.number, answer, max(since - claim.now(), timedelta(0)))


def _ended_by_its_step(claim: Claim) -> TransactionLostError:
    return TransactionLostError(
        f"step {claim.attempt.step} committed or rolled back the engine's transaction; "
        "it may do neither"
    )
