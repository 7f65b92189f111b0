"""Stripe's v1 interface: what is asked, by GET. Lists begin with the newest."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from steps.gateways.sandbox import wire
from steps.gateways.sandbox.announcements import STRIPE_TYPES, Announcements
from steps.gateways.sandbox.faults import FaultKind, Plan
from steps.gateways.sandbox.ledger import Ledger
from steps.gateways.sandbox.movements import Movement, Operation, Payment
from steps.gateways.sandbox.newest_first import Kind, newest_first
from steps.gateways.sandbox.records import Answer
from steps.gateways.sandbox.stripe_face import parameters as p
from steps.gateways.sandbox.stripe_face.form import (
    METADATA,
    StripeForm,
    missing,
    page,
    parameter_error,
)
from steps.gateways.sandbox.stripe_face.routes import ORDER_REFERENCE, StripeFace, check_test_key

_OPENINGS: Final = tuple(kind for kind in STRIPE_TYPES if kind[0] is Operation.AUTHORIZE)
_REFUNDS: Final = tuple(kind for kind in STRIPE_TYPES if kind[0] is Operation.REFUND)
_CLAUSE: Final = re.compile(
    r"""metadata\[(["'])(?P<name>.+?)\1\]\s*:\s*(["'])(?P<value>.*?)(?<!\\)\3"""
)

P = TypeVar("P", bound=p.Parameters)
Act = Callable[[P, StripeForm, Plan], Answer]


class StripeQuestions:
    """Payment intents, refunds and events, one by one and in lists."""

    def __init__(self, face: StripeFace, ledger: Ledger, announcements: Announcements) -> None:
        self._face = face
        self._ledger = ledger
        self._announcements = announcements

    def routes(self) -> list[Route]:
        return [
            Route("/v1/payment_intents", self._intents, methods=["GET"]),
            Route("/v1/payment_intents/search", self._search, methods=["GET"]),
            Route("/v1/payment_intents/{id}", self._intent, methods=["GET"]),
            Route("/v1/refunds", self._refunds, methods=["GET"]),
            Route("/v1/refunds/{id}", self._refund, methods=["GET"]),
            Route("/v1/events", self._events, methods=["GET"]),
            Route("/v1/events/{id}", self._event, methods=["GET"]),
        ]

    async def _intent(self, request: Request) -> Response:
        reference = request.path_params["id"]

        def retrieve(_asked: p.Retrieve, form: StripeForm, plan: Plan) -> Answer:
            payment = self._face.payment(reference)
            if payment is None or FaultKind.NOT_FOUND in plan:
                return missing("payment_intent", reference, param="intent")
            return Answer(status=200, body=form.intent(payment))

        return await self._answer(request, p.Retrieve, retrieve, reference=reference)

    async def _intents(self, request: Request) -> Response:
        def listed(asked: p.Page, form: StripeForm, _plan: Plan) -> Answer:
            rows = self._newest(asked, _OPENINGS, openings_only=True)
            payments = self._face.gateway.payments_of(row.payment_reference for row in rows)
            return _page(map(form.intent, payments), "/v1/payment_intents", asked.limit)

        return await self._answer(request, p.Page, listed)

    async def _search(self, request: Request) -> Response:
        def search(asked: p.Search, form: StripeForm, plan: Plan) -> Answer:
            found = [] if FaultKind.NOT_FOUND in plan else self._found(asked.query)
            start = int(asked.page or 0)
            shown = found[start : start + asked.limit]
            has_more = len(found) > start + asked.limit
            body = page(map(form.intent, shown), "/v1/payment_intents/search", has_more)
            next_page = str(start + asked.limit) if has_more else None
            return Answer(
                status=200, body=body | {"object": "search_result", "next_page": next_page}
            )

        query = request.query_params.get("query", "")
        asked = {match["name"]: match["value"] for match in _CLAUSE.finditer(query)}
        return await self._answer(
            request,
            p.Search,
            search,
            order_reference=asked.get(ORDER_REFERENCE),
            asked_key=asked.get("authorize_key"),
        )

    async def _refund(self, request: Request) -> Response:
        reference = request.path_params["id"]

        def retrieve(_asked: p.Retrieve, form: StripeForm, _plan: Plan) -> Answer:
            rows = self._ledger.movements_with(reference)
            found = [each for row in rows[:1] for each in self._refund_of(row, form)]
            if not found:
                return missing("refund", reference, param="id")
            return Answer(status=200, body=found[0])

        return await self._answer(request, p.Retrieve, retrieve, reference=reference)

    async def _refunds(self, request: Request) -> Response:
        def listed(asked: p.Refunds, form: StripeForm, _plan: Plan) -> Answer:
            if asked.payment is None:
                rows = self._newest(asked, _REFUNDS)
                refunds = [each for row in rows for each in self._refund_of(row, form)]
            else:
                payment = self._face.payment(asked.payment)
                refunds = [
                    each
                    for each in (form.refunds(payment) if payment else [])
                    if asked.created.start <= each["created"] < asked.created.end
                ]
                ids = [each["id"] for each in refunds]
                if asked.starting_after in ids:
                    refunds = refunds[ids.index(asked.starting_after) + 1 :]
            return _page(refunds, "/v1/refunds", asked.limit)

        return await self._answer(request, p.Refunds, listed)

    def _refund_of(self, row: Movement, form: StripeForm) -> list[dict[str, Any]]:
        payment = self._face.payment(row.payment_reference)
        refunds = form.refunds(payment) if payment else []
        return [each for each in refunds if each["id"] == row.reference]

    async def _event(self, request: Request) -> Response:
        event_id = request.path_params["id"]

        def retrieve(_asked: p.Retrieve, _form: StripeForm, _plan: Plan) -> Answer:
            seq = self._ledger.seq_of(event_id)
            rows = self._ledger.movements_after(seq - 1, 1) if seq else []
            event = self._announcements.stripe(rows[0]) if rows else None
            if event is None:
                return missing("event", event_id, param="id")
            return Answer(status=200, body=event)

        return await self._answer(request, p.Retrieve, retrieve, operation=Operation.LIST)

    async def _events(self, request: Request) -> Response:
        def listed(asked: p.Events, _form: StripeForm, _plan: Plan) -> Answer:
            wanted = {*asked.types, *([asked.type] if asked.type else [])}
            kinds = [kind for kind, name in STRIPE_TYPES.items() if not wanted or name in wanted]
            rows = self._newest(asked, kinds)
            events = (self._announcements.stripe(row) for row in rows)
            return _page((each for each in events if each), "/v1/events", asked.limit)

        return await self._answer(request, p.Events, listed, operation=Operation.LIST)

    def _newest(
        self, asked: p.Page, kinds: Iterable[Kind], *, openings_only: bool = False
    ) -> list[Movement]:
        """One more than asked for, so that a page knows whether it is the last."""
        after = asked.starting_after
        return newest_first(
            self._ledger,
            kinds,
            start=asked.created.start,
            end=asked.created.end,
            before=self._ledger.seq_of(after) if after else None,
            limit=asked.limit + 1,
            openings_only=openings_only,
        )

    def _found(self, query: str) -> list[Payment]:
        """What a search finds: newest first.

        Raises:
            RefusedError: something else is asked for than metadata.
        """
        clauses = list(_CLAUSE.finditer(query))
        joints = set(_CLAUSE.sub("", query).split())
        if not clauses or joints not in (set(), {"AND"}, {"OR"}):
            raise p.RefusedError(
                parameter_error("the sandbox searches by metadata['name']:'value'", param="query")
            )
        bearers = [
            set(self._face.form.notes.bearing(METADATA + each["name"], _plain(each["value"])))
            for each in clauses
        ]
        join = set.union if joints == {"OR"} else set.intersection
        newest = sorted(join(*bearers), key=lambda each: self._ledger.seq_of(each) or 0)
        return self._face.gateway.payments_of(reversed(newest))

    async def _answer(
        self,
        request: Request,
        kind: type[P],
        act: Act[P],
        *,
        operation: Operation = Operation.FIND,
        reference: str | None = None,
        order_reference: str | None = None,
        asked_key: str | None = None,
    ) -> Response:
        try:
            check_test_key(request)
            asked = p.parameters(request.url.query, kind)
        except p.RefusedError as refused:
            return wire.response(refused.answer)
        expand = frozenset(each.removeprefix("data.") for each in asked.expand)
        form = replace(self._face.form, expand=expand)

        def answer(plan: Plan) -> Answer:
            try:
                return act(asked, form, plan)
            except p.RefusedError as refused:
                return refused.answer

        received = self._face.journal.receive(
            operation, order_reference=order_reference, reference=reference
        )
        return await self._face.pipeline.run(received, answer, form=form, asked_key=asked_key)


def _page(rows: Iterable[dict[str, Any]], url: str, limit: int) -> Answer:
    listed = list(rows)
    return Answer(status=200, body=page(listed[:limit], url, len(listed) > limit))


def _plain(quoted: str) -> str:
    return re.sub(r"\\(.)", r"\1", quoted)
