"""Reads the webhooks that the sandbox sends in its own words."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from steps.gateways.payment import RefundStatus
from steps.gateways.reading import Json, promised
from steps.gateways.webhooks import SIGNATURE_HEADERS
from steps.webhooks.event import Envelope, EventKind, WebhookEvent, WebhookForm, name

KINDS: Final = {
    "payment.authorized": EventKind.AUTHORIZED,
    "payment.requires_action": EventKind.CHALLENGED,
    "payment.failed": EventKind.REFUSED,
    "payment.succeeded": EventKind.CAPTURED,
    "payment.voided": EventKind.RELEASED,
    "refund.created": EventKind.REFUND_OPENED,
    "refund.updated": EventKind.REFUND_CHANGED,
    "refund.failed": EventKind.REFUND_FAILED,
}


@promised
def envelope(body: Json) -> Envelope:
    """What every event has."""
    return Envelope(
        id=name(body["id"]), type=name(body["type"]), account="", created_at=_instant(body)
    )


@promised
def event(body: Json) -> WebhookEvent:
    """An event of one of `KINDS`."""
    kind = KINDS[body["type"]]
    if "refund" in body:
        refund = body["refund"]
        return WebhookEvent(
            kind=kind,
            payment_reference=name(refund["payment_reference"]),
            refund_reference=name(refund["reference"]),
            refund_status=RefundStatus(refund["status"]),
            order_reference=None,
            key=name(refund["key"]),
            created_at=_instant(body),
        )
    payment = body["payment"]
    return WebhookEvent(
        kind=kind,
        payment_reference=name(payment["reference"]),
        refund_reference=None,
        refund_status=None,
        order_reference=name(payment["order_reference"]),
        key=name(payment["key"]),
        created_at=_instant(body),
    )


def _instant(body: Json) -> datetime:
    at = datetime.fromisoformat(body["created_at"])
    if at.tzinfo is None:
        raise ValueError("an instant without a zone")
    return at


SANDBOX: Final = WebhookForm(
    header=SIGNATURE_HEADERS["sandbox"], kinds=KINDS, envelope=envelope, event=event
)
