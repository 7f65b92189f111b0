"""Every answer that is no success: ``application/problem+json`` (RFC 9457), one table of them.

Callers tell problems apart by `code`, which never changes; `type` is a URN made of it. Nothing that
was sent is repeated: a detail is ours, or comes from an error that promises the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from orchestrator.errors import (
    CardNumberError,
    ConcurrentStartError,
    IdempotencyConflictError,
    InvalidKeyError,
    LogUnavailableError,
    PayloadError,
    SagaLockedError,
    SagaNotFoundError,
    UnknownDefinitionError,
)
from orchestrator.idempotency_record import IdempotencyInFlightError
from orchestrator.redaction import redact
from orchestrator.storage.complaints import Complaint, complaint_of
from orchestrator.storage.database import Moved
from steps.gateways.webhooks import WebhookError, WebhookReplayError, WebhookSignatureError
from steps.webhooks.inbox import OversizedWebhookError, UnknownGatewayError

MEDIA_TYPE: Final = "application/problem+json"
RETRY_SECONDS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One sort of problem. `may_repeat`: the same request may succeed soon; said in Retry-After."""

    status: int
    code: str
    title: str
    may_repeat: bool = False


NOT_AUTHENTICATED = Kind(status=401, code="not_authenticated", title="A valid token is needed")
NOT_FOUND = Kind(status=404, code="not_found", title="There is no such resource")
SAGA_NOT_FOUND = Kind(status=404, code="saga_not_found", title="There is no saga of that id")
METHOD_NOT_ALLOWED = Kind(status=405, code="method_not_allowed", title="Not by that method")
TOO_SLOW = Kind(status=408, code="body_too_slow", title="The body did not arrive in time")
TOO_LARGE = Kind(status=413, code="body_too_large", title="The body is too large")
HEADERS_TOO_LARGE = Kind(status=431, code="headers_too_large", title="The headers are too large")
MEDIA_TYPE_REFUSED = Kind(
    status=415, code="media_type_refused", title="The body must be application/json, not encoded"
)
REQUEST_REFUSED = Kind(status=400, code="request_refused", title="The request cannot be read")
BODY_REFUSED = Kind(status=400, code="body_refused", title="The body cannot be read")
IDEMPOTENCY_KEY_REFUSED = Kind(
    status=400, code="idempotency_key_refused", title="The Idempotency-Key is missing or malformed"
)
CARD_DATA = Kind(status=422, code="card_data", title="Card data is never stored")
PAYLOAD_REFUSED = Kind(status=422, code="payload_refused", title="The payload cannot be accepted")
KEY_REFUSED = Kind(status=422, code="key_refused", title="The key cannot be accepted")
UNKNOWN_DEFINITION = Kind(
    status=422, code="unknown_definition", title="No saga of that name and version is known here"
)
IDEMPOTENCY_KEY_REUSED = Kind(
    status=422, code="idempotency_key_reused", title="The Idempotency-Key came with another body"
)
SAGA_KEY_REUSED = Kind(
    status=422, code="saga_key_reused", title="The saga's key was used with another payload"
)
IN_FLIGHT = Kind(
    status=409, code="in_flight", title="The same request is being answered", may_repeat=True
)
SAGA_LOCKED = Kind(
    status=409, code="saga_locked", title="Another saga is at work on the same thing"
)
UNKNOWN_GATEWAY = Kind(status=404, code="unknown_gateway", title="No such gateway delivers here")
WEBHOOK_REFUSED = Kind(status=400, code="webhook_refused", title="The webhook is not believed")
UNAVAILABLE = Kind(
    status=503, code="database_unavailable", title="The database does not answer", may_repeat=True
)
NOT_READY = Kind(
    status=503,
    code="not_ready",
    title="The database is not as this version needs it",
    may_repeat=True,
)
FAILED = Kind(status=500, code="internal_error", title="An error of ours; it has been logged")

KINDS: Final = tuple(each for each in globals().copy().values() if isinstance(each, Kind))

BY_ERROR: Final[tuple[tuple[type[Exception], Kind], ...]] = (
    (CardNumberError, CARD_DATA),
    (PayloadError, PAYLOAD_REFUSED),
    (InvalidKeyError, KEY_REFUSED),
    (UnknownDefinitionError, UNKNOWN_DEFINITION),
    (SagaNotFoundError, SAGA_NOT_FOUND),
    (SagaLockedError, SAGA_LOCKED),
    (IdempotencyInFlightError, IN_FLIGHT),
    (ConcurrentStartError, IN_FLIGHT),
    (OversizedWebhookError, TOO_LARGE),
    (UnknownGatewayError, UNKNOWN_GATEWAY),
    (WebhookError, WEBHOOK_REFUSED),
    (LogUnavailableError, UNAVAILABLE),
    (Moved, UNAVAILABLE),
    (RequestValidationError, REQUEST_REFUSED),
)
"""The first that fits counts."""

TELLING: Final = (
    CardNumberError,
    PayloadError,
    InvalidKeyError,
    WebhookSignatureError,
    WebhookReplayError,
)
"""Errors that say what is wrong without repeating any value."""

BY_STATUS: Final = {404: NOT_FOUND, 405: METHOD_NOT_ALLOWED}
"""What the router refuses by itself."""


class Refused(Exception):  # noqa: N818 - an answer, not a fault
    """Ends a request with a problem."""

    def __init__(self, kind: Kind, detail: str | None = None) -> None:
        super().__init__(kind.code)
        self.kind = kind
        self.detail = detail


class Problem(BaseModel):
    """What went wrong (RFC 9457). Branch on `code`; `detail` is for people and may change."""

    type: str = Field(examples=["urn:amends:problem:payload_refused"])
    title: str
    status: int = Field(ge=400, le=599)
    code: str
    detail: str | None = None
    request_id: str | None = Field(None, description="Stands in every log line of this request.")


def refusal_of(error: Exception) -> Refused | None:
    """Return what an error means to the caller, or None when it is a fault of ours."""
    match error:
        case Refused():
            return error
        case IdempotencyConflictError(saga_id=None):
            return Refused(IDEMPOTENCY_KEY_REUSED)
        case IdempotencyConflictError():
            return Refused(SAGA_KEY_REUSED)
        case _:
            pass
    for kind_of_error, kind in BY_ERROR:
        if isinstance(error, kind_of_error):
            return Refused(kind, str(error) if isinstance(error, TELLING) else None)
    complaint = complaint_of(error)
    if complaint is None:
        return None
    return Refused(UNAVAILABLE if complaint is Complaint.UNREACHABLE else NOT_READY)


def respond(
    request: Request, refused: Refused, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return the answer that tells of a problem."""
    kind = refused.kind
    problem = Problem(
        type=f"urn:amends:problem:{kind.code}",
        title=kind.title,
        status=kind.status,
        code=kind.code,
        detail=None if refused.detail is None else redact(refused.detail),
        request_id=getattr(request.state, "request_id", None),
    )
    extra = {"Retry-After": str(RETRY_SECONDS)} if kind.may_repeat else {}
    if kind is NOT_AUTHENTICATED:
        extra["WWW-Authenticate"] = "Bearer"
    if kind is TOO_SLOW:
        extra["Connection"] = "close"  # else the rest of the body may take for ever to arrive
    return JSONResponse(
        problem.model_dump(exclude_none=True),
        kind.status,
        headers={**(headers or {}), **extra},
        media_type=MEDIA_TYPE,
    )


async def answer_router(request: Request, error: Exception) -> JSONResponse:
    """Answer what no route of ours took."""
    assert isinstance(error, HTTPException)
    kind = BY_STATUS.get(error.status_code)
    if kind is None:
        kind = Kind(
            status=error.status_code,
            code="request_refused",
            title=HTTPStatus(error.status_code).phrase,
        )
    return respond(request, Refused(kind), error.headers)


async def answer_fault(request: Request, _: Exception) -> JSONResponse:
    """Answer a fault of ours; the server logs its traceback."""
    return respond(request, Refused(FAILED))


def documented(*kinds: Kind) -> dict[int | str, dict[str, Any]]:
    """Return the problems of an operation as OpenAPI wants them, by status."""
    found: dict[int | str, dict[str, Any]] = {}
    for status in sorted({each.status for each in kinds}):
        same = [each for each in kinds if each.status == status]
        content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
        told: dict[str, Any] = {
            "description": "; ".join(f"`{each.code}`: {each.title}" for each in same),
            "content": content,
        }
        if any(each.may_repeat for each in same):
            seconds = {"type": "integer", "minimum": 0}
            told["headers"] = {"Retry-After": {"description": "Seconds.", "schema": seconds}}
        found[status] = told
    return found
