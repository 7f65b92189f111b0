"""Webhooks are read strictly: what is not as promised is nothing that anybody looks into."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from steps.gateways.payment import ChargeResult, ChargeStatus, RefundResult, RefundStatus
from steps.gateways.reading import UnreadableAnswerError
from steps.money import Money
from steps.webhooks.event import EventKind, WebhookEvent
from steps.webhooks.sandbox_form import SANDBOX
from steps.webhooks.stripe_form import STRIPE

AT = datetime(2026, 11, 24, 12, tzinfo=UTC)
PRICE, NOTHING = Money(minor=1990, currency="EUR"), Money(minor=0, currency="EUR")

PAYMENT: dict[str, Any] = {
    "id": "evt_1",
    "type": "payment.authorized",
    "created_at": "2026-11-24T12:00:00+00:00",
    "payment": {"reference": "pay_1", "order_reference": "O-1", "key": "k-1"},
}
REFUND: dict[str, Any] = {
    "id": "evt_2",
    "type": "refund.failed",
    "created_at": "2026-11-24T12:00:00+00:00",
    "refund": {
        "reference": "ref_1",
        "payment_reference": "pay_1",
        "key": "undo-1",
        "status": "failed",
    },
}
INTENT: dict[str, Any] = {
    "id": "evt_1",
    "object": "event",
    "type": "payment_intent.amount_capturable_updated",
    "created": int(AT.timestamp()),
    "data": {
        "object": {
            "id": "pi_1",
            "object": "payment_intent",
            "metadata": {"order_reference": "O-1", "authorize_key": "k-1"},
        }
    },
}
STRIPE_REFUND: dict[str, Any] = {
    "id": "evt_2",
    "object": "event",
    "type": "refund.updated",
    "created": int(AT.timestamp()),
    "account": "acct_1",
    "data": {
        "object": {
            "id": "re_1",
            "object": "refund",
            "payment_intent": "pi_1",
            "status": "requires_action",
            "metadata": {"refund_key": "undo-1"},
        }
    },
}


def test_both_forms_tell_the_same_of_a_payment() -> None:
    told = {"kind": EventKind.AUTHORIZED, "refund_reference": None, "refund_status": None}
    common: dict[str, Any] = {**told, "order_reference": "O-1", "key": "k-1", "created_at": AT}

    assert SANDBOX.event(PAYMENT) == WebhookEvent(payment_reference="pay_1", **common)
    assert STRIPE.event(INTENT) == WebhookEvent(payment_reference="pi_1", **common)


def test_a_refund_names_its_payment() -> None:
    ours, stripes = SANDBOX.event(REFUND), STRIPE.event(STRIPE_REFUND)

    assert ours is not None
    assert stripes is not None
    assert (ours.payment_reference, ours.refund_reference) == ("pay_1", "ref_1")
    assert (stripes.payment_reference, stripes.refund_reference) == ("pi_1", "re_1")
    assert (ours.refund_status, stripes.refund_status) == (
        RefundStatus.FAILED,
        RefundStatus.PENDING,
    )
    assert (ours.key, stripes.key) == ("undo-1", "undo-1")


def test_a_stripe_event_names_its_account() -> None:
    assert STRIPE.envelope(STRIPE_REFUND).account == "acct_1"
    assert STRIPE.envelope(INTENT).account == ""


@pytest.mark.parametrize(
    ("form", "body", "path", "wrong"),
    [
        (SANDBOX, PAYMENT, ("payment", "reference"), None),
        (SANDBOX, PAYMENT, ("payment", "reference"), ""),
        (SANDBOX, PAYMENT, ("payment", "order_reference"), 7),
        (SANDBOX, PAYMENT, ("payment",), "pay_1"),
        (SANDBOX, PAYMENT, ("created_at",), 7),
        (SANDBOX, REFUND, ("refund", "status"), "lost"),
        (SANDBOX, REFUND, ("refund", "payment_reference"), "p" * 300),
        (STRIPE, INTENT, ("data", "object", "object"), "charge"),
        (STRIPE, INTENT, ("data",), {}),
        (STRIPE, INTENT, ("created",), True),
        (STRIPE, INTENT, ("created",), 10**30),
        (STRIPE, STRIPE_REFUND, ("data", "object", "payment_intent"), 7),
        (STRIPE, STRIPE_REFUND, ("data", "object", "status"), "lost"),
    ],
)
def test_what_is_not_as_promised_is_unreadable(
    form: Any, body: dict[str, Any], path: tuple[str, ...], wrong: object
) -> None:
    form.event(body)  # as it is, it can be read

    with pytest.raises(UnreadableAnswerError):
        form.event(changed(body, path, wrong))


def test_a_body_that_is_no_event_of_stripe_has_no_envelope() -> None:
    with pytest.raises(UnreadableAnswerError):
        STRIPE.envelope({**INTENT, "object": "payment_intent"})


OPEN, HOLD, TOOK = ChargeStatus.REQUIRES_ACTION, ChargeStatus.AUTHORIZED, ChargeStatus.CAPTURED
PENDING, SETTLED, FAILED = RefundStatus.PENDING, RefundStatus.SUCCEEDED, RefundStatus.FAILED


@pytest.mark.parametrize(
    ("kind", "shown", "is_shown"),
    [
        (EventKind.CHALLENGED, OPEN, True),
        (EventKind.CHALLENGED, HOLD, True),  # late: it has gone on since
        (EventKind.AUTHORIZED, OPEN, False),
        (EventKind.AUTHORIZED, TOOK, True),
        (EventKind.CAPTURED, HOLD, False),
        (EventKind.CAPTURED, ChargeStatus.REFUNDED, True),
        (EventKind.RELEASED, HOLD, False),
        (EventKind.RELEASED, ChargeStatus.VOIDED, True),
        (EventKind.REFUSED, OPEN, True),  # the payer tries another card
    ],
)
def test_a_lookup_that_lags_behind_the_event_is_told_apart(
    kind: EventKind, shown: ChargeStatus, is_shown: bool
) -> None:
    event = SANDBOX.event({**PAYMENT, "type": _type_of(kind)})
    assert event is not None

    assert event.is_shown_by(payment(shown)) is is_shown


@pytest.mark.parametrize(
    ("told", "shown", "is_shown"),
    [
        (PENDING, None, False),
        (PENDING, PENDING, True),
        (SETTLED, PENDING, False),
        (SETTLED, FAILED, True),
        (FAILED, PENDING, False),
        (FAILED, SETTLED, False),
        (FAILED, FAILED, True),
    ],
)
def test_a_lookup_that_lags_behind_a_refund_is_told_apart(
    told: RefundStatus, shown: RefundStatus | None, is_shown: bool
) -> None:
    event = SANDBOX.event(changed(REFUND, ("refund", "status"), told.value))
    assert event is not None

    assert event.is_shown_by(payment(TOOK, shown)) is is_shown


def _type_of(kind: EventKind) -> str:
    return next(name for name, each in SANDBOX.kinds.items() if each is kind)


def payment(status: ChargeStatus, refund: RefundStatus | None = None) -> ChargeResult:
    refunds = []
    if refund is not None:
        refunds.append(
            RefundResult(
                reference="ref_1",
                payment_reference="pay_1",
                amount=PRICE,
                status=refund,
                key="undo-1",
                created_at=AT,
            )
        )
    return ChargeResult(
        reference="pay_1",
        order_reference="O-1",
        amount=PRICE,
        captured=NOTHING,
        refunded=NOTHING,
        status=status,
        key="k-1",
        created_at=AT,
        refunds=tuple(refunds),
    )


def changed(body: dict[str, Any], path: tuple[str, ...], value: object) -> dict[str, Any]:
    first, *rest = path
    return {**body, first: changed(body[first], tuple(rest), value) if rest else value}
