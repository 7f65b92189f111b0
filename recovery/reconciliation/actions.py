"""What is done about a discrepancy: its saga is told, or a person is.

    the gateway moved money      under the key of a saga: it is told what a webhook would have told
    that the log does not know   it, by how the payment stands now (`steps.webhooks.weighing`)
    a refund failed              reported to the saga, which makes it again
    anything else, and whatever  a person is told, once
    is found again after that

Nothing here writes a saga's state. Each action may be done again: the engine takes a fact once, and
an alert is raised once for what it is about.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from orchestrator.books import movements
from orchestrator.client import SagaClient
from orchestrator.entries import Recorded
from orchestrator.errors import AmendsError, StateConflictError
from orchestrator.folding import replay
from orchestrator.keys import step_keys
from orchestrator.state import FoldedSaga
from orchestrator.storage.alerts import Alerts
from orchestrator.storage.reads import SagaSummary
from orchestrator.storage.saga_log import SagaLog
from recovery.reconciliation.discrepancies import Discrepancy, DiscrepancyType
from recovery.reconciliation.pages import Pages
from recovery.reconciliation.records import FAILED, MOVED
from recovery.reconciliation.storage.findings import Finding
from steps.gateways.payment import MovementKind, PaymentGateway
from steps.webhooks.telling import tell
from steps.webhooks.weighing import AUTHORIZE, News, NotYet, Question, weigh

BY: Final = "reconciliation"
CALL_SECONDS: Final = 10.0
_ORDERS: Final = 10
"""Sagas of one order that are looked at: repeated ones, and those of other definitions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What was done, in words, and for which saga."""

    what: str
    saga_id: UUID | None = None


class NotYetError(AmendsError):
    """The saga is about to say something of it itself; the next run asks again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Owner:
    saga: SagaSummary
    state: FoldedSaga
    log: Sequence[Recorded]
    keys: set[str]


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
        return self.page(finding)

    def page(self, finding: Finding) -> Action:
        """Tell a person, once."""
        self._pages.tell(finding)
        return Action(what="told a person")

    def _tell_saga(self, found: Discrepancy) -> Action | None:
        match found.type:
            case DiscrepancyType.MISSING_INTERNAL:
                return self._tell_owner(found)
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

    def _tell_owner(self, found: Discrepancy) -> Action | None:
        """Tell the saga whose key moved the money what its gateway shows now."""
        owner = self._owner(found)
        if owner is None:
            return None
        if any((m.kind, m.reference) == (found.kind, found.name) for m in movements(owner.log)):
            return Action(what="the saga knows of it by now", saga_id=owner.saga.id)
        if self._gateway is None or found.payment_reference is None:
            return None
        payments = self._gateway.find(
            reference=found.payment_reference, timeout_seconds=CALL_SECONDS
        )
        if len(payments) != 1 or payments[0].key not in owner.keys:
            return None  # the report beside the key speaks of a payment that the saga never opened
        news = weigh(payments[0], owner.state, owner.log)
        if any(isinstance(each, Question) for each in news):
            return None
        told = [self._pass_on(each, owner.saga, found.name) for each in news]
        return Action(what=", ".join(told), saga_id=owner.saga.id) if told else None

    def _pass_on(self, finding: News | NotYet | Question, saga: SagaSummary, name: str) -> str:
        match finding:
            case NotYet(reason=reason) | Question(text=reason):
                raise NotYetError(f"saga {saga.id}: {reason}")
            case _:
                return tell(self._client, saga.id, finding, by=BY, source=f"{BY}:{name}")

    def _owner(self, found: Discrepancy) -> _Owner | None:
        """The saga whose key moved the money; a name alone proves nothing."""
        if found.key is None or found.order_reference is None:
            return None
        for saga in self._sagas_of(found.order_reference):
            snapshot = self._log.read(saga.id)
            log = snapshot.entries if snapshot else []
            state = replay(log)
            keys = {
                key
                for step in state.steps
                for key in step_keys(state, saga.definition, saga.key, step)
            }
            if AUTHORIZE in state.steps and found.key in keys:
                return _Owner(saga=saga, state=state, log=log, keys=keys)
        return None

    def _sagas_of(self, order: str) -> Iterator[SagaSummary]:
        yield from self._client.find(key=order, limit=_ORDERS)
        yield from self._client.find(attributes={"order_id": order}, limit=_ORDERS)
