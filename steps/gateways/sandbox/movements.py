"""A payment is nothing but the fold of its movements in the ledger.

`STATUS_AFTER` says which movement leads to which status; a movement that is not in the table (a
refused request) changed nothing. Nothing here writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from steps.gateways.payment import ChargeStatus, RefundStatus

AUTHORIZATION_LIFETIME_SECONDS: Final = 7 * 24 * 3600


class Operation(StrEnum):
    """What can be asked of the gateway, what can happen to a refund later, and telling of it."""

    AUTHORIZE = "authorize"
    CAPTURE = "capture"
    VOID = "void"
    REFUND = "refund"
    SHIP = "ship"
    FIND = "find"
    LIST = "list"
    NOTIFY = "notify"
    REFUND_SETTLED = "refund_settled"
    REFUND_FAILED = "refund_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One request for an effect, as it was understood.

    `payment_reference` names the payment that it is about; an authorization that names one
    confirms it. With `declined_is_open` a declined payment may be confirmed again, or called off.
    """

    operation: Operation
    key: str
    order_reference: str | None = None
    payment_reference: str | None = None
    amount_minor: int = 0
    currency: str = ""
    token: str = ""
    destination: str = ""
    confirms: bool = True  # else a payment is only opened, to be confirmed later
    challenge: bool = False  # have the payer authenticate, whatever the card
    declined_is_open: bool = False
    notes: Mapping[str, str] = field(default_factory=dict)  # to be pinned to its object


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """One row of the ledger. `effective` means that money, a hold or a parcel moved.

    `key` is empty where nobody asked for it: a refund that settled or failed by itself.
    """

    seq: int
    at: float
    operation: Operation
    key: str
    reference: str | None
    payment_reference: str | None
    order_reference: str | None
    amount_minor: int
    currency: str
    effective: bool
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refund:
    reference: str
    key: str
    created_at: float
    amount_minor: int
    status: RefundStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """A payment as its movements tell.

    `authorized_at` is None while nothing was ever held; `refusal` says why a declined one was.
    One that is not `is_confirmed` was opened only, and awaits its payment method's confirmation.
    """

    reference: str
    order_reference: str
    key: str
    created_at: float
    amount_minor: int
    currency: str
    status: ChargeStatus
    authorized_at: float | None = None
    is_confirmed: bool = True
    refusal: str | None = None
    captured_minor: int = 0
    refunds: tuple[Refund, ...] = ()

    @property
    def refunded_minor(self) -> int:
        return sum(r.amount_minor for r in self.refunds if r.status is not RefundStatus.FAILED)


UNCONFIRMED: Final = "requires_confirmation"

STATUS_AFTER: Final[Mapping[tuple[Operation, str], ChargeStatus]] = {
    (Operation.AUTHORIZE, "authorized"): ChargeStatus.AUTHORIZED,
    (Operation.AUTHORIZE, "requires_action"): ChargeStatus.REQUIRES_ACTION,
    (Operation.AUTHORIZE, "card_declined"): ChargeStatus.DECLINED,
    (Operation.AUTHORIZE, "insufficient_funds"): ChargeStatus.DECLINED,
    (Operation.AUTHORIZE, "challenge_failed"): ChargeStatus.DECLINED,
    (Operation.AUTHORIZE, "challenge_expired"): ChargeStatus.DECLINED,
    (Operation.AUTHORIZE, UNCONFIRMED): ChargeStatus.REQUIRES_ACTION,
    (Operation.CAPTURE, "captured"): ChargeStatus.CAPTURED,
    (Operation.VOID, "voided"): ChargeStatus.VOIDED,
    (Operation.VOID, "called_off"): ChargeStatus.VOIDED,
}

REFUND_STATUS_AFTER: Final[Mapping[str, RefundStatus]] = {
    "refunded": RefundStatus.SUCCEEDED,
    "refund_pending": RefundStatus.PENDING,
    "refund_settled": RefundStatus.SUCCEEDED,
    "refund_failed": RefundStatus.FAILED,
}


def fold(movements: Iterable[Movement], *, now: float) -> Payment | None:
    """The payment that these movements (of one payment, in order) add up to at `now`."""
    payment: Payment | None = None
    for movement in movements:
        payment = _after(payment, movement)
    if payment is None:
        return None
    return replace(payment, status=_status_at(payment, now))


def _after(payment: Payment | None, movement: Movement) -> Payment | None:
    status = STATUS_AFTER.get((movement.operation, movement.answer))
    if payment is None and status is not None:
        payment = _opened(movement, status)
    if payment is None:
        return None
    if movement.answer in REFUND_STATUS_AFTER:
        return replace(payment, refunds=_refunds_after(payment.refunds, movement))
    match status:
        case None:
            return payment
        case ChargeStatus.REQUIRES_ACTION:
            confirmed = movement.answer != UNCONFIRMED
            return replace(payment, status=status, is_confirmed=confirmed, refusal=None)
        case ChargeStatus.AUTHORIZED:
            return replace(
                payment, status=status, authorized_at=movement.at, is_confirmed=True, refusal=None
            )
        case ChargeStatus.DECLINED:
            return replace(payment, status=status, refusal=movement.answer, is_confirmed=True)
        case ChargeStatus.CAPTURED:
            return replace(payment, status=status, captured_minor=movement.amount_minor)
        case _:
            return replace(payment, status=status)


def _opened(movement: Movement, status: ChargeStatus) -> Payment:
    return Payment(
        reference=movement.payment_reference or "",
        order_reference=movement.order_reference or "",
        key=movement.key,
        created_at=movement.at,
        amount_minor=movement.amount_minor,
        currency=movement.currency,
        status=status,
    )


def _refunds_after(refunds: tuple[Refund, ...], movement: Movement) -> tuple[Refund, ...]:
    status = REFUND_STATUS_AFTER[movement.answer]
    if movement.operation is Operation.REFUND:
        opened = Refund(
            reference=movement.reference or "",
            key=movement.key,
            created_at=movement.at,
            amount_minor=movement.amount_minor,
            status=status,
        )
        return (*refunds, opened)
    return tuple(
        replace(refund, status=status) if refund.reference == movement.reference else refund
        for refund in refunds
    )


def _status_at(payment: Payment, now: float) -> ChargeStatus:
    held_since = payment.authorized_at or 0.0
    match payment.status:
        case ChargeStatus.AUTHORIZED if now >= held_since + AUTHORIZATION_LIFETIME_SECONDS:
            return ChargeStatus.EXPIRED
        case ChargeStatus.CAPTURED if payment.refunded_minor == payment.captured_minor:
            return ChargeStatus.REFUNDED
        case _:
            return payment.status
