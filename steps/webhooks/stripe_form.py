"""Reads Stripe's webhooks: payment intents and refunds, in the events that tell of them.

An endpoint for Connect hears of several accounts; each event names its own.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from steps.gateways.reading import Json, promised
from steps.gateways.stripe.answers import AUTHORIZE_KEY, ORDER, REFUND_KEY, REFUND_STATUS
from steps.gateways.webhooks import SIGNATURE_HEADERS
from steps.webhooks.event import Envelope, EventKind, WebhookEvent, WebhookForm, name

KINDS: Final = {
    "payment_intent.amount_capturable_updated": EventKind.AUTHORIZED,
    "payment_intent.requires_action": EventKind.CHALLENGED,
    "payment_intent.payment_failed": EventKind.REFUSED,
    "payment_intent.succeeded": EventKind.CAPTURED,
    "payment_intent.canceled": EventKind.RELEASED,
    "refund.created": EventKind.REFUND_OPENED,
    "refund.updated": EventKind.REFUND_CHANGED,
    "refund.failed": EventKind.REFUND_FAILED,
}


@promised
def envelope(body: Json) -> Envelope:
    """What every event has."""
    if body["object"] != "event":
        raise ValueError("no event")
    account = body.get("account")
    return Envelope(
        id=name(body["id"]),
        type=name(body["type"]),
        account="" if account is None else name(account),
        created_at=_instant(body),
    )


@promised
def event(body: Json) -> WebhookEvent | None:
    """An event of one of `KINDS`; None where a refund is of a charge without a payment intent."""
    about = body["data"]["object"]
    is_refund = about["object"] == "refund"
    if not is_refund and about["object"] != "payment_intent":
        raise ValueError("neither a payment nor a refund")
    if is_refund and about["payment_intent"] is None:
        return None
    return WebhookEvent(
        kind=KINDS[body["type"]],
        payment_reference=name(about["payment_intent" if is_refund else "id"]),
        refund_reference=name(about["id"]) if is_refund else None,
        refund_status=REFUND_STATUS[about["status"]] if is_refund else None,
        order_reference=_pinned(about, ORDER),
        key=_pinned(about, REFUND_KEY if is_refund else AUTHORIZE_KEY),
        created_at=_instant(body),
    )


def _pinned(about: Json, label: str) -> str | None:
    value = (about.get("metadata") or {}).get(label)
    return None if value is None else name(value)


def _instant(body: Json) -> datetime:
    seconds: Any = body["created"]
    if type(seconds) is not int:
        raise TypeError("seconds expected")
    return datetime.fromtimestamp(seconds, tz=UTC)


STRIPE: Final = WebhookForm(
    header=SIGNATURE_HEADERS["stripe"], kinds=KINDS, envelope=envelope, event=event
)
