"""The one table from how a call to Stripe ended to the error it means.

| how it ended | error | outcome |
|---|---|---|
| not a byte was sent | NetworkError | retriable |
| sent, then no complete answer | GatewayTimeoutError | unknown |
| 429; 400 ``rate_limit`` | RateLimitedError | retriable, spends no budget |
| 401, 403: our API key is refused | GatewayUnavailableError | retriable |
| 402 | by `BY_DECLINE_CODE`, else CardDeclinedError | terminal, decisive |
| 409 ``idempotency_key_in_use`` | KeyInUseError | unknown |
| 400 of type ``idempotency_error`` | KeyConflictError | unknown |
| 400, 404 of type ``invalid_request_error`` | `BY_CODE`, else InvalidRequestError | as its class |
| anything else: 5xx, 3xx, 424, a proxy's page, no readable success | GatewayServerError | unknown |

Stripe's rate limiter, its check of the API key and most checks of parameters come *before* its
idempotency layer, so those answers say nothing about earlier attempts with the same key: they are
not decisive. A refused state is found while the request runs, so the key had no earlier answer.

A question (`find`, `list`) has no effect, so its unknown outcomes become `LookupFailedError`.
Stripe's own messages may quote what was sent, tokens included: only those for payers are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import stripe

from orchestrator.errors import OutcomeUnknown
from steps.gateways.errors import (
    BalanceTooLowError,
    CardDeclinedError,
    FraudBlockedError,
    GatewayServerError,
    GatewayTimeoutError,
    GatewayUnavailableError,
    InsufficientFundsError,
    InvalidRequestError,
    KeyConflictError,
    KeyInUseError,
    LookupFailedError,
    NetworkError,
    PaymentError,
    PaymentNotFoundError,
    RateLimitedError,
)
from steps.gateways.http_calls import pause_of
from steps.gateways.stripe.calls import UnansweredError

REPLAYED_HEADER: Final = "idempotent-replayed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What Stripe's error object says, in so far as it says it.

    `message` may quote what was sent: only that of a decline, written for the payer, is shown.
    """

    status: int
    kind: str
    code: str
    decline_code: str
    param: str
    message: str
    is_replayed: bool
    retry_after: timedelta | None
    request_id: str

    @property
    def details(self) -> dict[str, object]:
        """What an operator needs to find this call at Stripe."""
        named = {"request_id": self.request_id, "param": self.param, "status": self.status}
        return {name: value for name, value in named.items() if value}


_Build = Callable[[Refusal], PaymentError]


def _balance_too_low(refusal: Refusal) -> PaymentError:
    return BalanceTooLowError(
        "our balance at Stripe is too low for this now", code=refusal.code, details=refusal.details
    )


def _not_found(refusal: Refusal) -> PaymentError:
    if refusal.param == "payment_method":
        return InvalidRequestError(
            "Stripe knows no such payment method", code="invalid_token", details=refusal.details
        )
    return PaymentNotFoundError(
        "Stripe knows no such payment", code="payment_not_found", details=refusal.details
    )


BY_CODE: Final[Mapping[str, _Build]] = {
    "resource_missing": _not_found,
    "balance_insufficient": _balance_too_low,
}

BY_DECLINE_CODE: Final[Mapping[str, type[CardDeclinedError | FraudBlockedError]]] = {
    "insufficient_funds": InsufficientFundsError,
    "fraudulent": FraudBlockedError,
    "merchant_blacklist": FraudBlockedError,
}


def error_of(error: stripe.StripeError) -> PaymentError:
    """The error that the ending of a call with an effect means."""
    match error:
        case UnansweredError(ending=ending) if not ending.was_sent:
            return NetworkError(
                "Stripe could not be reached; nothing was sent",
                code="not_sent",
                details={"reason": ending.reason},
            )
        case UnansweredError(ending=ending):
            return GatewayTimeoutError(
                "the request was sent and no answer came back",
                code="no_answer",
                details={"reason": ending.reason},
            )
        case _:
            return _error_of_refusal(_refusal_of(error))


def lookup_error_of(error: PaymentError) -> PaymentError:
    """The error that the ending of a question means: asking again never hurts."""
    if isinstance(error, OutcomeUnknown):
        return LookupFailedError(error.message, code=error.code, details=error.details)
    return error


def unreadable(reason: str, *, is_replayed: bool) -> PaymentError:
    """A success whose content cannot be read says nothing."""
    return GatewayServerError(
        "Stripe's answer cannot be read",
        code="unreadable",
        details={"reason": reason},
        is_replayed=is_replayed,
    )


def _error_of_refusal(refusal: Refusal) -> PaymentError:
    match refusal:
        case Refusal(status=429) | Refusal(status=400, code="rate_limit"):
            return RateLimitedError(
                "Stripe asks for fewer requests",
                code=refusal.code or "rate_limited",
                details=refusal.details,
                retry_after=refusal.retry_after,
            )
        case Refusal(status=401 | 403):
            return GatewayUnavailableError(
                "Stripe refuses our API key: set another, or widen its permissions",
                code="credentials_refused",
                details=refusal.details,
            )
        case Refusal(status=402):
            return _declined(refusal)
        case Refusal(status=409, code="idempotency_key_in_use"):
            return KeyInUseError(
                "an earlier request with this key is being worked on", code=refusal.code
            )
        case Refusal(status=400, kind="idempotency_error"):
            return KeyConflictError("this key was used with other parameters", code="key_conflict")
        case Refusal(status=400 | 404, kind="invalid_request_error"):
            build = BY_CODE.get(refusal.code, _invalid)
            return build(refusal)
        case _:
            return GatewayServerError(
                f"Stripe answered {refusal.status}",
                code=refusal.code or f"http_{refusal.status}",
                details=refusal.details,
                is_replayed=refusal.is_replayed,
            )


def _declined(refusal: Refusal) -> PaymentError:
    kind = BY_DECLINE_CODE.get(refusal.decline_code, CardDeclinedError)
    return kind(
        refusal.message or "the card was declined",
        code=refusal.decline_code or refusal.code,
        details=refusal.details,
        decisive=True,
    )


def _invalid(refusal: Refusal) -> PaymentError:
    return InvalidRequestError(
        "Stripe cannot accept the request as it is",
        code=refusal.code or "invalid_request",
        details=refusal.details,
    )


def _refusal_of(error: stripe.StripeError) -> Refusal:
    body = error.json_body
    said: Any = body.get("error") if isinstance(body, dict) else None
    fields: dict[str, Any] = said if isinstance(said, dict) else {}
    headers = error.headers or {}
    return Refusal(
        status=error.http_status or 0,
        kind=str(fields.get("type") or ""),
        code=str(fields.get("code") or ""),
        decline_code=str(fields.get("decline_code") or ""),
        param=str(fields.get("param") or ""),
        message=str(fields.get("message") or ""),
        is_replayed=headers.get(REPLAYED_HEADER) == "true",
        retry_after=pause_of(str(headers.get("retry-after", ""))),
        request_id=str(headers.get("request-id", "")),
    )
