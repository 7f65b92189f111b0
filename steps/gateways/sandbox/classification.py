"""The one table from how a call to the sandbox gateway ended to the error it means.

| how it ended | error | outcome |
|---|---|---|
| not a byte was sent (name, refusal, no connection in time) | NetworkError | retriable |
| sent, then no complete answer (too late, connection broken) | GatewayTimeoutError | unknown |
| 429 | RateLimitedError | retriable, spends no budget |
| any other failure that vouches ``"no_effect": true`` | GatewayUnavailableError | retriable |
| a code of `BY_CODE` | its class | as the class says |
| anything else: 5xx, 3xx, a proxy's page, an unreadable success | GatewayServerError | unknown |

A question (`find`, `list`) has no effect, so its unknown outcomes become `LookupFailedError`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from orchestrator.errors import OutcomeUnknown
from steps.gateways.errors import (
    CardDeclinedError,
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
    PaymentStateError,
    RateLimitedError,
    ShipmentRefusedError,
)
from steps.gateways.http_calls import Unanswered
from steps.gateways.reading import UnreadableAnswerError
from steps.gateways.sandbox import answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """An answer as it came: `body` is its JSON object, or None where it is none."""

    status: int
    body: dict[str, Any] | None
    is_replayed: bool = False
    retry_after: timedelta | None = None

    @property
    def is_success(self) -> bool:
        return self.body is not None and self.status in {200, 201, 202}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refusal:
    code: str
    message: str
    payment: dict[str, Any] | None


_Build = Callable[[_Refusal], PaymentError]


def _decisive(
    error: type[CardDeclinedError | InvalidRequestError | ShipmentRefusedError],
) -> _Build:
    return lambda refusal: error(refusal.message, code=refusal.code, decisive=True)


def _not_found(refusal: _Refusal) -> PaymentError:
    return PaymentNotFoundError(refusal.message, code=refusal.code, decisive=True)


def _forbidden_by_state(refusal: _Refusal) -> PaymentError:
    existing = answers.payment(refusal.payment) if refusal.payment else None
    return PaymentStateError(
        refusal.message,
        code=refusal.code,
        existing=existing,
        details={"reference": existing.reference, "status": existing.status} if existing else {},
        decisive=True,
    )


def _misunderstood(refusal: _Refusal) -> PaymentError:
    """Refused before the key was looked at, so it says nothing about earlier attempts."""
    return InvalidRequestError(refusal.message, code=refusal.code)


BY_CODE: Final[Mapping[str, _Build]] = {
    "card_declined": _decisive(CardDeclinedError),
    "insufficient_funds": _decisive(InsufficientFundsError),
    "shipment_refused": _decisive(ShipmentRefusedError),
    "invalid_amount": _decisive(InvalidRequestError),
    "invalid_currency": _decisive(InvalidRequestError),
    "invalid_token": _decisive(InvalidRequestError),
    "payment_not_found": _not_found,
    "already_captured": _forbidden_by_state,
    "already_voided": _forbidden_by_state,
    "already_refunded": _forbidden_by_state,
    "authorization_expired": _forbidden_by_state,
    "not_authorized": _forbidden_by_state,
    "not_captured": _forbidden_by_state,
    "exceeds_authorized": _forbidden_by_state,
    "exceeds_captured": _forbidden_by_state,
    "currency_mismatch": _forbidden_by_state,
    "malformed_request": _misunderstood,
    "key_required": _misunderstood,
    "key_too_long": _misunderstood,
    "key_in_use": lambda refusal: KeyInUseError(refusal.message, code=refusal.code),
    "key_conflict": lambda refusal: KeyConflictError(refusal.message, code=refusal.code),
}


def error_of(ending: Response | Unanswered) -> PaymentError:
    """The error that the ending of a call with an effect means."""
    match ending:
        case Unanswered(was_sent=False):
            return NetworkError(
                "the gateway could not be reached; nothing was sent",
                code="not_sent",
                details={"reason": ending.reason},
            )
        case Unanswered():
            return GatewayTimeoutError(
                "the request was sent and no answer came back",
                code="no_answer",
                details={"reason": ending.reason},
            )
        case Response(status=429):
            return RateLimitedError(
                "the gateway asks for fewer requests", retry_after=ending.retry_after
            )
        case _:
            return _error_of_answer(ending)


def lookup_error_of(ending: Response | Unanswered) -> PaymentError:
    """The error that the ending of a question means: asking again never hurts."""
    error = error_of(ending)
    if isinstance(error, OutcomeUnknown):
        return LookupFailedError(error.message, code=error.code, details=error.details)
    return error


def unreadable(response: Response, error: UnreadableAnswerError) -> Response:
    """A success whose content cannot be read, as an answer that says nothing."""
    return Response(
        status=response.status,
        body={"error": {"code": "unreadable", "message": str(error)}},
        is_replayed=response.is_replayed,
    )


def _error_of_answer(response: Response) -> PaymentError:
    content = (response.body or {}).get("error")
    fields: dict[str, Any] = content if isinstance(content, dict) else {}
    refusal = _Refusal(
        code=str(fields.get("code", f"http_{response.status}")),
        message=str(fields.get("message", f"the gateway answered {response.status}")),
        payment=fields.get("payment"),
    )
    build = BY_CODE.get(refusal.code)
    if build is not None and 400 <= response.status < 500:  # noqa: PLR2004 - the 4xx family
        try:
            return build(refusal)
        except UnreadableAnswerError:
            pass
    elif fields.get("no_effect") is True:
        return GatewayUnavailableError(
            refusal.message, code=refusal.code, retry_after=response.retry_after
        )
    return GatewayServerError(
        refusal.message,
        code=refusal.code,
        details={"status": response.status},
        is_replayed=response.is_replayed,
    )
