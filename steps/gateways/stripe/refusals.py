"""Why Stripe refused to work on a payment, read from the payment and not from Stripe's words.

Its codes for refused states are few and its texts change; the payment's state explains every
refusal that we know how to live with. What it does not explain stays an `InvalidRequestError`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from steps.gateways.errors import InvalidRequestError, PaymentError, PaymentStateError
from steps.gateways.payment import ChargeResult, ChargeStatus
from steps.money import Money

Reason = Callable[[ChargeResult], str | None]
"""From a payment as it stands to the code of what forbids an operation on it, if anything does."""

_NOT_CAPTURABLE: Final[Mapping[ChargeStatus, str]] = {
    ChargeStatus.CAPTURED: "already_captured",
    ChargeStatus.REFUNDED: "already_captured",
    ChargeStatus.VOIDED: "already_voided",
    ChargeStatus.EXPIRED: "authorization_expired",
    ChargeStatus.DECLINED: "not_authorized",
    ChargeStatus.REQUIRES_ACTION: "not_authorized",
}

_NOT_VOIDABLE: Final[Mapping[ChargeStatus, str]] = {
    ChargeStatus.CAPTURED: "already_captured",
    ChargeStatus.REFUNDED: "already_captured",
    ChargeStatus.VOIDED: "already_voided",
    ChargeStatus.EXPIRED: "authorization_expired",
}


def against_capture(amount: Money) -> Reason:
    """What forbids taking `amount`."""

    def reason(payment: ChargeResult) -> str | None:
        if payment.status is ChargeStatus.AUTHORIZED and amount > payment.amount:
            return "exceeds_authorized"
        return _NOT_CAPTURABLE.get(payment.status)

    return reason


def against_void(payment: ChargeResult) -> str | None:
    """What forbids letting go of it."""
    return _NOT_VOIDABLE.get(payment.status)


def against_refund(amount: Money) -> Reason:
    """What forbids giving `amount` back."""

    def reason(payment: ChargeResult) -> str | None:
        left = payment.captured - payment.refunded
        if payment.captured.is_zero:
            return "not_captured"
        if left.is_zero:
            return "already_refunded"
        return "exceeds_captured" if amount > left else None

    return reason


def explained(error: InvalidRequestError, payment: ChargeResult, reason: Reason) -> PaymentError:
    """The refusal with its reason, if the payment shows one.

    It is decisive: Stripe looks at the state while it works on a request, so it had no earlier
    answer for the key.
    """
    code = reason(payment)
    if code is None:
        return error
    return PaymentStateError(
        f"the payment is {payment.status}",
        code=code,
        existing=payment,
        details={"reference": payment.reference, "status": payment.status, **error.details},
        decisive=True,
    )


def of_one_currency(payment: ChargeResult, amount: Money) -> None:
    """Stripe takes amounts without a currency, so it cannot notice a wrong one.

    Raises:
        PaymentStateError: ``currency_mismatch``.
    """
    if amount.currency != payment.amount.currency:
        raise PaymentStateError(
            f"the payment is in {payment.amount.currency}",
            code="currency_mismatch",
            existing=payment,
            details={"reference": payment.reference, "status": payment.status},
        )
