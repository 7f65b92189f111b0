"""Looks into a webhook: asks its gateway how the payment stands, and tells the saga what is new.

Nothing that a webhook says is believed but the name of the payment. Whose payment it is, is told by
the key that opened it: a saga's keys are derived from the saga, so nobody else's payment passes for
one of its own, even under its order's name. A payment of another installation on the same account
is that one's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from orchestrator.client import SagaClient
from orchestrator.entries import Recorded
from orchestrator.errors import StepError
from orchestrator.folding import replay
from orchestrator.installation import Installation
from orchestrator.keys import installation_of, step_keys
from orchestrator.state import FoldedSaga
from orchestrator.storage.database import Database
from orchestrator.storage.reads import SagaSummary
from orchestrator.storage.saga_log import SagaLog
from orchestrator.storage.tombstones import Tombstones
from steps.gateways.payment import ChargeResult, PaymentGateway
from steps.gateways.reading import UnreadableAnswerError
from steps.webhooks.event import WebhookEvent
from steps.webhooks.forms import FORMS
from steps.webhooks.telling import tell
from steps.webhooks.weighing import AUTHORIZE, NotYet, Question, weigh

ASK: Final = timedelta(seconds=5)
"""The longest one question to the gateway may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a look came to, in words, and the saga it was about."""

    note: str
    saga_id: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """The saga was told something."""

    seen: Seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Nothing:
    """There was nothing to tell."""

    seen: Seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Later:
    """It cannot be told yet. `is_outage`: only because its gateway does not answer now."""

    reason: str
    is_outage: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Unclear:
    """A person has to look."""

    question: str


Look = Told | Nothing | Later | Unclear


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """A saga that a payment may belong to, with its log."""

    saga: SagaSummary
    state: FoldedSaga
    log: Sequence[Recorded]


class Looking:
    """Looks into webhooks about the payments of one definition.

    Args:
        client: with the doorbell and the definitions of this process.
        gateways: how to ask each gateway; of others nothing can be told.
        definition: the saga whose steps `authorize_payment` and `capture_payment` are paid for.
    """

    def __init__(
        self,
        database: Database,
        client: SagaClient,
        gateways: Mapping[str, Callable[[], PaymentGateway]],
        *,
        definition: str = "checkout",
    ) -> None:
        self._log = SagaLog(database)
        self._installation = Installation(database)
        self._tombstones = Tombstones(database)
        self._client = client
        self._gateways = gateways
        self._definition = definition

    def __call__(self, gateway: str, event_id: str, body: Mapping[str, Any]) -> Look:
        """Look into one event. Safe to repeat: a saga is told a fact once.

        Raises:
            LogUnavailableError: Postgres did not answer; look again.
        """
        try:
            event = FORMS[gateway].event(body)
        except UnreadableAnswerError as error:
            return Unclear(question=f"it cannot be read: {error}")
        if event is None or (event.refund_reference is None and event.order_reference is None):
            return Nothing(seen=Seen(note="a payment that names no order: not one of ours"))
        if gateway not in self._gateways:
            return Later(reason=f"{gateway} cannot be asked: AMENDS_GATEWAY is another one here")
        try:
            found = self._gateways[gateway]().find(
                reference=event.payment_reference, timeout_seconds=ASK.total_seconds()
            )
        except StepError as error:
            return Later(
                reason=f"{gateway} did not answer: {type(error).__name__} {error}", is_outage=True
            )
        if not found or not event.is_shown_by(found[0]):
            return Later(reason=f"{gateway} does not show {event.payment_reference} like this yet")
        return self._compare(found[0], event, f"{gateway}:{event_id}")

    def _compare(self, payment: ChargeResult, event: WebhookEvent, source: str) -> Look:
        if not payment.order_reference:
            return Nothing(seen=Seen(note="a payment that names no order: not one of ours"))
        whose = installation_of(payment.key)
        if whose not in (None, self._installation.read().name):
            note = f"{payment.reference} is a payment of installation {whose}"
            return Nothing(seen=Seen(note=note))
        cases = self._cases(payment.order_reference)
        if not cases:
            return self._without_saga(payment)
        own = [each for each in cases if _is_own(payment, each)]
        if not own:
            return _of_others(payment)
        return self._tell(payment, own[0], event, source)

    def _cases(self, order: str) -> list[_Case]:
        """The sagas of an order: by its key, or by what the payload calls it."""
        by_key = self._client.find(definition=self._definition, key=order)
        by_name = self._client.find(definition=self._definition, attributes={"order_id": order})
        sagas = {each.id: each for each in (*by_key, *by_name)}
        cases = []
        for saga in sagas.values():
            snapshot = self._log.read(saga.id)
            if snapshot is not None:
                log = snapshot.entries
                cases.append(_Case(saga=saga, state=replay(log), log=log))
        return cases

    def _without_saga(self, payment: ChargeResult) -> Look:
        """Not started yet, or pruned long ago."""
        order = payment.order_reference
        holder = self._log.holders(self._definition, [order]).get(order)
        if holder is None:
            return Later(reason=f"no saga of order {order} was started")
        pruned = self._tombstones.find(holder[0])
        known = pruned is not None and payment.reference in pruned.references
        if known and not any(each.status == "failed" for each in payment.refunds):
            return Nothing(seen=Seen(note="the saga ended and was pruned", saga_id=holder[0]))
        return Unclear(
            question=f"the saga of order {order} ended and was pruned; {payment.reference} is "
            f"{payment.status}, captured {payment.captured}, refunded {payment.refunded}"
        )

    def _tell(self, payment: ChargeResult, case: _Case, event: WebhookEvent, source: str) -> Look:
        """Tell the news first; what has to wait, or to be asked, is left for the next look."""
        told: list[str] = []
        left: Later | Unclear | None = None
        for finding in weigh(payment, case.state, case.log):
            match finding:
                case NotYet(reason=reason):
                    left = left or Later(reason=reason)
                case Question(text=text):
                    left = Unclear(question=text)
                case _:
                    by, saga_id = f"webhook {source}", case.saga.id
                    signal = {"payment": event.payment_reference, "kind": event.kind.value}
                    told.append(
                        tell(self._client, saga_id, finding, by=by, source=source, payload=signal)
                    )
        if left is not None:
            return left
        if told:
            return Told(seen=Seen(note=", ".join(told), saga_id=case.saga.id))
        note = f"{payment.reference} is {payment.status}, and the saga knows"
        return Nothing(seen=Seen(note=note, saga_id=case.saga.id))


def _is_own(payment: ChargeResult, case: _Case) -> bool:
    """Whether the saga opened the payment: under a key of its own, or the log says so."""
    step = case.state.step(AUTHORIZE)
    keys = step_keys(case.state, case.saga.definition, case.saga.key, AUTHORIZE)
    return payment.key in keys or any(each.reference == payment.reference for each in step.outside)


def _of_others(payment: ChargeResult) -> Look:
    named = f"{payment.reference} of order {payment.order_reference}"
    if payment.status.holds_money:
        return Unclear(question=f"{named} was not opened by its saga, and is {payment.status}")
    return Nothing(seen=Seen(note=f"{named} was not opened by its saga, and holds nothing"))
