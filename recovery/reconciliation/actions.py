"""What is done about a discrepancy: its saga is told, or a person is.

    the gateway moved money      under the key of a saga's step, which waits for a signal: signalled
    that the log does not know   under the key of a saga's step: its effect is reported, and counts
                                 as the step's or is taken back, as the engine decides
    a refund failed              reported to the saga, which makes it again
    anything else, and whatever  a person is told, once
    is found again after that

Nothing here writes a saga's state. Each action may be done again: the engine takes a fact once, and
an alert is raised once for what it is about.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from orchestrator.client import SagaClient
from orchestrator.context import Effect
from orchestrator.entries import StepWaiting
from orchestrator.errors import StateConflictError
from orchestrator.folding import replay
from orchestrator.keys import forward_key
from orchestrator.state import SagaState, State
from orchestrator.storage.alerts import Alerts
from orchestrator.storage.reads import SagaSummary
from orchestrator.storage.saga_log import SagaLog
from recovery.reconciliation.discrepancies import Discrepancy, DiscrepancyType
from recovery.reconciliation.pages import Pages
from recovery.reconciliation.records import FAILED, MOVED
from recovery.reconciliation.storage.findings import Finding
from steps.gateways.payment import ChargeResult, MovementKind, PaymentGateway
from steps.payment import captured_payment, held_payment

BY: Final = "reconciliation"
CALL_SECONDS: Final = 10.0
_ORDERS: Final = 10
"""Sagas of one order that are looked at: repeated ones, and those of other definitions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What was done, in words, and for which saga."""

    what: str
    saga_id: UUID | None = None


class Actions:
    """Acts on the discrepancies of one run.

    Args:
        gateway: asked what the payment really is; without it a person is told instead.
    """

    def __init__(
        self, client: SagaClient, log: SagaLog, alerts: Alerts, gateway: PaymentGateway | None
    ) -> None:
        self._client = client
        self._log = log
        self._pages = Pages(alerts)
        self._gateway = gateway

    def act(self, finding: Finding) -> Action:
        """Do what is to be done about it, and return what that was.

        Raises:
            AmendsError, PaymentError: it could not be done; the next run tries again.
        """
        told = None if finding.act_count else self._tell_saga(finding.discrepancy)
        if told is not None:
            return told
        self._pages.tell(finding)
        return Action(what="told a person")

    def _tell_saga(self, found: Discrepancy) -> Action | None:
        match found.type:
            case DiscrepancyType.MISSING_INTERNAL:
                return self._report_effect(found)
            case DiscrepancyType.STATUS_MISMATCH:
                return self._report_undo_failed(found)
            case _:
                return None

    def _report_undo_failed(self, found: Discrepancy) -> Action | None:
        is_bounced = (found.kind, found.internal_status, found.gateway_status) == (
            MovementKind.REFUND,
            MOVED,
            FAILED,
        )
        if not is_bounced or found.saga_id is None or found.step is None:
            return None
        try:
            self._client.report_undo_failed(found.saga_id, found.step, found.name, by=BY)
        except StateConflictError:
            return None
        return Action(what=f"told the saga that its undo of {found.step} failed")

    def _report_effect(self, found: Discrepancy) -> Action | None:
        owner = self._owner(found)
        if owner is None:
            return None
        saga, step, state = owner
        signal = _awaited(saga, step, state)
        if signal is not None:
            self._client.signal(saga.id, signal, dedup_id=f"{BY}:{found.name}")
            return Action(what=f"signalled {signal}", saga_id=saga.id)
        effect = self._effect(found)
        if effect is None:
            return None
        try:
            self._client.report_effect(saga.id, step, effect, by=BY)
        except StateConflictError:
            return None
        return Action(what=f"reported the effect of {step} to the saga", saga_id=saga.id)

    def _owner(self, found: Discrepancy) -> tuple[SagaSummary, str, SagaState] | None:
        """The saga and the step whose key moved the money; a name alone proves nothing."""
        if found.key is None or found.order_reference is None:
            return None
        for saga in self._sagas_of(found.order_reference):
            snapshot = self._log.read(saga.id)
            state = replay(snapshot.entries if snapshot else [])
            for step in state.steps:
                if found.key in _keys(saga, step, state):
                    return saga, step, state
        return None

    def _sagas_of(self, order: str) -> Iterator[SagaSummary]:
        yield from self._client.find(key=order, limit=_ORDERS)
        yield from self._client.find(attributes={"order_id": order}, limit=_ORDERS)

    def _effect(self, found: Discrepancy) -> Effect | None:
        """The effect as the step itself would have told of it, by what the gateway shows now."""
        if self._gateway is None or found.payment_reference is None:
            return None
        payments = self._gateway.find(
            reference=found.payment_reference, timeout_seconds=CALL_SECONDS
        )
        if len(payments) != 1:
            return None
        effect = _as_told(found.kind, payments[0])
        moved = [(each.amount_minor, each.currency) for each in effect.movements] if effect else []
        return effect if moved == [(found.gateway_minor, found.gateway_currency)] else None


def _keys(saga: SagaSummary, step: str, state: SagaState) -> set[str]:
    """The keys under which the step may have acted so far."""
    known = state.step(step)
    name = known.key_name or step
    return {
        forward_key(saga.definition, saga.key, name, generation)
        for generation in range(1, known.generation + 1)
    }


def _awaited(saga: SagaSummary, step: str, state: SagaState) -> str | None:
    last = state.step(step).forward.last
    is_waiting = saga.state is State.WAITING and isinstance(last, StepWaiting)
    return last.signal if is_waiting and isinstance(last, StepWaiting) else None


def _as_told(kind: str, payment: ChargeResult) -> Effect | None:
    match kind:
        case MovementKind.AUTHORIZE:
            return held_payment(payment)
        case MovementKind.CAPTURE:
            return captured_payment(payment)
        case _:
            return None
