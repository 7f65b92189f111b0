"""What the sandbox gateway allows: pure rules over the payment that a request names.

`decide` looks at the folded payment and says yes or no; it never writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from steps.gateways.payment import CardChecks, ChargeStatus, CheckResult
from steps.gateways.sandbox.movements import UNCONFIRMED, Command, Operation, Payment
from steps.money import EXPONENTS

KEY_LIFETIME_SECONDS: Final = 24 * 3600


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
    "tok_cvv_mismatch": "authorized",
    "tok_avs_mismatch": "authorized",
    "tok_avs_partial": "authorized",
    "tok_avs_unchecked": "authorized",
    "tok_unchecked": "authorized",
    "tok_untold": "authorized",
    "tok_unenrolled": "authorized",
    "pm_card_visa": "authorized",
    "pm_card_chargeDeclined": "card_declined",
    "pm_card_chargeDeclinedInsufficientFunds": "insufficient_funds",
    "pm_card_authenticationRequired": "requires_action",
    "pm_card_cvcCheckFail": "authorized",
    "pm_card_avsFail": "authorized",
    "pm_card_avsLine1Fail": "authorized",
    "pm_card_avsUnchecked": "authorized",
    "pm_card_amex": "authorized",
}
"""What each payment-method token makes of an authorization; ``pm_`` are Stripe's test cards."""

_MATCH: Final = CheckResult.MATCH
_NOT_CHECKED: Final = CheckResult.NOT_CHECKED

CARD_CHECKS: Final[Mapping[str, CardChecks]] = {
    "tok_cvv_mismatch": CardChecks(avs=_MATCH, cvv=CheckResult.MISMATCH),
    "tok_avs_mismatch": CardChecks(avs=CheckResult.MISMATCH, cvv=_MATCH),
    "tok_avs_partial": CardChecks(avs=CheckResult.PARTIAL, cvv=_MATCH),
    "tok_avs_unchecked": CardChecks(avs=_NOT_CHECKED, cvv=_MATCH),
    "tok_unchecked": CardChecks(avs=_NOT_CHECKED, cvv=_NOT_CHECKED),
    "tok_untold": CardChecks(),
    "pm_card_cvcCheckFail": CardChecks(avs=_MATCH, cvv=CheckResult.MISMATCH),
    "pm_card_avsFail": CardChecks(avs=CheckResult.MISMATCH, cvv=_MATCH),
    "pm_card_avsLine1Fail": CardChecks(avs=CheckResult.PARTIAL, cvv=_MATCH),
    "pm_card_avsUnchecked": CardChecks(avs=_NOT_CHECKED, cvv=_MATCH),
}
"""What the issuer says of the address and the security code, where it is not that both match."""


UNENROLLED: Final = frozenset({"tok_unenrolled", "pm_card_amex"})
"""Cards without 3-D Secure: whoever asks for a challenge is charged without one."""


def card_checks(token: str) -> CardChecks:
    """What comes with an authorization of this token."""
    return CARD_CHECKS.get(token, CardChecks(avs=_MATCH, cvv=_MATCH))


CHALLENGE_ENDS: Final = {
    "complete": "authorized",
    "fail": "challenge_failed",
    "expire": "challenge_expired",
}
"""How a 3-D Secure challenge can end, by the word that ends it."""

_AUTHORIZE_VERDICTS: Final = {
    "authorized": Verdict(status=201, answer="authorized", effective=True),
    "requires_action": Verdict(status=202, answer="requires_action"),
    UNCONFIRMED: Verdict(status=202, answer=UNCONFIRMED),
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


def decide(command: Command, payment: Payment | None, *, forced: str | None = None) -> Verdict:
    """Whether the gateway does `command` to `payment`, the one it names.

    `forced` is a scripted answer: an outcome of `TOKENS`, "refund_pending" or "refused".
    """
    match command.operation:
        case Operation.AUTHORIZE if command.payment_reference is None:
            return _invalid_amount(command) or _authorize(command, forced)
        case Operation.SHIP:
            return _ship(forced)
        case _ if payment is None:
            return Verdict(status=404, answer="payment_not_found", message="no such payment")
        case Operation.AUTHORIZE:
            return _confirm(command, payment, forced)
        case Operation.VOID:
            return _void(command, payment)
        case _ if command.currency != payment.currency:
            return _refused("currency_mismatch", f"the payment is in {payment.currency}")
        case Operation.CAPTURE:
            return _invalid_amount(command) or _capture(command, payment)
        case _:
            return _invalid_amount(command) or _refund(command, payment, forced)


def _authorize(command: Command, forced: str | None) -> Verdict:
    outcome = forced or TOKENS.get(command.token)
    if not command.token and not command.confirms:  # to be named when it is confirmed
        return _AUTHORIZE_VERDICTS[UNCONFIRMED]
    if outcome is None:
        return Verdict(status=400, answer="invalid_token", message="no such payment method token")
    if not command.confirms:
        return _AUTHORIZE_VERDICTS[UNCONFIRMED]
    if outcome == "authorized" and command.challenge and command.token not in UNENROLLED:
        return _AUTHORIZE_VERDICTS["requires_action"]
    return _AUTHORIZE_VERDICTS[outcome]


def _confirm(command: Command, payment: Payment, forced: str | None) -> Verdict:
    is_declined = payment.status is ChargeStatus.DECLINED
    if payment.is_confirmed and not (is_declined and command.declined_is_open):
        return _refused("already_confirmed", f"the payment is {payment.status}")
    return _authorize(command, forced)


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


def _void(command: Command, payment: Payment) -> Verdict:
    called_off = Verdict(status=200, answer="called_off")  # nothing was held, so nothing moves
    match payment.status:
        case ChargeStatus.AUTHORIZED:
            return Verdict(status=200, answer="voided", effective=True)
        case ChargeStatus.REQUIRES_ACTION:
            return called_off
        case ChargeStatus.DECLINED if command.declined_is_open:
            return called_off
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
