"""What others tell a saga: cancels, signals, effects proved outside, undos that came to nothing.

Each becomes a fact of the log, or of the inbox, before anything else; then the saga is looked at
here, if this process has its definition, else by the next sweep.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from orchestrator.context import Effect, Movement
from orchestrator.entries import (
    CancelRefused,
    CancelRequested,
    EffectReported,
    Entry,
    Json,
    MovementSettled,
    OperatorActed,
    Recorded,
    SagaResolved,
    UndoFailed,
    UndoRequested,
    UnwindingStarted,
)
from orchestrator.errors import (
    HistoryError,
    LogUnavailableError,
    PayloadError,
    StateConflictError,
    UnknownDefinitionError,
)
from orchestrator.folding import replay
from orchestrator.instrumentation import emit
from orchestrator.keys import generation_of
from orchestrator.money_at_risk import money_at_risk
from orchestrator.mover import ADD_SECONDS, Mover
from orchestrator.outcomes import printable, told
from orchestrator.payloads import MAX_BYTES, canonical, checked_key, refuse_card_data, to_json
from orchestrator.state import TERMINAL, UNENDED, FoldedSaga, State, StepState
from orchestrator.storage.complaints import Complaint, complaint_of
from orchestrator.storage.database import Moved
from orchestrator.storage.reads import Reads, SagaSummary
from orchestrator.storage.rows import Snapshot
from orchestrator.storage.saga_log import SagaLog
from orchestrator.storage.set_aside import is_log_ahead
from orchestrator.storage.signals import Signals
from orchestrator.troubles import brief

MAX_REASON_LENGTH = 500
MAX_NAME_LENGTH = 200


class CancelStatus(StrEnum):
    """What came of a cancel so far."""

    ACCEPTED = "accepted"
    PENDING = "pending"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancellation:
    """The answer to a cancel, and the saga it was asked of."""

    status: CancelStatus
    saga: SagaSummary


class OutsideFacts:
    """Writes down what others tell of sagas, and has them looked at."""

    def __init__(self, log: SagaLog, reads: Reads, signals: Signals, mover: Mover) -> None:
        self._log = log
        self._reads = reads
        self._signals = signals
        self._mover = mover

    def look(self, saga_id: UUID) -> None:
        """Decide at once what follows, where this process can; the sweep does it anyway."""
        try:
            self._mover.look(saga_id)
        except (LogUnavailableError, HistoryError) as error:
            emit("saga.look_failed", saga_id=saga_id, error=str(error))
        except Exception as error:
            if complaint_of(error) is not Complaint.NOT_ALLOWED:
                raise  # else its role may tell, and only workers decide

    def signal(self, definition: str, key: str, name: str, payload: Json, dedup_id: str) -> bool:
        """See `orchestrator.client.SagaClient.signal`."""
        for text in (name, dedup_id):
            if not text or len(text) > MAX_NAME_LENGTH:
                raise PayloadError(
                    f"name and dedup_id of a signal have 1 to {MAX_NAME_LENGTH} characters"
                )
        definition, key = checked_key(definition), checked_key(key)
        value = to_json(payload)
        if len(canonical(value)) > MAX_BYTES:
            raise PayloadError(f"the payload of a signal has at most {MAX_BYTES:,} bytes")
        refuse_card_data({"name": name, "dedup_id": dedup_id, "payload": value}, "signal")
        is_new = self._signals.keep(definition, key, printable(name), printable(dedup_id), value)
        try:
            saga_id = self._mover.hear(definition=definition, key=key)
        except (Moved, HistoryError):
            return is_new  # it is kept; the sweep delivers it
        if saga_id is not None:
            self.look(saga_id)
        return is_new

    def cancel(self, saga: SagaSummary, *, reason: str, actor: str) -> Cancellation:
        """See `orchestrator.client.SagaClient.cancel`."""
        _check_words(reason, actor)
        words = {"reason": to_json(reason), "actor": to_json(actor)}
        accepted = self._once_free(saga.id, lambda: self._log.request_cancel(saga.id, **words))
        if not accepted and not self._log.has(saga.id, CancelRequested):
            raise StateConflictError(
                f"saga {saga.id} is {saga.state}; only a running saga can be cancelled",
                saga_id=saga.id,
                state=saga.state,
            )
        if accepted:
            emit("saga.cancel_requested", saga_id=saga.id, reason=reason, actor=actor)
            self.look(saga.id)
        found = self._reads.get(saga.id) or saga
        return Cancellation(status=_cancel_status(self._log.entries(saga.id)), saga=found)

    def request_undo(self, saga: SagaSummary, *, reason: str, actor: str) -> bool:
        """See `orchestrator.client.SagaClient.request_undo`."""
        _check_words(reason, actor)
        fact = UndoRequested(reason=to_json(reason), actor=to_json(actor))
        self._add(saga, fact, unless=lambda _, state: state.undo_request is not None)
        return not self._log.has(saga.id, CancelRefused)

    def abandon(self, saga: SagaSummary, *, reason: str, actor: str) -> None:
        """See `orchestrator.client.SagaClient.abandon`."""
        _check_words(reason, actor)
        if not actor.strip():
            raise PayloadError("abandon needs an actor: who closes the saga")
        while True:
            snapshot = self._log.read(saga.id)
            if snapshot is None:
                return
            row = snapshot.saga
            is_ended, state = row.state in TERMINAL, replay(snapshot.entries)
            if is_ended or state.is_open:
                why = "has ended" if is_ended else "runs an attempt now; try again when that ended"
                raise StateConflictError(f"saga {row.id} {why}", saga_id=row.id, state=row.state)
            open_money = ", ".join([*money_at_risk(snapshot.entries), *_unanswered(state)])
            if open_money:
                raise StateConflictError(
                    f"saga {row.id} leaves money open, or what nobody knows of ({open_money}): "
                    "close it with `amends abandon`, which a second person confirms",
                    saga_id=row.id,
                    state=row.state,
                )
            closing: list[Entry] = [
                OperatorActed(verb="abandon", actor=actor, reason=reason),
                SagaResolved(actor=actor, reason=reason),
            ]
            if self._mover.note(row, closing, state=State.RESOLVED) is not None:
                return

    def report_effect(
        self, saga: SagaSummary, step: str, effect: Effect, *, by: str, key: str | None = None
    ) -> None:
        """See `orchestrator.client.SagaClient.report_effect`."""
        if effect.reference is None:
            raise PayloadError("an effect that others prove needs its reference")
        by = _checked_sender(by)
        snapshot = self._log.read(saga.id)
        state = replay(snapshot.entries if snapshot else [])
        if not _known(state, step).forward.attempts:
            raise StateConflictError(
                f"step {step!r} of saga {saga.id} never ran", saga_id=saga.id, state=saga.state
            )
        reference = effect.reference
        generation = None
        if key is not None:
            name = state.renamed.get(step, step)
            generation = generation_of(state, saga.definition, saga.key, name, key)
        fact = EffectReported(step=step, by=by, generation=generation, **told(step, effect))
        self._add(saga, fact, unless=self._is_told(fact, step=step, reference=reference))

    def report_undo_failed(
        self,
        saga: SagaSummary,
        step: str,
        reference: str,
        *,
        by: str,
        movements: Sequence[Movement],
    ) -> None:
        """See `orchestrator.client.SagaClient.report_undo_failed`."""
        by = _checked_sender(by)
        snapshot = self._log.read(saga.id)
        if not _is_undone(replay(snapshot.entries if snapshot else []), step, reference):
            raise StateConflictError(
                f"no undo of {step!r} in saga {saga.id} bears the reference {reference!r}",
                saga_id=saga.id,
                state=saga.state,
            )
        fact = UndoFailed(
            step=step,
            reference=reference,
            by=by,
            movements=to_json([each.as_json() for each in movements]) or None,
        )
        self._add(saga, fact, unless=lambda _, state: not _is_undone(state, step, reference))

    def report_settled(self, saga: SagaSummary, step: str, reference: str, *, by: str) -> None:
        """See `orchestrator.client.SagaClient.report_settled`."""
        if not reference:
            raise PayloadError("a movement that others settled needs its reference")
        reference = told(step, Effect(reference=reference))["reference"]  # as the log names it
        fact = MovementSettled(step=to_json(step), reference=reference, by=_checked_sender(by))
        self._add(saga, fact, unless=self._is_told(fact, step=step, reference=reference))

    def _is_told(self, fact: Entry, **what: Json) -> Callable[[Snapshot, FoldedSaga], bool]:
        """Whether the log holds such a fact; asked of the log, for what was read may be its end."""
        return lambda snapshot, _: self._log.has(snapshot.saga.id, type(fact), **what)

    def _add(
        self, saga: SagaSummary, fact: Entry, *, unless: Callable[[Snapshot, FoldedSaga], bool]
    ) -> None:
        """Log a fact and decide at once, or leave the decision to who has the definition.

        Of a saga that an operator resolved it is kept, and somebody is alerted; nothing is decided.
        """
        try:
            if self._mover.add(saga.id, fact, unless=unless) is not None:
                return
        except HistoryError as error:
            emit("saga.look_failed", saga_id=saga.id, error=str(error))  # it is a fact all the same
        if self._append(saga.id, fact, UNENDED):
            return
        if isinstance(fact, UndoRequested) and saga.state is not State.RESOLVED:
            raise UnknownDefinitionError(
                f"saga {saga.id} has ended and this process has not its definition "
                f"({saga.definition} v{saga.version}): name its module in AMENDS_SAGAS",
            )
        self._once_free(saga.id, lambda: self._mover.add_late(saga.id, fact))

    def _append(self, saga_id: UUID, fact: Entry, states: Iterable[State]) -> bool:
        """Append a fact as soon as nobody holds the saga's row."""
        return self._once_free(saga_id, lambda: self._log.append_fact(saga_id, fact, states))

    def _once_free(self, saga_id: UUID, write: Callable[[], bool]) -> bool:
        """Write as soon as nobody holds the row; where the log is ahead of it, make room first."""
        until = time.monotonic() + ADD_SECONDS
        made_room = False
        while True:
            try:
                return write()
            except Moved as error:
                if time.monotonic() > until:
                    raise LogUnavailableError(
                        f"others hold the row of saga {saga_id}: try it again"
                    ) from error
            except Exception as error:
                if not is_log_ahead(error):
                    raise
                self._mover.set_aside(saga_id, error)
                if made_room:
                    raise HistoryError(f"saga {saga_id} cannot be told: {brief(error)}") from error
                made_room = True


def _check_words(reason: str, actor: str) -> None:
    if not reason.strip():
        raise PayloadError("a reason is needed")
    if max(len(reason), len(actor)) > MAX_REASON_LENGTH:
        raise PayloadError(f"reason and actor have at most {MAX_REASON_LENGTH} characters")
    refuse_card_data(reason, "reason")
    refuse_card_data(actor, "actor")


def _checked_sender(by: str) -> str:
    if len(by) > MAX_REASON_LENGTH:
        raise PayloadError(f"who tells it has at most {MAX_REASON_LENGTH} characters")
    return printable(by)


def _cancel_status(entries: Sequence[Recorded]) -> CancelStatus:
    for each in entries:
        match each.entry:
            case CancelRefused():
                return CancelStatus.REFUSED
            case UnwindingStarted():
                return CancelStatus.ACCEPTED
            case _:
                pass
    return CancelStatus.PENDING


def _known(state: FoldedSaga, step: str) -> StepState:
    """The step, also under the name that it had before the saga was migrated."""
    return state.step(state.renamed.get(step, step))


def _is_undone(state: FoldedSaga, step: str, reference: str) -> bool:
    """Whether an undo of that reference, or of an effect of that reference, is believed."""
    known = _known(state, step)
    return reference == known.undo_reference or any(
        each.covered and reference in (each.reference, each.undo_reference)
        for each in known.effects
    )


def _unanswered(state: FoldedSaga) -> list[str]:
    """The steps that may have moved something outside, or begun it, and nobody knows."""
    return [
        name
        for name, step in state.steps.items()
        if step.forward.unsettled or step.undo.unsettled or step.is_begun
    ]
