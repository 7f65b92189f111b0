"""Payments, refunds and refusals in Stripe's words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from steps.gateways.payment import CardChecks, ChargeStatus, CheckResult, RefundStatus
from steps.gateways.sandbox.form import INTERNAL_ERROR, KEY_CONFLICT, KEY_IN_USE, RATE_LIMITED
from steps.gateways.sandbox.movements import Command, Movement, Operation, Payment, Refund
from steps.gateways.sandbox.notes import Notes, checks_in
from steps.gateways.sandbox.records import Answer
from steps.gateways.sandbox.rules import Verdict
from steps.gateways.stripe.amounts import in_stripe_units
from steps.money import Money

METADATA: Final = "metadata."
"""What the names of notes begin with that are metadata."""

_STATUS: Final = {
    ChargeStatus.REQUIRES_ACTION: "requires_action",
    ChargeStatus.AUTHORIZED: "requires_capture",
    ChargeStatus.CAPTURED: "succeeded",
    ChargeStatus.REFUNDED: "succeeded",
    ChargeStatus.VOIDED: "canceled",
    ChargeStatus.EXPIRED: "canceled",
    ChargeStatus.DECLINED: "requires_payment_method",
}

_AUTHENTICATION_FAILED: Final = "payment_intent_authentication_failure"

_DECLINE: Final = {
    "card_declined": ("card_declined", "generic_decline"),
    "insufficient_funds": ("card_declined", "insufficient_funds"),
    "challenge_failed": (_AUTHENTICATION_FAILED, None),
    "challenge_expired": (_AUTHENTICATION_FAILED, None),
}
"""Code and decline code of what a payment was refused for."""

_INVALID: Final = "invalid_request_error"
_STATE: Final = (400, _INVALID, "payment_intent_unexpected_state", None)

_REFUSALS: Final = MappingProxyType(
    {
        RATE_LIMITED.answer: (429, _INVALID, "rate_limit", None),
        KEY_IN_USE.answer: (409, "idempotency_error", "idempotency_key_in_use", None),
        KEY_CONFLICT.answer: (400, "idempotency_error", None, None),
        INTERNAL_ERROR.answer: (500, "api_error", None, None),
        "unavailable": (503, "api_error", None, None),
        "invalid_token": (400, _INVALID, "resource_missing", "payment_method"),
        "invalid_amount": (400, _INVALID, "parameter_invalid_integer", "amount"),
        "exceeds_authorized": (400, _INVALID, "amount_too_large", "amount_to_capture"),
        "exceeds_captured": (400, _INVALID, None, "amount"),
        "already_refunded": (400, _INVALID, "charge_already_refunded", None),
        "not_captured": _STATE,
        "already_captured": _STATE,
        "already_voided": _STATE,
        "already_confirmed": _STATE,
        "authorization_expired": _STATE,
        "not_authorized": _STATE,
    }
)
"""Status, type, code and parameter of every refusal but a decline."""


_CVC_CHECK: Final = {
    None: None,
    CheckResult.MATCH: "pass",
    CheckResult.MISMATCH: "fail",
    CheckResult.NOT_CHECKED: "unavailable",
}

_THREE_D_SECURE: Final = {
    "authentication_flow": "challenge",
    "result": "authenticated",
    "version": "2.2.0",
}

_ADDRESS_CHECKS: Final = {
    None: (None, None),
    CheckResult.MATCH: ("pass", "pass"),
    CheckResult.PARTIAL: ("fail", "pass"),
    CheckResult.MISMATCH: ("fail", "fail"),
    CheckResult.NOT_CHECKED: ("unavailable", "unavailable"),
}
"""Of the first line and of the postal code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeForm:
    """One request's view of payments: `expand` names what is shown whole instead of by its id."""

    base_url: str
    notes: Notes
    expand: frozenset[str] = frozenset()

    @property
    def prefixes(self) -> MappingProxyType[Operation, str]:
        return MappingProxyType({Operation.AUTHORIZE: "pi", Operation.REFUND: "re"})

    def success(
        self,
        command: Command,
        verdict: Verdict,  # noqa: ARG002 - Stripe says 200 to everything that was done
        payment: Payment | None,
        movement: Movement,  # noqa: ARG002
    ) -> Answer:
        """The refund, or the payment intent."""
        assert payment is not None
        if command.operation is Operation.REFUND:
            return Answer(status=200, body=self.refund(payment.refunds[-1], payment))
        return Answer(status=200, body=self.intent(payment))

    def refusal(
        self,
        verdict: Verdict,
        payment: Payment | None = None,
        *,
        vouches: bool = False,  # noqa: ARG002 - Stripe vouches for nothing
    ) -> Answer:
        """An error with the payment intent, if there is one, as Stripe's errors carry it."""
        body: dict[str, Any] = {"message": verdict.message}
        if verdict.answer in _DECLINE:
            code, decline_code = _DECLINE[verdict.answer]
            status = 402
            body |= {"type": "card_error", "code": code, "decline_code": decline_code}
        else:
            status, kind, refused, param = _REFUSALS[verdict.answer]
            body |= {"type": kind, "code": refused, "param": param}
        if payment is not None:
            body["payment_intent"] = StripeForm(base_url=self.base_url, notes=self.notes).intent(
                payment
            )
        return Answer(status=status, body={"error": _said(body)})

    def intent(self, payment: Payment) -> dict[str, Any]:
        """A payment intent."""
        notes = self.notes.of(payment.reference)
        amount = _units(payment, payment.amount_minor)
        is_held = payment.status is ChargeStatus.AUTHORIZED
        is_canceled = payment.status in {ChargeStatus.VOIDED, ChargeStatus.EXPIRED}
        return {
            "id": payment.reference,
            "object": "payment_intent",
            "amount": amount,
            "amount_capturable": amount if is_held else 0,
            "amount_received": _units(payment, payment.captured_minor),
            "cancellation_reason": _cancellation_reason(payment, notes) if is_canceled else None,
            "capture_method": "manual",
            "client_secret": f"{payment.reference}_secret_sandbox",
            "created": int(payment.created_at),
            "currency": payment.currency.lower(),
            "last_payment_error": _last_error(payment),
            "latest_charge": self._charge_of(payment),
            "livemode": False,
            "metadata": _metadata(notes),
            "next_action": self._next_action(payment, notes),
            "payment_method": notes.get("payment_method"),
            "payment_method_types": ["card"],
            "status": _status(payment, notes),
        }

    def refund(self, refund: Refund, payment: Payment) -> dict[str, Any]:
        """A refund."""
        return {
            "id": refund.reference,
            "object": "refund",
            "amount": _units(payment, refund.amount_minor),
            "charge": _charge_id(payment),
            "created": int(refund.created_at),
            "currency": payment.currency.lower(),
            "failure_reason": "unknown" if refund.status is RefundStatus.FAILED else None,
            "metadata": _metadata(self.notes.of(refund.reference)),
            "payment_intent": payment.reference,
            "status": refund.status.value,
        }

    def refunds(self, payment: Payment) -> list[dict[str, Any]]:
        """The refunds of a payment, newest first."""
        return [self.refund(each, payment) for each in reversed(payment.refunds)]

    def _charge_of(self, payment: Payment) -> Any:
        was_tried = payment.authorized_at is not None or payment.refusal in {
            "card_declined",
            "insufficient_funds",
        }
        if not was_tried:
            return None
        if not any(path.split(".")[0] == "latest_charge" for path in self.expand):
            return _charge_id(payment)
        charge: dict[str, Any] = {
            "id": _charge_id(payment),
            "object": "charge",
            "amount": _units(payment, payment.amount_minor),
            "amount_captured": _units(payment, payment.captured_minor),
            "amount_refunded": _units(payment, payment.refunded_minor),
            "captured": payment.captured_minor > 0,
            "created": int(payment.authorized_at or payment.created_at),
            "currency": payment.currency.lower(),
            "payment_intent": payment.reference,
            "payment_method_details": self._method_details(payment),
            "status": "failed" if payment.authorized_at is None else "succeeded",
        }
        if "latest_charge.refunds" in self.expand:
            url = f"/v1/charges/{_charge_id(payment)}/refunds"
            charge["refunds"] = page(self.refunds(payment)[:10], url, len(payment.refunds) > 10)  # noqa: PLR2004 - Stripe shows ten
        return charge

    def _method_details(self, payment: Payment) -> dict[str, Any]:
        checks = checks_in(self.notes.of(payment.reference))
        told = checks if payment.authorized_at is not None else CardChecks()
        line1, postal_code = _ADDRESS_CHECKS[told.avs]
        return {
            "type": "card",
            "card": {
                "checks": {
                    "address_line1_check": line1,
                    "address_postal_code_check": postal_code,
                    "cvc_check": _CVC_CHECK[told.cvv],
                },
                "three_d_secure": _THREE_D_SECURE if told.authenticated else None,
            },
        }

    def _next_action(self, payment: Payment, notes: dict[str, str]) -> dict[str, Any] | None:
        if payment.status is not ChargeStatus.REQUIRES_ACTION or not payment.is_confirmed:
            return None
        if "return_url" not in notes:
            return {"type": "use_stripe_sdk", "use_stripe_sdk": {}}
        url = f"{self.base_url}/sandbox/challenges/{payment.reference}"
        redirect = {"url": url, "return_url": notes["return_url"]}
        return {"type": "redirect_to_url", "redirect_to_url": redirect}


def is_stripes(payment_reference: str | None) -> bool:
    """Whether a payment was opened in this form, and not in the gateway's own."""
    return payment_reference is not None and payment_reference.startswith("pi_")


def page(rows: Iterable[dict[str, Any]], url: str, has_more: bool) -> dict[str, Any]:
    """A list as Stripe wraps it."""
    return {"object": "list", "data": list(rows), "has_more": has_more, "url": url}


def parameter_error(message: str, *, param: str = "", code: str = "", status: int = 400) -> Answer:
    """The answer to a request that cannot be understood."""
    body = {"type": _INVALID, "message": message, "param": param or None, "code": code or None}
    return Answer(status=status, body={"error": _said(body)})


def missing(kind: str, reference: str, *, param: str) -> Answer:
    """The answer to a reference that nothing has."""
    message = f"No such {kind}: '{reference}'"
    return parameter_error(message, param=param, code="resource_missing", status=404)


def _said(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if value is not None}


def _units(payment: Payment, minor: int) -> int:
    return in_stripe_units(Money(minor=minor, currency=payment.currency))


def _charge_id(payment: Payment) -> str:
    return f"ch_{payment.reference.partition('_')[2]}"


def _metadata(notes: dict[str, str]) -> dict[str, str]:
    return {
        name.removeprefix(METADATA): value
        for name, value in notes.items()
        if name.startswith(METADATA)
    }


def _status(payment: Payment, notes: dict[str, str]) -> str:
    if payment.status is ChargeStatus.REQUIRES_ACTION and not payment.is_confirmed:
        return "requires_confirmation" if "payment_method" in notes else "requires_payment_method"
    return _STATUS[payment.status]


def _cancellation_reason(payment: Payment, notes: dict[str, str]) -> str | None:
    if payment.status is ChargeStatus.EXPIRED:
        return "automatic"
    return notes.get("cancellation_reason")


def _last_error(payment: Payment) -> dict[str, Any] | None:
    if payment.refusal is None:
        return None
    code, decline_code = _DECLINE[payment.refusal]
    return _said({"type": "card_error", "code": code, "decline_code": decline_code})
