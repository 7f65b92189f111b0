"""``POST /sagas`` and ``GET /sagas/{saga_id}``: starting sagas, and looking at one."""

from __future__ import annotations

from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.errors import CardNumberError, PayloadError, SagaNotFoundError
from orchestrator.payloads import MAX_KEY_LENGTH, refuse_card_data
from orchestrator.strict_json import read_json_object
from workers.http import problems
from workers.http.authentication import Actor
from workers.http.edge import Edge, edge_of
from workers.http.idempotency_key import HEADER, PATTERN, idempotency_key
from workers.http.limits import json_body
from workers.http.problems import Refused, documented
from workers.http.routing import ProblemRoute
from workers.http.saga_view import Links, SagaView, path_of, saga_view
from workers.http.starting import Asked

router = APIRouter(prefix="/sagas", tags=["sagas"], route_class=ProblemRoute)


class StartSaga(BaseModel):
    """What to start."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    definition: str = Field(description="The saga's name.", examples=["checkout"], max_length=200)
    version: int | None = Field(None, ge=1, le=2**31 - 1, description="Without it the latest.")
    key: str = Field(
        description="The business's own name for the work, such as the order id. One saga for each "
        "definition and key, for ever.",
        min_length=1,
        max_length=MAX_KEY_LENGTH,
        examples=["A-1009"],
    )
    payload: dict[str, Any] = Field(description="As the definition declares it; 64 kB at most.")


class StartedSaga(BaseModel):
    """The saga that holds the key."""

    id: UUID
    definition: str
    key: str
    created: bool = Field(description="False: it was there before this request.")
    links: Links


_LOCATION: Final = {
    "Location": {"description": "The saga's path.", "schema": {"type": "string"}, "required": True}
}
_IDEMPOTENCY_KEY: Final = {
    "name": HEADER,
    "in": "header",
    "required": True,
    "description": "The caller's own name for this request, best a UUID. With the same body it "
    "gets the same answer, for a day. In quotes, as the draft of the IETF wants it, or bare.",
    "schema": {"type": "string", "pattern": PATTERN},
    "example": '"8e03978e-40d5-43e8-bc93-6894a57f9324"',
}


@router.post(
    "",
    summary="Start a saga",
    status_code=201,
    response_model=StartedSaga,
    responses={
        200: {"model": StartedSaga, "description": "It existed.", "headers": _LOCATION},
        201: {"description": "It was started, and is durable.", "headers": _LOCATION},
        **documented(
            problems.BODY_REFUSED,
            problems.IDEMPOTENCY_KEY_REFUSED,
            problems.NOT_AUTHENTICATED,
            problems.TOO_SLOW,
            problems.IN_FLIGHT,
            problems.SAGA_LOCKED,
            problems.TOO_LARGE,
            problems.MEDIA_TYPE_REFUSED,
            problems.CARD_DATA,
            problems.PAYLOAD_REFUSED,
            problems.KEY_REFUSED,
            problems.UNKNOWN_DEFINITION,
            problems.IDEMPOTENCY_KEY_REUSED,
            problems.SAGA_KEY_REUSED,
            problems.UNAVAILABLE,
            problems.NOT_READY,
        ),
    },
    openapi_extra={
        "parameters": [_IDEMPOTENCY_KEY],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": StartSaga.model_json_schema()}},
        },
    },
)
def start_saga(
    request: Request,
    actor: Actor,
    body: Annotated[bytes, Depends(json_body)],
    edge: Annotated[Edge, Depends(edge_of)],
) -> JSONResponse:
    """Start a saga, durably, or find the one that holds its key.

    Safe to repeat, with the same Idempotency-Key and body, after any failure and any lost answer.
    """
    key = idempotency_key(request.headers.getlist(HEADER))
    if key is None:
        raise Refused(
            problems.IDEMPOTENCY_KEY_REFUSED,
            f'{HEADER} must be there once, as "text in quotes" or bare, 1 to 200 characters',
        )
    asked = _asked(body)
    answered = edge.starting.start(asked, actor=actor, idempotency_key=key)
    told = StartedSaga(
        id=answered.saga_id,
        definition=asked.definition,
        key=asked.key,
        created=answered.created,
        links=Links.of(answered.saga_id),
    )
    return JSONResponse(
        told.model_dump(mode="json"),
        201 if answered.created else 200,
        headers={"Location": path_of(answered.saga_id)},
    )


@router.get(
    "/{saga_id}",
    summary="Look at a saga",
    responses=documented(
        problems.REQUEST_REFUSED,
        problems.NOT_AUTHENTICATED,
        problems.SAGA_NOT_FOUND,
        problems.UNAVAILABLE,
        problems.NOT_READY,
    ),
)
def get_saga(saga_id: UUID, actor: Actor, edge: Annotated[Edge, Depends(edge_of)]) -> SagaView:  # noqa: ARG001 - whoever is known may look
    """Return the saga as it stands. Of one that was pruned nothing is told."""
    saga = edge.reads.get(saga_id)
    if saga is None:
        raise SagaNotFoundError("no saga of that id", saga_id=saga_id)
    return saga_view(
        saga,
        edge.log.entries(saga_id),
        edge.reads.attempts(saga_id),
        edge.definitions.version(saga.definition, saga.version),
    )


def _asked(body: bytes) -> Asked:
    """Return what a body asks for.

    Raises:
        CardNumberError: card data in any field of it, of known name or not.
        Refused: it cannot be read; no value of it is repeated.
    """
    try:
        told = read_json_object(body)
        refuse_card_data(told, "body")
        start = StartSaga.model_validate(told)
    except CardNumberError:
        raise
    except PayloadError as error:
        raise Refused(problems.BODY_REFUSED, str(error)) from None
    except ValidationError as error:
        raise Refused(problems.BODY_REFUSED, _explained(error)) from None
    return Asked(
        definition=start.definition, version=start.version, key=start.key, payload=start.payload
    )


def _explained(error: ValidationError) -> str:
    """Where a body is wrong; of fields that nobody knows the name is not repeated."""
    problems = []
    for each in error.errors(include_input=False, include_url=False, include_context=False):
        name = str(each["loc"][0]) if each["loc"] else ""
        known = name if name in StartSaga.model_fields else "unknown field"
        problems.append(f"{known}: {each['msg']}")
    return "; ".join(problems[:5])
