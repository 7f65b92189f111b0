"""The sandbox's back stage: scripting faults and the payer, and reading the ledger as a judge."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from steps.gateways.sandbox import wire
from steps.gateways.sandbox.faults import FaultRule, FaultScript
from steps.gateways.sandbox.gateway import Clock, Gateway, NotPossibleError
from steps.gateways.sandbox.journal import Journal
from steps.gateways.sandbox.ledger import Ledger
from steps.gateways.sandbox.movements import Payment
from steps.gateways.sandbox.pipeline import Pipeline
from steps.gateways.sandbox.rules import CHALLENGE_ENDS


class StageRoutes:
    """Everything under /sandbox, and /healthz. A real gateway has none of it."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        journal: Journal,
        gateway: Gateway,
        faults: FaultScript,
        pipeline: Pipeline,
        clock: Clock,
        form: wire.OwnForm,
    ) -> None:
        self._ledger = ledger
        self._journal = journal
        self._gateway = gateway
        self._faults = faults
        self._pipeline = pipeline
        self._clock = clock
        self._form = form

    def routes(self) -> list[Route]:
        return [
            Route("/sandbox/challenges/{reference}", self._challenge, methods=["GET"]),
            Route("/sandbox/challenges/{reference}/{end}", self._end_challenge, methods=["POST"]),
            Route("/sandbox/refunds/{reference}/{end}", self._end_refund, methods=["POST"]),
            Route("/sandbox/faults", self._add_fault, methods=["POST"]),
            Route("/sandbox/faults", self._list_faults, methods=["GET"]),
            Route("/sandbox/faults", self._clear_faults, methods=["DELETE"]),
            Route("/sandbox/release", self._release, methods=["POST"]),
            Route("/sandbox/clock", self._advance_clock, methods=["POST"]),
            Route("/sandbox/ledger", self._movements, methods=["GET"]),
            Route("/sandbox/requests", self._requests, methods=["GET"]),
            Route("/sandbox/totals", self._totals, methods=["GET"]),
            Route("/healthz", self._health, methods=["GET"]),
        ]

    async def _challenge(self, request: Request) -> Response:
        payment = self._gateway.payment(request.path_params["reference"])
        if payment is None:
            return wire.response(wire.error(404, "payment_not_found", "no such payment"))
        return JSONResponse({"reference": payment.reference, "status": payment.status.value})

    async def _end_challenge(self, request: Request) -> Response:
        reference, end = request.path_params["reference"], request.path_params["end"]
        if end not in CHALLENGE_ENDS:
            ends = ", ".join(CHALLENGE_ENDS)
            return wire.response(wire.error(404, "not_found", f"POST …/ one of {ends}"))
        return self._ended(lambda: self._gateway.end_challenge(reference, end))

    async def _end_refund(self, request: Request) -> Response:
        reference = request.path_params["reference"]
        failed = {"settle": False, "fail": True}.get(request.path_params["end"])
        if failed is None:
            return wire.response(wire.error(404, "not_found", "POST …/settle or …/fail"))
        return self._ended(lambda: self._gateway.end_refund(reference, failed=failed))

    def _ended(self, end: Callable[[], Payment]) -> Response:
        try:
            return JSONResponse(self._form.payment(end()))
        except NotPossibleError as error:
            return wire.response(self._form.refusal(error.verdict))

    async def _add_fault(self, request: Request) -> Response:
        try:
            rule = FaultRule.model_validate_json(await request.body())
        except ValidationError as wrong:
            return wire.response(wire.error(400, "malformed_request", wire.reasons(wrong)))
        return JSONResponse({"id": self._faults.add(rule)}, status_code=201)

    async def _list_faults(self, _request: Request) -> Response:
        return JSONResponse({"faults": self._faults.listing()})

    async def _clear_faults(self, _request: Request) -> Response:
        self._faults.clear()
        return JSONResponse({"faults": []})

    async def _release(self, request: Request) -> Response:
        count = self._pipeline.release(request.query_params.get("order_reference"))
        return JSONResponse({"released_count": count})

    async def _advance_clock(self, request: Request) -> Response:
        seconds = request.query_params.get("advance_seconds", "")
        if not seconds.isdecimal():
            return wire.response(wire.error(400, "malformed_request", "advance_seconds=N"))
        self._clock.advance(int(seconds))
        return JSONResponse({"now": wire.instant(self._clock.now())})

    async def _movements(self, request: Request) -> Response:
        after, limit = wire.page_of(request.query_params)
        rows = [wire.movement_json(row) for row in self._ledger.movements_after(after, limit)]
        return JSONResponse(wire.page_json("movements", rows, limit, key="seq"))

    async def _requests(self, request: Request) -> Response:
        """Every request of the gateway's own interface; ``?open=true`` only those unanswered."""
        after, limit = wire.page_of(request.query_params)
        if request.query_params.get("open") == "true":
            found = self._journal.open_requests()
            rows = [wire.request_json(each, is_open=True) for each in found]
            return JSONResponse({"requests": rows, "next": None})
        rows = [
            wire.request_json(each, is_open=self._journal.is_open(each))
            for each in self._journal.page(after, limit)
        ]
        return JSONResponse(wire.page_json("requests", rows, limit, key="id"))

    async def _totals(self, request: Request) -> Response:
        _, limit = wire.page_of(request.query_params)
        rows = self._ledger.totals_after(
            request.query_params.get("after", ""),
            limit,
            order_reference=request.query_params.get("order_reference"),
        )
        return JSONResponse(wire.page_json("totals", rows, limit, key="order_reference"))

    async def _health(self, _request: Request) -> Response:
        return JSONResponse({"status": "ok", "last_seq": self._ledger.last_seq})
