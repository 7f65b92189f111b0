"""The back stage of webhooks: who is told, and what was delivered."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from steps.gateways.sandbox import wire
from steps.gateways.sandbox.announcements import Announcements
from steps.gateways.sandbox.deliveries import Deliveries, Delivery, EndpointForm


class Registration(BaseModel):
    """POST /sandbox/endpoints. Two secrets while one of them is being replaced."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    url: Annotated[str, Field(pattern=r"^https?://[^/]", max_length=2000)]
    secrets: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=2)]
    form: EndpointForm = EndpointForm.SANDBOX


class EndpointRoutes:
    """Registers endpoints and shows deliveries; secrets are never shown."""

    def __init__(self, deliveries: Deliveries, announcements: Announcements) -> None:
        self._deliveries = deliveries
        self._announcements = announcements

    def routes(self) -> list[Route]:
        return [
            Route("/sandbox/endpoints", self._register, methods=["POST"]),
            Route("/sandbox/endpoints/{id:int}", self._remove, methods=["DELETE"]),
            Route("/sandbox/deliveries", self._delivered, methods=["GET"]),
        ]

    async def _register(self, request: Request) -> Response:
        try:
            asked = Registration.model_validate_json(await request.body())
        except ValidationError as wrong:
            return wire.response(wire.error(400, "malformed_request", wire.reasons(wrong)))
        endpoint = self._deliveries.register(asked.url, asked.form, tuple(asked.secrets))
        return JSONResponse({"id": endpoint.id}, status_code=201)

    async def _remove(self, request: Request) -> Response:
        self._deliveries.remove(request.path_params["id"])
        return JSONResponse({"removed": True})

    async def _delivered(self, request: Request) -> Response:
        after, limit = wire.page_of(request.query_params)
        rows = [self._shown(each) for each in self._deliveries.after(after, limit)]
        return JSONResponse(wire.page_json("deliveries", rows, limit, key="id"))

    def _shown(self, delivery: Delivery) -> dict[str, object]:
        at = delivery.delivered_at
        return {
            "id": delivery.id,
            "endpoint_id": delivery.endpoint_id,
            "event_id": self._announcements.id_of(delivery.seq),
            "kind": delivery.kind.value,
            "attempts": delivery.attempts,
            "is_open": delivery.next_at is not None,
            "status": delivery.status,
            "delivered_at": None if at is None else wire.instant(at),
        }
