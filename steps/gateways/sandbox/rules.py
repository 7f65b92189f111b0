"""What the sandbox gateway allows: pure rules over the movements of one payment.

A payment is nothing but the fold of its movements in the ledger. `STATUS_AFTER` says which
movement leads to which status; every answer that is not in the table changed nothing. `decide`
looks at the folded payment and says yes or no; it never writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from steps.gateways.payment import ChargeStatus, RefundStatus
from steps.money import EXPONENTS

AUTHORIZATION_LIFETIME_SECONDS: Final = 7 * 24 * 3600
KEY_LIFETIME_SECONDS: Final = 24 * 3600


class Operation(StrEnum):
    """What can be asked of the gateway, and what can happen to a refund later."""

    AUTHORIZE = "authorize"
    CAPTURE = "capture"
    VOID = "void"
    REFUND = "refund"
    SHIP = "ship"
    FIND = "find"
    LIST = "list"
    REFUND_SETTLED = "refund_settled"
    REFUND_FAILED = "refund_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One request for an effect, as it was understood."""

    operation: Operation
    key: str
    order_reference: str | None = None
    payment_reference: str | None = None
    amount_minor: int = 0
    currency: str = ""
    token: str = ""
    destination: str = ""


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
    """A payment as its movements tell."""

    reference: str
    order_reference: str
    key: str
    created_at: float
    amount_minor: int
    currency: str
    status: ChargeStatus
    authorized_at: float = 0.0
    captured_minor: int = 0
    refunds: tuple[Refund, ...] = ()

    @property
    def refunded_minor(self) -> int:
        return sum(r.amount_minor for r in self.refunds if r.status is not RefundStatus.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Yes or no to a command: the HTTP status, the ledger's word for it, and a sentence."""

    status: int
    answer: str
    effective: bool = False
    message: str = ""


TOKENS: Final[Mapping[str, str]] = {
    "tok_ok": "authorized",
    "tok_declined": "card_declined",
    "tok_insufficient_funds": "insufficient_funds",
    "tok_challenge": "requires_action",
}
"""What each payment-method token makes of an authorization."""

STATUS_AFTER: Final[Mapping[tuple[Operation, str], ChargeStatus]] = {
    (Operation.AUTHORIZE, "authorized"): ChargeStatus.AUTHORIZED,
    (Operation.AUTHORIZE, "requires_action"): ChargeStatus.REQUIRES_ACTION,
    (Operation.AUTHORIZE, "card_declined"): ChargeStatus.DECLINED,
    (Operation.AUTHORIZE, "insufficient_funds"): ChargeStatus.DECLINED,
    (Operation.AUTHORIZE, "challenge_failed"): ChargeStatus.DECLINED,
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

_AUTHORIZE_VERDICTS: Final = {
    "authorized": Verdict(status=201, answer="authorized", effective=True),
    "requires_action": Verdict(status=202, answer="requires_action"),
    "card_declined": Verdict(
        status=402, answer="card_declined", message="the issuer declined the card"
    ),
    "insufficient_funds": Verdict(
        status=402, answer="insufficient_funds", message="the card has insufficient funds"
    ),
}

_REFUSED_CAPTURE: Final = {
    ChargeStatus.CAPTURED: "already_captured",
    ChargeStatus.REFUNDED: "already_captured",
    ChargeStatus.VOIDED: "already_voided",
    ChargeStatus.EXPIRED: "authorization_expired",
    ChargeStatus.DECLINED: "not_authorized",
    ChargeStatus.REQUIRES_ACTION: "not_authorized",
}

_REFUSED_VOID: Final = {
    ChargeStatus.CAPTURED: "already_captured",
    ChargeStatus.REFUNDED: "already_captured",
    ChargeStatus.VOIDED: "already_voided",
    ChargeStatus.EXPIRED: "authorization_expired",
    ChargeStatus.DECLINED: "not_authorized",
}


def fold(movements: Iterable[Movement], *, now: float) -> Payment | None:
    """The payment that these movements (of one payment, in order) add up to at `now`."""
    payment: Payment | None = None
    for movement in movements:
        payment = _after(payment, movement)
    if payment is None:
        return None
    return replace(payment, status=_status_at(payment, now))


def decide(command: Command, payment: Payment | None, *, forced: str | None = None) -> Verdict:
    """Whether the gateway does `command` to `payment`, the one it names.

    `forced` is a scripted answer: an outcome of `TOKENS`, "refund_pending" or "refused".
    """
    match command.operation:
        case Operation.AUTHORIZE:
            return _invalid_amount(command) or _authorize(command, forced)
        case Operation.SHIP:
            return _ship(forced)
        case _ if payment is None:
            return Verdict(status=404, answer="payment_not_found", message="no such payment")
        case Operation.VOID:
            return _void(payment)
        case _ if command.currency != payment.currency:
            return _refused("currency_mismatch", f"the payment is in {payment.currency}")
        case Operation.CAPTURE:
            return _invalid_amount(command) or _capture(command, payment)
        case _:
            return _invalid_amount(command) or _refund(command, payment, forced)


def _after(payment: Payment | None, movement: Movement) -> Payment | None:
    status = STATUS_AFTER.get((movement.operation, movement.answer))
    if payment is None:
        return _opened(movement, status) if status else None
    if movement.answer in REFUND_STATUS_AFTER:
        return replace(payment, refunds=_refunds_after(payment.refunds, movement))
    match status:
        case None:
            return payment
        case ChargeStatus.AUTHORIZED:
            return replace(payment, status=status, authorized_at=movement.at)
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
        authorized_at=movement.at,
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
    match payment.status:
        case ChargeStatus.AUTHORIZED if (
            now >= payment.authorized_at + AUTHORIZATION_LIFETIME_SECONDS
        ):
            return ChargeStatus.EXPIRED
        case ChargeStatus.CAPTURED if payment.refunded_minor == payment.captured_minor:
            return ChargeStatus.REFUNDED
        case _:
            return payment.status


def _authorize(command: Command, forced: str | None) -> Verdict:
    outcome = forced or TOKENS.get(command.token)
    if outcome is None:
        return Verdict(status=400, answer="invalid_token", message="no such payment method token")
    return _AUTHORIZE_VERDICTS[outcome]


def _ship(forced: str | None) -> Verdict:
    if forced is not None:
        return Verdict(
            status=422, answer="shipment_refused", message="the carrier refuses this parcel"
        )
    return Verdict(status=201, answer="shipped", effective=True)


def _capture(command: Command, payment: Payment) -> Verdict:
    if payment.status is not ChargeStatus.AUTHORIZED:
        return _refused(_REFUSED_CAPTURE[payment.status], f"the payment is {payment.status}")
    if command.amount_minor > payment.amount_minor:
        return _refused("exceeds_authorized", f"only {payment.amount_minor} is authorized")
    return Verdict(status=200, answer="captured", effective=True)


def _void(payment: Payment) -> Verdict:
    match payment.status:
        case ChargeStatus.AUTHORIZED:
            return Verdict(status=200, answer="voided", effective=True)
        case ChargeStatus.REQUIRES_ACTION:  # nothing was held yet, so nothing moves
            return Verdict(status=200, answer="called_off")
        case status:
            return _refused(_REFUSED_VOID[status], f"the payment is {status}")


def _refund(command: Command, payment: Payment, forced: str | None) -> Verdict:
    left = payment.captured_minor - payment.refunded_minor
    if payment.captured_minor == 0:
        return _refused("not_captured", f"the payment is {payment.status}")
    if left == 0:
        return _refused("already_refunded", "everything was refunded before")
    if command.amount_minor > left:
        return _refused("exceeds_captured", f"only {left} is left to refund")
    answer = "refund_pending" if forced == "refund_pending" else "refunded"
    return Verdict(status=201, answer=answer, effective=True)


def _invalid_amount(command: Command) -> Verdict | None:
    if command.currency not in EXPONENTS:
        return Verdict(status=400, answer="invalid_currency", message="unknown currency")
    if command.amount_minor <= 0:
        return Verdict(status=400, answer="invalid_amount", message="the amount must be positive")
    return None


def _refused(answer: str, message: str) -> Verdict:
    return Verdict(status=409, answer=answer, message=message)
