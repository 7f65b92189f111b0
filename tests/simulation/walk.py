"""One saga, from its start until the world is quiet: faults first, then none, and a judgement.

Time is a heap of moments. What an attempt's fate is, is drawn when it is claimed:

    answered    its function runs, and its outcome is recorded
    released    handed back before it began
    killed      its worker dies before or after the function ran
    stopped     the function ran, its worker stands still and comes back after it was given up
    slow        the request arrives later: within the timeout, or beyond it where the contract is
                broken; its answer comes late, or nobody lives to hear it
"""

from __future__ import annotations

import heapq
import itertools
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from random import Random
from types import SimpleNamespace
from typing import Any

from orchestrator import claiming, context, coordinator, outcomes
from orchestrator.claiming import Claim
from orchestrator.context import Lease, Resources
from orchestrator.coordinator import Coordinator
from orchestrator.definition import Kind, SagaDefinition
from orchestrator.definitions import Definitions
from orchestrator.doorbell import SilentDoorbell
from orchestrator.entries import (
    CancelRequested,
    Direction,
    EffectReported,
    Entry,
    LateOutcomeRecorded,
    MovementSettled,
    Outcome,
    Recorded,
    SagaCompensated,
    SagaCompleted,
    SagaParked,
    SagaStarted,
    SagaUnparked,
    SignalReceived,
    StepFailed,
    StepSettled,
    StepStarted,
    StepSucceeded,
    StepWaiting,
    UndoFailed,
    UnknownReason,
)
from orchestrator.folding import apply, replay
from orchestrator.keys import generation_of, key_of
from orchestrator.outcomes import told
from orchestrator.state import PARKED, TERMINAL, FoldedSaga, State
from orchestrator.state_machine import Decision, decide
from orchestrator.storage.database import Database, create_engine
from orchestrator.storage.rows import AttemptId, SagaRow, Snapshot
from recovery.operator.cases import Case
from steps.gateways.payment import ChargeStatus, PaymentGateway
from steps.payment import AUTHENTICATED
from steps.webhooks.weighing import (
    EffectProved,
    NotYet,
    PayerAnswered,
    RefundFailed,
    RefundSettled,
    weigh,
)
from tests.histories import MORNING
from tests.simulation.liars import CONFIRMERS, LIAR, confirmation, lie, said
from tests.simulation.other_side import (
    HELD,
    SIGNAL,
    Deed,
    Deeds,
    OtherSide,
    Payments,
    Trouble,
)
from tests.simulation.profiles import CALM, Profile

MAX_EVENTS = 600
LEASE = timedelta(seconds=15)
QUIET_WITHIN = timedelta(hours=30)
"""Once faults stop, everything declared (waits, lookups, budgets, late answers) is over by then."""

REPLAYED = 0.1
"""In how many walks the whole log is folded once more: it takes as long as the walk."""

PAYING = ("authorize_payment", "capture_payment")
OPERATOR_TRIES = 6
DELAYS = (1, 30, 150, 300, 600, 3600)
"""Seconds after which a webhook comes, at most."""

WEIGHED_AT_MOST = 8
KEY = "o-1"
ID = uuid.UUID(int=7)


class ViolationError(Exception):
    """What must never be was."""


@dataclass(slots=True, kw_only=True)
class Walked:
    """One saga that was walked: how it ended, its faults, and what was wrong, if anything."""

    shape: str
    end: str
    faults: dict[str, int]
    is_beyond: bool
    entries: int
    quiet_after: timedelta
    violation: str | None = None
    log: list[str] = field(default_factory=list)


class Clock:
    """Virtual time, for the world and for the modules of the engine that read a clock."""

    def __init__(self) -> None:
        self.now = MORNING

    def monotonic(self) -> float:
        return (self.now - MORNING).total_seconds()


@contextmanager
def virtual_time(clock: Clock) -> Iterator[None]:
    """Have the engine's own call read this clock."""
    modules: list[Any] = [claiming, context, coordinator]
    before = [each.time for each in modules]
    fake = SimpleNamespace(monotonic=clock.monotonic, sleep=time.sleep)
    for each in modules:
        each.time = fake
    try:
        yield
    finally:
        for each, real in zip(modules, before, strict=True):
            each.time = real


class Engine:
    """The engine's own call, on a database that is never asked."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._database = Database(create_engine("postgresql+psycopg://nobody@localhost/none"))
        self._coordinators: dict[str, Coordinator] = {}
        self._side: dict[type, Any] = {}

    def coordinator(
        self, definition: SagaDefinition[Any], payments: Payments, deeds: Deeds
    ) -> Coordinator:
        self._side = {PaymentGateway: payments, Deeds: deeds}
        found = self._coordinators.get(definition.hash)
        if found is None:
            found = self._coordinators[definition.hash] = Coordinator(
                database=self._database,
                definitions=Definitions([definition]),
                doorbell=SilentDoorbell(),
                owner=lambda: "me",
            )
        resources = Resources(factories={each: partial(self._of, each) for each in self._side})
        found._resources = found._resources.__class__(
            factories={**found._resources.factories, **resources.factories}
        )
        return found

    def _of(self, kind: type) -> Any:
        return self._side[kind]


class Walk:
    """One saga in one world."""

    def __init__(
        self,
        engine: Engine,
        definition: SagaDefinition[Any],
        payload: Any,
        rng: Random,
        profile: Profile,
        beside: Walk | None = None,
    ) -> None:
        """`beside`: the walk of another installation in the same world."""
        self.profile = profile
        self.rng = rng
        self.definition = definition
        self.clock = engine.clock
        self.began_at = MORNING if beside is None else self.clock.now
        self.clock.now = self.began_at
        beyond = rng.random() < profile.beyond
        rate = rng.choice([0.05, 0.15, 0.4])
        self.trouble = Trouble(rng=rng, rate=rate, beyond=beyond, likely=profile.likely)
        self.payments, self.deeds = self._world(beside)
        self.theirs = self._others()
        self.coordinator = engine.coordinator(definition, self.payments, self.deeds)
        self.pace = rng.choice([20, 20, 300])
        self.calm_at = self.began_at + timedelta(seconds=rng.choice([30, 120, 600, 3000]))
        self.log: list[Recorded] = []
        self.state = FoldedSaga()
        self.decision: Decision | None = None
        self._heap: list[tuple[datetime, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._queued: set[tuple[str, str, int]] = set()
        self._asked = 0
        self._reconciled = False
        self._weighed: dict[str, int] = {}
        self._keys: dict[tuple[str, str], str] = {}
        self._told_of_answer: set[str] = set()
        self.deeds.is_stubborn = rng.random() < profile.stubborn
        outside = [each.name for each in definition.steps if not each.read_only]
        last = definition.steps[-1]
        if rng.random() < profile.declines and last.kind is not Kind.RETRIABLE:
            self.deeds.declines = last.name
        spared = [each.name for each in definition.steps if each.undone_by]
        some = spared if spared and rng.random() < 0.5 else outside
        self.broken = rng.choice(some) if beyond and rng.random() < 0.8 else None
        self.records(
            SagaStarted(
                payload=payload.model_dump(mode="json"),
                installation=self.payments.whose if profile.is_shared or beside else None,
                deadline_seconds=None
                if definition.deadline is None
                else definition.deadline.total_seconds(),
            )
        )
        if rng.random() < profile.cancels:
            self._soon(rng.choice([120, 600]), self._cancels)

    def _world(self, beside: Walk | None) -> tuple[Payments, Deeds]:
        if beside is None:
            now = lambda: self.clock.now  # noqa: E731 - it is one for both
            return Payments(self.trouble, now), Deeds(self.trouble, now)
        for each in (beside.payments, beside.deeds):
            each.trouble, each.whose = self.trouble, "them"
        return beside.payments, beside.deeds

    def _others(self) -> list[Any]:
        """How everything stands that another installation has made."""
        sides = (self.payments, self.deeds)
        made: dict[str, Any] = {**self.payments.payments, **self.deeds.deeds}
        theirs = [name for side in sides for name in side.made_by if not side.is_ours(name)]
        return [(name, getattr(made[name], "status", None) or made[name].state) for name in theirs]

    # -- the loop ----------------------------------------------------------------------------------

    def run(self) -> None:
        for _ in range(MAX_EVENTS):
            if not self._heap:
                if not self._goes_on():
                    break
                continue
            at, _number, happens = heapq.heappop(self._heap)
            self.clock.now = max(self.clock.now, at)
            if self.clock.now >= self.calm_at:
                self.trouble.rate = 0.0
            happens()
            if self.trouble.wrongs:
                raise ViolationError(self.trouble.wrongs[0])
            self._check_told()
        else:
            raise ViolationError(f"no end after {MAX_EVENTS} events")
        if self.clock.now - self.calm_at > QUIET_WITHIN:
            raise ViolationError(f"quiet only {self.clock.now - self.calm_at} after the last fault")
        if self.rng.random() < REPLAYED and replay(self.log) != self.state:
            raise ViolationError("the log folds to another state")
        self._judge_end()
        self._judge_left_open()
        if self._others() != self.theirs:
            raise ViolationError(f"another installation's: {self.theirs}, now {self._others()}")

    def _goes_on(self) -> bool:
        """With nothing left to happen: what is still true outside is told, and a person answers."""
        assert self.decision is not None
        self.trouble.rate = 0.0
        self.calm_at = min(self.calm_at, self.clock.now)
        if not self._is_over():
            raise ViolationError(f"forgotten: {self.decision.visible}, nothing will happen")
        if not self._reconciled:
            self._reconciled = True
            self._at(timedelta(hours=24) if self.state.is_terminal else timedelta(0), self._report)
            return True
        if self.decision.visible in PARKED and self._asked < OPERATOR_TRIES:
            self._asked += 1
            self._at(timedelta(minutes=1), self._answers)
            return True
        return False

    def _at(self, after: timedelta, happens: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (self.clock.now + after, next(self._numbers), happens))

    def _soon(self, most_seconds: float, happens: Callable[[], None]) -> None:
        self._at(timedelta(seconds=self.rng.uniform(0, most_seconds)), happens)

    # -- the log -----------------------------------------------------------------------------------

    def records(self, *facts: Entry) -> None:
        """Append facts and what is decided because of them; schedule what was asked for."""
        for fact in facts:
            self._append(fact)
        self._look()

    def _look(self) -> None:
        self.decision = decide(self.definition, self.state, self.clock.now, "seed")
        for entry in self.decision.entries:
            self._judge_decision(entry)
            seq = len(self.log) + 1
            self.log.append(Recorded(seq=seq, at=self.clock.now, entry=entry))
        self.state = self.decision.state
        if any(isinstance(e, SagaCompleted | SagaCompensated) for e in self.decision.entries):
            self._judge_end()
        wanted = set()
        for run in self.decision.runs:
            attempt = (run.step, run.direction.value, run.attempt)
            wanted.add(attempt)
            if attempt not in self._queued:
                due = max(run.not_before or self.clock.now, self.clock.now) - self.clock.now
                wait = timedelta(seconds=self.rng.choice([0.001, 0.001, 0.5, self.pace]))
                self._at(due + wait, partial(self._claims, *attempt))
        self._queued = wanted
        if self.decision.wake_at is not None:
            self._at(self.decision.wake_at - self.clock.now, self._look)
        news = [(self.payments, each) for each in self.payments.news]
        self.payments.news.clear()
        for _, reference in news:
            self._tell_of(reference)
        for reference in self.deeds.news:
            self._tell_of_deed(reference)
        self.deeds.news.clear()

    def _append(self, entry: Entry) -> None:
        recorded = Recorded(seq=len(self.log) + 1, at=self.clock.now, entry=entry)
        self.log.append(recorded)
        self.state = apply(self.state, recorded)

    # -- attempts ----------------------------------------------------------------------------------

    def _claims(self, name: str, direction: str, number: int) -> None:
        assert self.decision is not None
        runs = [(run.step, run.direction.value, run.attempt) for run in self.decision.runs]
        if (name, direction, number) not in runs or self._is_open(name, direction, number):
            return
        self._judge_wait(name, direction)
        self.records(StepStarted(step=name, direction=direction, attempt=number, owner="me"))
        claim = self._claim(name, direction, number)
        step = self.definition.step(name)
        self._keys[name, direction] = self._key(claim)
        fates = ["released", "killed_before", "killed_after", "stopped", "slow", "slow"]
        fate = self.trouble.strikes(*fates)
        if name == self.broken and direction == Direction.FORWARD and self.trouble.rate:
            self.broken = None
            self._breaks_its_contract(claim)
            return
        if step.read_only and fate in ("killed_after", "stopped", "slow"):
            fate = "killed_before"
        match fate:
            case None:
                outcome = self._calls(claim)
                self._at(
                    timedelta(milliseconds=self.rng.choice([1, 50, 2000])),
                    lambda: self._ends(outcome),
                )
            case "released":
                self._ends(outcomes.released(step, direction, number))
            case "killed_before":
                self._given_up(claim, timedelta(seconds=2), UnknownReason.CRASHED)
            case "killed_after":
                self._calls(claim)
                self._given_up(claim, timedelta(seconds=2), UnknownReason.CRASHED)
            case "stopped":
                outcome = self._calls(claim)
                self._given_up(claim, LEASE, UnknownReason.LEASE_LOST)
                self._at(
                    LEASE + timedelta(seconds=self.rng.choice([1, 60, 3600])),
                    lambda: self._late(outcome),
                )
            case _:
                self._is_slow(claim)

    def _breaks_its_contract(self, claim: Claim) -> None:
        """The other side does what it promised not to: a request that is under way for longer than
        any timeout, or an effect that no lookup shows for longer than its lag."""
        side, key = self._side(claim.step.name), self._key(claim)
        if self.rng.random() < 0.5:
            self._counts("hidden_beyond_lag")
            side.hidden.add(key)
            outcome = self._calls(claim)
            self._soon(1, lambda: self._ends(outcome))
            return
        self._counts("beyond_send_by")
        seconds = self.rng.uniform(120, 3600)
        side.cut_until[key] = self.clock.now + timedelta(seconds=seconds)
        self._is_slow(claim, seconds)

    def _counts(self, fault: str) -> None:
        self.trouble.counts[fault] = self.trouble.counts.get(fault, 0) + 1

    def _is_slow(self, claim: Claim, seconds: float | None = None) -> None:
        self._given_up(claim, LEASE, UnknownReason.LEASE_LOST)
        if seconds is None:
            seconds = self.rng.uniform(0.1, claim.step.timeout.total_seconds())
        lives = self.rng.random() < 0.7

        def arrives() -> None:
            outcome = self._calls(claim)
            if lives:
                self._at(timedelta(seconds=20), lambda: self._late(outcome))
            self._look()

        self._at(timedelta(seconds=seconds), arrives)

    def _claim(self, name: str, direction: str, number: int) -> Claim:
        monotonic = self.clock.monotonic()
        return Claim(
            attempt=AttemptId(saga_id=ID, step=name, direction=direction, number=number),
            token=uuid.UUID(int=1),
            definition=self.definition,
            saga=self._row(State.RUNNING),
            state=self.state,
            lease=Lease(valid_until=monotonic + 1e9, ends_at=monotonic + 1e9),
            claimed_at=self.clock.now,
            claimed_monotonic=monotonic,
        )

    def _calls(self, claim: Claim) -> Outcome:
        """The engine's own call of the step's function."""
        failed_before = self.trouble.counts.get("lookup_fails", 0)
        outcome = self.coordinator._call(claim, None)
        attempt = claim.attempt
        still_counts = self._is_open(attempt.step, attempt.direction, attempt.number)
        if still_counts and self.trouble.counts.get("lookup_fails", 0) == failed_before:
            self._judge_waits_anew(outcome)
        if claim.attempt.direction == Direction.FORWARD and not claim.step.read_only:
            self._judge_asked(claim, outcome)
        return outcome

    def _key(self, claim: Claim) -> str:
        attempt = claim.attempt
        return key_of(claim.state, self.definition.name, KEY, attempt.step, attempt.direction)

    def _side(self, step: str) -> OtherSide:
        return self.payments if step in PAYING else self.deeds

    def _is_open(self, name: str, direction: str, number: int) -> bool:
        return self.state.step(name).track(direction).open_attempt == number

    def _ends(self, outcome: Outcome) -> None:
        if self._is_open(outcome.step, outcome.direction, outcome.attempt):
            self.records(outcome)
        else:
            self._late(outcome)

    def _given_up(self, claim: Claim, after: timedelta, reason: UnknownReason) -> None:
        attempt = claim.attempt

        def gives_up() -> None:
            if self._is_open(attempt.step, attempt.direction, attempt.number):
                self.records(
                    outcomes.given_up(claim.step, attempt.direction, attempt.number, reason)
                )

        self._at(after, gives_up)

    def _late(self, outcome: Outcome) -> None:
        late = outcomes.late(outcome)
        if late is not None and not self._is_open(late.step, late.direction, late.attempt):
            known = any(
                isinstance(e.entry, LateOutcomeRecorded)
                and (e.entry.step, e.entry.direction, e.entry.attempt)
                == (late.step, late.direction, late.attempt)
                for e in self.log
            )
            if not known:
                self.records(late)

    def _cancels(self) -> None:
        if self.state.phase is State.RUNNING and self.state.cancel is None:
            self._counts("cancelled")
            self.records(CancelRequested(reason="no", actor="client"))

    # -- what others tell --------------------------------------------------------------------------

    def _tell_of(self, reference: str) -> None:
        """A payment has changed: its payer answers, and its webhook comes, soon or late."""
        payment = self.payments.payments[reference]
        if payment.status is ChargeStatus.REQUIRES_ACTION:
            passed = self.rng.random() < 0.6
            if self.rng.random() < 0.85:
                self._soon(
                    self.rng.choice([2, 60, 1200]),
                    lambda: self._answered(reference, passed=passed),
                )
            return
        self._soon(self.rng.choice(DELAYS), lambda: self._weigh(reference))

    def _answered(self, reference: str, *, passed: bool) -> None:
        self.payments.answers_challenge(reference, passed=passed)
        self._look()

    def _weigh(self, reference: str) -> None:
        if self.payments.payments[reference].status is not ChargeStatus.REQUIRES_ACTION:
            self._told_of_answer.add(reference)
        findings = weigh(self.payments.payments[reference], self.state, self.log)
        for found in findings:
            match found:
                case PayerAnswered():
                    self.records(
                        SignalReceived(name=AUTHENTICATED, dedup_id=f"{len(self.log)}", payload={})
                    )
                case EffectProved(step=step, effect=effect, key=key):
                    generation = generation_of(self.state, "checkout", KEY, step, key or "")
                    self.records(
                        EffectReported(
                            step=step, by="webhook", generation=generation, **told(step, effect)
                        )
                    )
                case RefundSettled(reference=named):
                    self.records(
                        MovementSettled(step="capture_payment", reference=named, by="webhook")
                    )
                case RefundFailed(reference=named):
                    self.records(UndoFailed(step="capture_payment", reference=named, by="webhook"))
                case NotYet():
                    self._weighs_again(reference)
                case _:
                    pass

    def _weighs_again(self, reference: str) -> None:
        """Later and later, as webhooks are; what is left then the reconciliation finds."""
        tries = self._weighed[reference] = self._weighed.get(reference, 0) + 1
        if tries <= WEIGHED_AT_MOST:
            self._at(timedelta(seconds=15 * 2**tries), lambda: self._weigh(reference))

    def _tell_of_deed(self, reference: str) -> None:
        deed = self.deeds.deeds[reference]
        if deed.state == "opened":
            passed = self.rng.random() < 0.6
            if self.rng.random() < 0.85:
                self._soon(1200, lambda: self._deed_answered(reference, passed=passed))
        elif deed.state == "done" and deed.named and self.rng.random() < 0.6:
            self._soon(self.rng.choice(DELAYS), lambda: self._deed_reported(deed))

    def _deed_answered(self, reference: str, *, passed: bool) -> None:
        self.deeds.answers(reference, passed=passed)
        self.records(SignalReceived(name=SIGNAL, dedup_id=f"{len(self.log)}", payload={}))

    def _deed_reported(self, deed: Deed) -> None:
        step = self.state.step(deed.step)
        if deed.state != "done" or not step.forward.attempts:
            return
        if any(each.reference == deed.reference for each in step.effects):
            return
        knows = self.rng.random() < 0.7
        generation = generation_of(self.state, self.definition.name, KEY, deed.step, deed.key)
        self.records(
            EffectReported(
                step=deed.step,
                reference=deed.reference,
                by="webhook",
                result={"deed": deed.reference},
                generation=generation if knows else None,
            )
        )

    def _report(self) -> None:
        """The next day's reconciliation: what is there and the log does not know."""
        for reference in [each.reference for each in self.payments.ours]:
            self._weigh(reference)
        for deed in self.deeds.ours:
            if deed.named:
                self._deed_reported(deed)

    # -- an honest operator in a healed world ------------------------------------------------------

    def _answers(self) -> None:
        parked = self.state.parked
        if parked is None:
            return
        self.deeds.is_stubborn = False
        if self.profile.lies and self.rng.random() < self.profile.lies:
            self._lies()
            return
        facts: list[Entry] = []
        if parked.reason in ("unknown", "poison") and self.state.parked_from is State.RUNNING:
            facts = [
                fact for each in parked.steps if (fact := self._settled_truly(each)) is not None
            ]
        self.records(*facts, SagaUnparked(by="ada", fresh=list(parked.steps)))

    def _lies(self) -> None:
        """Somebody says something, and perhaps somebody says that it is so."""
        self._counts("lied")
        names = [each.reference for each in self.payments.ours]
        names += [each.reference for each in self.deeds.ours]
        verb = lie(self.rng, self._case(), names)
        entries = said(self.coordinator, self._case(), verb, LIAR)
        if any(getattr(each, "unverified", False) for each in entries):
            raise ViolationError(f"one person's word counts: {verb}")
        self.records(*entries)
        second = self.rng.choice(CONFIRMERS)
        if second is not None and self.state.assertions:
            self.records(*said(self.coordinator, self._case(), confirmation(), second))

    def _case(self) -> Case:
        snapshot = Snapshot(
            saga=self._row(self.state.phase),
            entries=list(self.log),
            attempts=[],
            now=self.clock.now,
        )
        return Case(snapshot=snapshot, state=self.state, known=self.definition)

    def _row(self, state: State) -> SagaRow:
        return SagaRow(
            id=ID,
            definition=self.definition.name,
            version=1,
            definition_hash=self.definition.hash,
            key=KEY,
            fingerprint="",
            state=state,
            seq=self.state.seq,
        )

    def _settled_truly(self, name: str) -> StepSettled | None:
        step = self.state.step(name)
        if not step.forward.unsettled:
            return None
        named = self._outside(name)
        is_known = {each.reference for each in step.effects}
        new = [each for each in named if each[1] and each[0] not in is_known]
        attempts = step.forward.attempts
        if not new:
            return StepSettled(
                step=name, direction="forward", landed=False, by="ada", attempt=attempts
            )
        reference, _, result = new[0]
        return StepSettled(
            step=name,
            direction="forward",
            landed=True,
            by="ada",
            attempt=attempts,
            reference=reference,
            result=result,
        )

    # -- the judgement -----------------------------------------------------------------------------

    def _outside(self, name: str) -> list[tuple[str, bool, Any]]:
        """What a step did outside: the name of each, whether it stands, and its result."""
        if name in PAYING:
            held = (
                (ChargeStatus.AUTHORIZED, ChargeStatus.CAPTURED)
                if name == "authorize_payment"
                else (ChargeStatus.CAPTURED,)
            )
            return [
                (each.reference, each.status in held, {"reference": each.reference})
                for each in self.payments.ours
            ]
        return [
            (each.reference, each.stands, {"deed": each.reference})
            for each in self.deeds.ours
            if each.step == name
        ]

    def _check_told(self) -> None:
        """A question that nobody can answer is asked as soon as nothing runs."""
        assert self.decision is not None
        if self._is_over() or self.decision.runs or self.state.is_open:
            return
        for name, step in self.state.steps.items():
            if step.forward.unsettled and not isinstance(step.forward.last, StepWaiting):
                raise ViolationError(f"{name} is unknown, nothing settles it and nobody is asked")

    def _judge_asked(self, claim: Claim, outcome: Outcome) -> None:
        """A step asks for its effect before it looks for it."""
        key, name = self._key(claim), claim.step.name
        if isinstance(outcome, StepFailed) or key in self._side(name).requested:
            return
        self.trouble.wrongs.append(f"{name} looks for what was never asked for under its key")

    def _judge_wait(self, name: str, direction: str) -> None:
        """Nobody waits to the end for an answer that a webhook has told of."""
        step = self.state.step(name)
        wait = step.forward.last
        if (
            name not in PAYING
            or direction != Direction.FORWARD
            or not isinstance(wait, StepWaiting)
        ):
            return
        heard = self.state.signals.get(AUTHENTICATED, ())
        is_told = wait.reference in self._told_of_answer
        if is_told and len(heard) <= step.signals_used.get(AUTHENTICATED, 0):
            raise ViolationError(
                f"{name} waited to the end for {wait.reference}, which was told of"
            )

    def _judge_waits_anew(self, outcome: Outcome) -> None:
        """Nobody begins to wait for what a look tells to be over."""
        if not isinstance(outcome, StepWaiting) or self.trouble.beyond:
            return
        payment = self.payments.payments.get(outcome.reference or "")
        if payment is not None and payment.status is not ChargeStatus.REQUIRES_ACTION:
            self.trouble.wrongs.append(f"{outcome.step} waits for {outcome.reference}, it is over")

    def _judge_decision(self, entry: Entry) -> None:
        match entry:
            case StepSettled(landed=False):
                self._judge_settled(entry)
            case SagaParked():
                for name in entry.steps:
                    self._judge_question(name)
            case _:
                pass

    def _judge_settled(self, entry: StepSettled) -> None:
        """What is settled as not landed did not land, and never will."""
        side, key = self._side(entry.step), self._keys[entry.step, entry.direction]
        strict = not self.trouble.beyond
        if strict:
            side.settled.add(key)
        if entry.direction == Direction.COMPENSATE:
            if strict and key in side.acted:
                raise ViolationError(f"the undo of {entry.step} landed, and is settled as not")
            return
        for reference in self._stands_under(key):
            if strict or reference in self._heard_of():
                raise ViolationError(f"{entry.step} is settled as not landed: {reference}")

    def _stands_under(self, key: str) -> list[str]:
        """What was done under that key and stands, or may come to."""
        open_or_held = (*HELD, ChargeStatus.REQUIRES_ACTION)
        paid = [e.reference for e in self.payments.ours if e.key == key]
        done = [e.reference for e in self.deeds.ours if e.key == key]
        return [
            *(e for e in paid if self.payments.payments[e].status in open_or_held),
            *(e for e in done if self.deeds.deeds[e].state in ("opened", "done")),
        ]

    def _judge_question(self, name: str) -> None:
        """Nobody is asked what the other side was not asked first."""
        step, declared = self.state.step(name), self.definition.step(name)
        acted, asking, probe = step.forward, step.probe, declared.probe
        if step.undo.unsettled:
            acted, asking, probe = step.undo, step.undo_probe, declared.undo_probe
        if acted.unsettled and probe is not None and asking.started_seq < acted.started_seq:
            raise ViolationError(f"a person is asked of {name}, and its probe was not")

    def _is_over(self) -> bool:
        assert self.decision is not None
        return self.decision.visible in TERMINAL | PARKED

    def _judge_end(self) -> None:
        if self.state.phase not in (State.COMPLETED, State.COMPENSATED):
            return
        strict = not self.trouble.beyond
        for each in self.definition.steps:
            if each.read_only:
                continue
            standing = [ref for ref, stands, _ in self._outside(each.name) if stands]
            if not strict:
                heard_of = self._heard_of()
                unheard = {e.within for e in self.deeds.standing if e.reference not in heard_of}
                standing = [ref for ref in standing if ref in heard_of - unheard]
            if self.state.phase is State.COMPENSATED and each.compensation and standing:
                raise ViolationError(f"compensated, and {each.name} stands: {standing}")
            self._judge_completed(each.name, standing, strict=strict)
        if strict and self.state.phase is State.COMPLETED:
            self._judge_twice()

    def _judge_left_open(self) -> None:
        """What was begun, and may still take effect, is called off."""
        if self.state.phase not in (State.COMPLETED, State.COMPENSATED):
            return
        paid = self.payments.ours
        begun = [e.reference for e in paid if e.status is ChargeStatus.REQUIRES_ACTION]
        undoable = {each.name for each in self.definition.steps if each.compensation}
        deeds = [each for each in self.deeds.ours if each.step in undoable]
        begun += [each.reference for each in deeds if each.state == "opened"]
        left = sorted(set(begun) & self._heard_of())
        if left:
            raise ViolationError(f"{self.state.phase}, and {left} may take effect yet")

    def _judge_completed(self, name: str, standing: list[str], *, strict: bool) -> None:
        if self.state.phase is not State.COMPLETED or not strict:
            return
        step = self.state.step(name)
        if not standing and not step.skipped:
            raise ViolationError(f"completed, and {name} is not done")
        counts = step.effect
        if counts is not None and counts.reference and counts.reference not in standing:
            raise ViolationError(f"completed with {counts.reference} of {name}, which is undone")

    def _judge_twice(self) -> None:
        at_most_one = [each for each in self.definition.steps if each.compensation is not None]
        for each in at_most_one:
            standing = [ref for ref, stands, _ in self._outside(each.name) if stands]
            known = self._heard_of()
            if len(standing) > 1 and (not self.trouble.beyond or set(standing) <= known):
                raise ViolationError(f"completed with {each.name} done twice: {standing}")

    def _heard_of(self) -> set[str]:
        """The references that the log tells of, whoever told."""
        found = {getattr(each.entry, "reference", None) for each in self.log}
        told_of = {
            (each.entry.step, self.state.step(each.entry.step).generation_of(each.entry.attempt))
            for each in self.log
            if isinstance(each.entry, StepSucceeded | LateOutcomeRecorded)
            and each.entry.direction == Direction.FORWARD
            and (isinstance(each.entry, StepSucceeded) or each.entry.outcome == "succeeded")
        }
        for deed in self.deeds.ours:
            key = generation_of(self.state, self.definition.name, KEY, deed.step, deed.key)
            if (deed.step, key) in told_of:
                found.add(deed.reference)
        return {each for each in found if each is not None}


def walked(
    engine: Engine, shape: SagaDefinition[Any], payload: Any, rng: Random, profile: Profile
) -> Walked:
    """Walk one saga, and return what became of it."""
    beside = None
    if profile.is_shared:
        beside = Walk(engine, shape, payload, rng, replace(CALM, is_shared=True))
        beside.run()
    walk = Walk(engine, shape, payload, rng, profile, beside)
    violation = None
    try:
        walk.run()
    except ViolationError as error:
        violation = str(error)
    except Exception as error:  # noqa: BLE001 - a saga that cannot be decided is one as well
        violation = f"{type(error).__name__}: {error}"
    return Walked(
        shape=shape.name,
        end=walk.state.phase.value,
        faults=walk.trouble.counts,
        is_beyond=walk.trouble.beyond,
        entries=len(walk.log),
        quiet_after=max(timedelta(0), walk.clock.now - walk.calm_at),
        violation=violation,
        log=[f"{e.at:%H:%M:%S} {e.entry}" for e in walk.log] if violation else [],
    )
