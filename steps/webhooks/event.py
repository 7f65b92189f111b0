"""What a gateway's webhook tells, in one form for all gateways."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from steps.gateways.payment import ChargeResult, ChargeStatus, RefundStatus

MAX_NAME_CHARACTERS: Final = 180
"""Of an event's id and of every other name: a signal's deduplication id has room for it."""


class EventKind(StrEnum):
    """What became of a payment or a refund, as its gateway tells it. Not yet the truth."""

    CHALLENGED = "challenged"
    AUTHORIZED = "authorized"
    REFUSED = "refused"
    CAPTURED = "captured"
    RELEASED = "released"
    REFUND_OPENED = "refund_opened"
    REFUND_CHANGED = "refund_changed"
    REFUND_FAILED = "refund_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What every event of a gateway has, of a known type or not.

    `account`: which of the gateway's accounts it is about, where one endpoint hears of several.
    """

    id: str
    type: str
    account: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookEvent:
    """An event of a type we know.

    Args:
        payment_reference: the gateway's name for the payment.
        refund_reference: for the refund, if it is about one.
        refund_status: how that stood when it was told.
        order_reference: our name for the order; None where the event does not repeat it.
        key: the idempotency key of what was opened; None where the event does not repeat it.
    """

    kind: EventKind
    payment_reference: str
    refund_reference: str | None
    refund_status: RefundStatus | None
    order_reference: str | None
    key: str | None
    created_at: datetime

    def is_shown_by(self, payment: ChargeResult) -> bool:
        """Whether a lookup has come as far as the event; a lookup may lag behind what was told."""
        if self.refund_reference is not None:
            shown = {each.reference: each.status for each in payment.refunds}
            status = shown.get(self.refund_reference)
            return status is not None and _AGE[status] >= _AGE[self.refund_status or status]
        return payment.status not in _BEFORE.get(self.kind, ())


_AGE: Final = {RefundStatus.PENDING: 0, RefundStatus.SUCCEEDED: 1, RefundStatus.FAILED: 2}
"""A refund that succeeded may fail still; never the other way round."""

_BEFORE: Final = {
    EventKind.AUTHORIZED: {ChargeStatus.REQUIRES_ACTION},
    EventKind.CAPTURED: {ChargeStatus.REQUIRES_ACTION, ChargeStatus.AUTHORIZED},
    EventKind.RELEASED: {ChargeStatus.REQUIRES_ACTION, ChargeStatus.AUTHORIZED},
}
"""Where a payment cannot stand any more once that was told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookForm:
    """How one gateway writes its webhooks.

    Args:
        header: the header that it signs in.
        kinds: the types of events that we look after; all others are kept and passed over.
        envelope, event: read a parsed body; both raise `UnreadableAnswerError`. No event
            is one about a payment that we cannot have made.
    """

    header: str
    kinds: Mapping[str, EventKind]
    envelope: Callable[[Mapping[str, Any]], Envelope]
    event: Callable[[Mapping[str, Any]], WebhookEvent | None]


def name(value: object) -> str:
    """Return a JSON string that can be stored as a name.

    Raises:
        ValueError, TypeError: it cannot.
    """
    if not isinstance(value, str):
        raise TypeError("text expected")
    if not value or len(value) > MAX_NAME_CHARACTERS or not value.isprintable():
        raise ValueError("no name")
    return value
