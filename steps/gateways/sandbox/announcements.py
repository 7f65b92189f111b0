"""What the gateway tells about a movement, in its own words and in Stripe's.

An announcement is made from the ledger alone: its id holds the movement's `seq`, its object is the
payment or the refund as it stood right after that movement. So it is the same whenever it is made,
and a movement that changed nothing (a refused request) has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from steps.gateways.sandbox import wire
from steps.gateways.sandbox.ledger import Ledger
from steps.gateways.sandbox.movements import UNCONFIRMED, Movement, Operation, Payment, Refund, fold
from steps.gateways.sandbox.newest_first import Kind
from steps.gateways.sandbox.stripe_face.form import StripeForm, is_stripes

OWN_TYPES: Final[Mapping[Kind, str]] = {
    (Operation.AUTHORIZE, "authorized"): "payment.authorized",
    (Operation.AUTHORIZE, "requires_action"): "payment.requires_action",
    (Operation.AUTHORIZE, "card_declined"): "payment.failed",
    (Operation.AUTHORIZE, "insufficient_funds"): "payment.failed",
    (Operation.AUTHORIZE, "challenge_failed"): "payment.failed",
    (Operation.AUTHORIZE, "challenge_expired"): "payment.failed",
    (Operation.CAPTURE, "captured"): "payment.succeeded",
    (Operation.VOID, "voided"): "payment.voided",
    (Operation.VOID, "called_off"): "payment.voided",
    (Operation.REFUND, "refunded"): "refund.created",
    (Operation.REFUND, "refund_pending"): "refund.created",
    (Operation.REFUND_SETTLED, "refund_settled"): "refund.updated",
    (Operation.REFUND_FAILED, "refund_failed"): "refund.failed",
}

STRIPE_TYPES: Final[Mapping[Kind, str]] = {
    (Operation.AUTHORIZE, UNCONFIRMED): "payment_intent.created",
    (Operation.AUTHORIZE, "authorized"): "payment_intent.amount_capturable_updated",
    (Operation.AUTHORIZE, "requires_action"): "payment_intent.requires_action",
    (Operation.AUTHORIZE, "card_declined"): "payment_intent.payment_failed",
    (Operation.AUTHORIZE, "insufficient_funds"): "payment_intent.payment_failed",
    (Operation.AUTHORIZE, "challenge_failed"): "payment_intent.payment_failed",
    (Operation.AUTHORIZE, "challenge_expired"): "payment_intent.payment_failed",
    (Operation.CAPTURE, "captured"): "payment_intent.succeeded",
    (Operation.VOID, "voided"): "payment_intent.canceled",
    (Operation.VOID, "called_off"): "payment_intent.canceled",
    (Operation.REFUND, "refunded"): "refund.created",
    (Operation.REFUND, "refund_pending"): "refund.created",
    (Operation.REFUND_SETTLED, "refund_settled"): "refund.updated",
    (Operation.REFUND_FAILED, "refund_failed"): "refund.failed",
}


class Announcements:
    """Makes announcements of one ledger's movements."""

    def __init__(self, ledger: Ledger, own: wire.OwnForm, stripe: StripeForm) -> None:
        self._ledger = ledger
        self._own = own
        self._stripe = stripe

    def own(self, movement: Movement) -> dict[str, Any] | None:
        """In the gateway's own form; None where nothing is told."""
        kind = OWN_TYPES.get((movement.operation, movement.answer))
        if kind is None:
            return None
        payment = self._as_it_stood(movement)
        name = kind.partition(".")[0]
        refund = _refund_of(payment, movement)
        return {
            "id": self.id_of(movement.seq),
            "type": kind,
            "created_at": wire.instant(movement.at),
            name: wire.refund_json(refund, payment) if refund else self._own.payment(payment),
        }

    def stripe(self, movement: Movement) -> dict[str, Any] | None:
        """As a Stripe event; None where nothing is told, as of payments of another form."""
        kind = STRIPE_TYPES.get((movement.operation, movement.answer))
        if kind is None or not is_stripes(movement.payment_reference):
            return None
        payment = self._as_it_stood(movement)
        refund = _refund_of(payment, movement)
        form = self._stripe
        return {
            "id": self.id_of(movement.seq),
            "object": "event",
            "created": int(movement.at),
            "data": {"object": form.refund(refund, payment) if refund else form.intent(payment)},
            "livemode": False,
            "request": {"id": None, "idempotency_key": movement.key or None},
            "type": kind,
        }

    def id_of(self, seq: int) -> str:
        """The id of the announcement of a movement; the same in both forms."""
        return f"evt_{self._ledger.prefix}{seq:08d}"

    def _as_it_stood(self, movement: Movement) -> Payment:
        movements = self._ledger.movements_of(movement.payment_reference or "")
        payment = fold((m for m in movements if m.seq <= movement.seq), now=movement.at)
        assert payment is not None  # a movement of one of the kinds above belongs to one
        return payment


def _refund_of(payment: Payment, movement: Movement) -> Refund | None:
    return next((r for r in payment.refunds if r.reference == movement.reference), None)
