"""The gateway's and the carrier's own interface over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date
from http import HTTPStatus
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from steps.gateways.sandbox import settlement, wire
from steps.gateways.sandbox.faults import FaultKind, Plan
from steps.gateways.sandbox.form import KEY_MAX_LENGTH
from steps.gateways.sandbox.gateway import Gateway
from steps.gateways.sandbox.journal import Journal
from steps.gateways.sandbox.movements import Command, Operation
from steps.gateways.sandbox.pipeline import Pipeline
from steps.gateways.sandbox.records import Answer

B = TypeVar("B", bound=BaseModel)


class _MalformedError(Exception):
    """The request cannot be understood, so it is not counted under any key."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.answer = wire.error(400, code, message)


class GatewayRoutes:
    """Effects by POST with an idempotency key, questions by GET."""

    def __init__(
        self, gateway: Gateway, journal: Journal, pipeline: Pipeline, form: wire.OwnForm
    ) -> None:
        self._gateway = gateway
        self._journal = journal
        self._pipeline = pipeline
        self._form = form

    def routes(self) -> list[Route]:
        return [
            Route("/payments", self._authorize, methods=["POST"]),
            Route("/payments/{reference}/capture", self._capture, methods=["POST"]),
            Route("/payments/{reference}/void", self._void, methods=["POST"]),
            Route("/payments/{reference}/refunds", self._refund, methods=["POST"]),
            Route("/shipments", self._ship, methods=["POST"]),
            Route("/payments", self._find_payments, methods=["GET"]),
            Route("/shipments", self._find_shipments, methods=["GET"]),
            Route("/report", self._report, methods=["GET"]),
            Route("/report.csv", self._settlement_file, methods=["GET"]),
        ]

    async def _authorize(self, request: Request) -> Response:
        return await self._effect(request, Operation.AUTHORIZE, wire.AuthorizeBody)

    async def _capture(self, request: Request) -> Response:
        return await self._effect(request, Operation.CAPTURE, wire.AmountBody)

    async def _void(self, request: Request) -> Response:
        return await self._effect(request, Operation.VOID, wire.NoBody)

    async def _refund(self, request: Request) -> Response:
        return await self._effect(request, Operation.REFUND, wire.AmountBody)

    async def _ship(self, request: Request) -> Response:
        return await self._effect(request, Operation.SHIP, wire.ShipBody)

    async def _find_payments(self, request: Request) -> Response:
        return await self._find(
            request,
            "payments",
            lambda **names: map(self._form.payment, self._gateway.payments(**names)),
        )

    async def _find_shipments(self, request: Request) -> Response:
        return await self._find(
            request,
            "shipments",
            lambda **names: map(wire.shipment_json, self._gateway.shipments(**names)),
        )

    async def _report(self, request: Request) -> Response:
        after, limit = wire.page_of(request.query_params)
        try:
            day = _day_of(request)
        except _MalformedError as malformed:
            return wire.response(malformed.answer)

        def page(_plan: Plan) -> Answer:
            moved = self._gateway.report(day, after=after, limit=limit)
            lines = [wire.movement_json(each) for each in moved]
            return Answer(status=200, body=wire.page_json("lines", lines, limit, key="seq"))

        received = self._journal.receive(Operation.LIST)
        return await self._pipeline.run(received, page, form=self._form)

    async def _settlement_file(self, request: Request) -> Response:
        """A whole day as CSV, once it is over."""
        try:
            day = _day_of(request)
        except _MalformedError as malformed:
            return wire.response(malformed.answer)

        def ready(_plan: Plan) -> Answer:
            if self._gateway.is_over(day):
                return Answer(status=200, body={})
            return wire.error(409, "report_not_ready", "a day is reported when it is over")

        received = self._journal.receive(Operation.LIST)
        answer = await self._pipeline.run(received, ready, form=self._form)
        if answer.status_code != HTTPStatus.OK:
            return answer
        return StreamingResponse(settlement.lines(self._gateway, day), media_type="text/csv")

    async def _effect(self, request: Request, operation: Operation, body_type: type[B]) -> Response:
        try:
            key = _key_of(request)
            body = await _body_of(request, body_type)
        except _MalformedError as malformed:
            return wire.response(malformed.answer)
        reference = request.path_params.get("reference")
        asked = body.model_dump()
        method = asked.pop("method", "")
        command = Command(
            operation=operation,
            key=key,
            payment_reference=reference,
            notes={"method": method} if method else {},
            **asked,
        )
        received = self._journal.receive(
            operation,
            key=key,
            fingerprint=wire.fingerprint_of(command),
            order_reference=command.order_reference
            or (self._gateway.order_of(reference) if reference else None),
            reference=reference,
        )
        return await self._pipeline.run(
            received,
            lambda plan: self._gateway.execute(command, received, plan, self._form),
            form=self._form,
        )

    async def _find(
        self, request: Request, kind: str, find: Callable[..., Iterable[dict[str, Any]]]
    ) -> Response:
        names = {
            name: request.query_params.get(name) for name in ("reference", "key", "order_reference")
        }
        if sum(value is not None for value in names.values()) != 1:
            return wire.response(
                wire.error(
                    400, "malformed_request", "find by one of reference, key, order_reference"
                )
            )

        def answer(plan: Plan) -> Answer:
            found = [] if FaultKind.NOT_FOUND in plan else list(find(**names))
            return Answer(status=200, body={kind: found})

        received = self._journal.receive(
            Operation.FIND,
            order_reference=names["order_reference"],
            reference=names["reference"],
        )
        return await self._pipeline.run(received, answer, form=self._form, asked_key=names["key"])


def _day_of(request: Request) -> date:
    try:
        return date.fromisoformat(request.query_params.get("day", ""))
    except ValueError as error:
        raise _MalformedError("malformed_request", "day=YYYY-MM-DD is required") from error


def _key_of(request: Request) -> str:
    key = request.headers.get(wire.KEY_HEADER, "")
    if not key:
        raise _MalformedError("key_required", "an Idempotency-Key header is mandatory")
    if len(key) > KEY_MAX_LENGTH:
        raise _MalformedError("key_too_long", f"a key has at most {KEY_MAX_LENGTH} characters")
    return key


async def _body_of(request: Request, body_type: type[B]) -> B:
    try:
        return body_type.model_validate_json(await request.body() or b"{}")
    except ValidationError as wrong:
        raise _MalformedError("malformed_request", wire.reasons(wrong)) from wrong
