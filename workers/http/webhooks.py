"""``POST /webhooks/{gateway}``: kept and committed, then acknowledged, then processed."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.background import BackgroundTask

from workers.http import problems
from workers.http.edge import Edge, edge_of
from workers.http.limits import bounded_body
from workers.http.problems import documented
from workers.http.routing import ProblemRoute

router = APIRouter(prefix="/webhooks", tags=["webhooks"], route_class=ProblemRoute)


class Kept(BaseModel):
    """The delivery is committed; its sender may forget it."""

    is_first: bool = Field(description="False: its event had been kept before.")


@router.post(
    "/{gateway}",
    summary="Deliver a webhook",
    response_model=Kept,
    responses=documented(
        problems.BODY_REFUSED,
        problems.REQUEST_REFUSED,
        problems.WEBHOOK_REFUSED,
        problems.UNKNOWN_GATEWAY,
        problems.TOO_SLOW,
        problems.TOO_LARGE,
        problems.CARD_DATA,
        problems.UNAVAILABLE,
        problems.NOT_READY,
    ),
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "As the gateway signed it: in `Stripe-Signature` or "
            "`Sandbox-Signature`, with a secret of AMENDS_STRIPE_WEBHOOK_SECRETS or "
            "AMENDS_SANDBOX_WEBHOOK_SECRETS.",
            "content": {"application/json": {"schema": {"type": "object"}}},
        }
    },
)
def receive_webhook(
    request: Request,
    gateway: str,
    body: Annotated[bytes, Depends(bounded_body)],
    edge: Annotated[Edge, Depends(edge_of)],
) -> JSONResponse:
    """Keep what a gateway tells. Any answer but 200 means that it should be sent again."""
    receipt = edge.inbox.receive(gateway, request.headers, body)
    kept = Kept(is_first=receipt.is_first)
    return JSONResponse(kept.model_dump(), background=BackgroundTask(edge.processing.ask))
