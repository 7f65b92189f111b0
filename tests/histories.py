"""Sagas as values: a language of *given … expect …* for tests of the pure core.

`History` does to a log what the coordinator does to the database, and nothing more: append a fact,
append what `decide` answers, and let only those attempts start that `decide` asks for.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Self

from pydantic import BaseModel

from orchestrator.actions import RunStep
from orchestrator.definition import Retry, SagaDefinition, Step, step
from orchestrator.entries import (
    PROBES,
    CancelRequested,
    Direction,
    EffectReported,
    Entry,
    LateOutcomeRecorded,
    Recorded,
    SagaStarted,
    SagaUnparked,
    SignalReceived,
    StepFailed,
    StepProbed,
    StepReleased,
    StepSettled,
    StepStarted,
    StepSucceeded,
    StepUnknown,
    StepWaiting,
    UndoFailed,
    UnknownReason,
)
from orchestrator.folding import apply, replay
from orchestrator.state import FoldedSaga, State
from orchestrator.state_machine import Decision, decide

MORNING = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
FORWARD, COMPENSATE, PROBE = Direction.FORWARD, Direction.COMPENSATE, Direction.PROBE
PROBE_UNDO = Direction.PROBE_UNDO
_VERBS = {FORWARD: "", COMPENSATE: "undo ", PROBE: "probe ", PROBE_UNDO: "probe undo "}
QUICK = Retry(max_attempts=3, base=timedelta(milliseconds=1), cap=timedelta(seconds=1))


class Order(BaseModel):
    """A payload small enough to read in a failure message."""

    amount: int = 1
    gift: bool = False


def nothing(_context: Any) -> None:
    """Stand for a step's function; the pure core never calls it."""


def doing(name: str, **options: Any) -> Step:
    """A step with an undo and small budgets, unless told otherwise."""
    undone = {"compensation", "no_compensation", "retriable", "pivot", "read_only"} & set(options)
    if not undone:
        options["compensation"] = nothing
    return step(
        name, **{"run": nothing, "retry": QUICK, "undo_retry": QUICK, "max_crashes": 3, **options}
    )


def saga(*steps: Step, **options: Any) -> SagaDefinition[Order]:
    """A definition of those steps."""
    return SagaDefinition(
        **{"name": "shop", "version": 1, "payload": Order, "steps": steps, **options}
    )


class History:
    """A saga's log as it grows."""

    def __init__(self, definition: SagaDefinition[Any], **payload: Any) -> None:
        self.definition = definition
        self.now = MORNING
        self.log: list[Recorded] = []
        self.state = FoldedSaga()
        self.decision: Decision
        order = Order(**payload)
        deadline = definition.deadline
        self.records(
            SagaStarted(
                payload=order.model_dump(),
                skipped=[s.name for s in definition.steps if s.when and not s.when(order)],
                deadline_seconds=None if deadline is None else deadline.total_seconds(),
                lock=None if definition.lock is None else definition.lock.on(order),
            )
        )

    # -- what happens ------------------------------------------------------------------------------

    def records(self, *facts: Entry) -> Self:
        """Append facts, then everything that is decided because of them."""
        return self.appends(*facts).looks()

    def appends(self, *facts: Entry) -> Self:
        """Append facts before anybody decides."""
        for fact in facts:
            self._append(fact)
        return self

    def looks(self) -> Self:
        """Decide again, as a sweep does."""
        self.decision = decide(self.definition, self.state, self.now, "seed")
        for entry in self.decision.entries:
            self._append(entry)
        assert self.state == self.decision.state
        return self

    def later(self, **duration: float) -> Self:
        """Let time pass and look again."""
        self.now += timedelta(**duration)
        return self.looks()

    def claims(self, name: str, direction: str = FORWARD) -> Self:
        """Start the attempt that is asked for; it must be asked for."""
        run = self._wanted(name, direction)
        if run.not_before is not None:
            self.now = max(self.now, run.not_before)
        return self.records(
            StepStarted(step=name, direction=direction, attempt=run.attempt, owner="me")
        )

    def succeeds(
        self,
        *names: str,
        reference: str | None = None,
        result: Any = None,
        direction: str = FORWARD,
    ) -> Self:
        """Let each step, claimed if it was not, end well."""
        for name in names:
            if direction in PROBES:
                self.probed(name, Direction(direction), landed=True, reference=reference)
                continue
            self._ends(
                name,
                direction,
                lambda number, name=name: StepSucceeded(
                    step=name,
                    direction=direction,
                    attempt=number,
                    reference=reference,
                    result=result,
                    undone=None if direction == FORWARD else True,
                ),
            )
        return self

    def undoes(self, *names: str) -> Self:
        """Let the compensations of the steps end well, having undone something."""
        return self.succeeds(*names, direction=COMPENSATE)

    def finds_nothing(self, name: str) -> Self:
        """Let a compensation answer that there was nothing to undo."""
        return self._ends(
            name,
            COMPENSATE,
            lambda number: StepSucceeded(
                step=name, direction=COMPENSATE, attempt=number, undone=False
            ),
        )

    def fails(self, name: str, direction: str = FORWARD, **options: Any) -> Self:
        """Let an attempt end without effect; retriable unless `terminal`."""
        values: dict[str, Any] = {"terminal": False, "error": {"message": "no"}, **options}
        return self._ends(
            name,
            direction,
            lambda number: StepFailed(step=name, direction=direction, attempt=number, **values),
        )

    def declined(self, name: str, direction: str = FORWARD) -> Self:
        """Let an attempt be refused for good, for its key."""
        return self.fails(name, direction, terminal=True, decisive=True)

    def unknown(
        self,
        name: str,
        direction: str = FORWARD,
        reason: UnknownReason = UnknownReason.RAISED,
        *,
        is_kept: bool = False,
    ) -> Self:
        """Let an attempt end with nobody knowing what it did; an answer may be kept for its key."""
        return self._ends(
            name,
            direction,
            lambda number: StepUnknown(
                step=name,
                direction=direction,
                attempt=number,
                reason=reason,
                is_kept=is_kept,
            ),
        )

    def crashes(self, name: str, direction: str = FORWARD) -> Self:
        """Let an attempt lose its worker."""
        return self.unknown(name, direction, UnknownReason.LEASE_LOST)

    def released(self, name: str, direction: str = FORWARD) -> Self:
        """Let a claimed attempt be handed back before it began."""
        return self._ends(
            name,
            direction,
            lambda number: StepReleased(step=name, direction=direction, attempt=number),
        )

    def waits(
        self,
        name: str,
        signal: str | None,
        direction: str = FORWARD,
        *,
        decisive: bool = False,
        reference: str | None = None,
        **duration: float,
    ) -> Self:
        """Let a step wait for a signal that long."""
        until = (self.now + timedelta(**duration)).isoformat()
        return self._ends(
            name,
            direction,
            lambda number: StepWaiting(
                step=name,
                direction=direction,
                attempt=number,
                signal=signal,
                until=until,
                decisive=decisive,
                reference=reference,
            ),
        )

    def probed(
        self,
        name: str,
        direction: Direction = PROBE,
        *,
        landed: bool | None,
        reference: str | None = None,
    ) -> Self:
        """Let a probe, claimed if it was not, be answered."""
        return self._ends(
            name,
            direction,
            lambda number: StepProbed(
                step=name, direction=direction, attempt=number, landed=landed, reference=reference
            ),
        )

    def reported(self, name: str, reference: str) -> Self:
        """Let a webhook prove an effect."""
        return self.records(EffectReported(step=name, reference=reference, by="webhook"))

    def undo_failed(self, name: str, reference: str) -> Self:
        """Let an undo that had been accepted prove undone."""
        return self.records(UndoFailed(step=name, reference=reference, by="webhook"))

    def unparked(self, *fresh: str) -> Self:
        """Let an operator have another try."""
        return self.records(SagaUnparked(by="me", fresh=list(fresh)))

    def hears(self, signal: str, payload: Any = None) -> Self:
        """Deliver a signal."""
        return self.records(
            SignalReceived(name=signal, dedup_id=str(len(self.log)), payload=payload)
        )

    def late(self, name: str, attempt: int, reference: str | None = None) -> Self:
        """Let a given-up attempt report success after all."""
        return self.records(
            LateOutcomeRecorded(
                step=name,
                direction=FORWARD,
                attempt=attempt,
                outcome="succeeded",
                reference=reference,
            )
        )

    def settles(self, name: str, *, landed: bool, reference: str | None = None) -> Self:
        """Let somebody answer whether a step took effect."""
        return self.records(
            StepSettled(
                step=name, direction=FORWARD, landed=landed, by="operator", reference=reference
            )
        )

    def cancelled(self) -> Self:
        """Let somebody ask for the saga to be taken back."""
        return self.records(CancelRequested(reason="changed my mind", actor="client"))

    # -- what is expected --------------------------------------------------------------------------

    @property
    def wants(self) -> list[str]:
        """The attempts asked for, like ``pay#2`` and ``undo pay#1``, sorted."""
        return sorted(
            f"{_VERBS[run.direction]}{run.step}#{run.attempt}" for run in self.decision.runs
        )

    @property
    def visible(self) -> State:
        return self.decision.visible

    @property
    def kinds(self) -> list[str]:
        """The kinds of all entries, in order."""
        return [type(each.entry).__name__ for each in self.log]

    def run(self, name: str, direction: str = FORWARD) -> RunStep:
        """The attempt that is asked for."""
        return self._wanted(name, direction)

    # ----------------------------------------------------------------------------------------------

    def _wanted(self, name: str, direction: str) -> RunStep:
        for run in self.decision.runs:
            if run.step == name and run.direction == direction:
                return run
        raise AssertionError(f"{direction} {name} is not asked for, only {self.wants}")

    def _ends(self, name: str, direction: str, outcome: Any) -> Self:
        if self.state.step(name).track(direction).open_attempt is None:
            self.claims(name, direction)
        number = self.state.step(name).track(direction).open_attempt
        self.now += timedelta(milliseconds=1)
        return self.records(outcome(number))

    def _append(self, entry: Entry) -> None:
        recorded = Recorded(seq=len(self.log) + 1, at=self.now, entry=entry)
        self.log.append(recorded)
        self.state = apply(self.state, recorded)

    def replayed(self) -> FoldedSaga:
        """The state folded anew from the whole log."""
        return replay(self.log)
