"""When a refusal means that what was asked for stands already, under whatever key.

Every adapter answers these with success instead of the refusal; the refusal carries the payment as
it stands. Whoever is in doubt refuses: a void after a capture is no success, nor is one more refund
after two halves.
"""

from __future__ import annotations

from steps.gateways.errors import PaymentStateError
from steps.gateways.payment import (
    CaptureRequest,
    ChargeResult,
    ChargeStatus,
    RefundRequest,
    RefundResult,
    RefundStatus,
)


def captured_before(error: PaymentStateError, request: CaptureRequest) -> ChargeResult:
    """The same amount taken before is what was asked for; given back since, it is not.

    Raises:
        PaymentStateError: `error`, in every other case.
    """
    existing = error.existing
    if error.code != "already_captured" or existing is None or existing.refunded.minor:
        raise error
    if existing.captured != request.amount:
        raise error
    return existing


def released_before(error: PaymentStateError) -> ChargeResult:
    """A hold that is gone, by a void or by its age, is what was asked for.

    Raises:
        PaymentStateError: `error`, in every other case.
    """
    existing = error.existing
    if existing and existing.status in {ChargeStatus.VOIDED, ChargeStatus.EXPIRED}:
        return existing
    raise error


def refunded_before(error: PaymentStateError, request: RefundRequest) -> RefundResult:
    """One refund of exactly this amount is what was asked for; several are another story.

    Raises:
        PaymentStateError: `error`, in every other case.
    """
    if error.code == "already_refunded" and error.existing:
        standing = [r for r in error.existing.refunds if r.status is not RefundStatus.FAILED]
        if len(standing) == 1 and standing[0].amount == request.amount:
            return standing[0]
    raise error
