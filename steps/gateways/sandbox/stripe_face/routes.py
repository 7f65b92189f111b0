"""Stripe's v1 interface: what has an effect, by POST."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from steps.gateways.sandbox import wire
from steps.gateways.sandbox.form import KEY_MAX_LENGTH
from steps.gateways.sandbox.gateway import Gateway
from steps.gateways.sandbox.journal import Journal
from steps.gateways.sandbox.movements import Command, Operation, Payment
from steps.gateways.sandbox.pipeline import Pipeline
from steps.gateways.sandbox.stripe_face import parameters as p
from steps.gateways.sandbox.stripe_face.form import (
    METADATA,
    StripeForm,
    is_stripes,
    missing,
    parameter_error,
)
from steps.gateways.stripe.amounts import from_stripe_units, in_stripe_units
from steps.money import Money, MoneyError

ORDER_REFERENCE = "order_reference"
"""The metadata by which faults and totals know our order."""

_TEST_KEYS = ("sk_test_", "rk_test_")

P = TypeVar("P", bound=p.Parameters)


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeFace:
    """What both halves of the interface, effects and questions, work with."""

    gateway: Gateway
    journal: Journal
    pipeline: Pipeline
    form: StripeForm

    def payment(self, reference: str | None) -> Payment | None:
        """The payment of that reference, if it was opened in this form."""
        if reference is None or not is_stripes(reference):
            return None
        return self.gateway.payment(reference)


class StripeEffects:
    """Payment intents and refunds that are made or changed."""

    def __init__(self, face: StripeFace) -> None:
        self._face = face

    def routes(self) -> list[Route]:
        return [
            Route("/v1/payment_intents", self._create, methods=["POST"]),
            Route("/v1/payment_intents/{reference}/confirm", self._confirm, methods=["POST"]),
            Route("/v1/payment_intents/{reference}/capture", self._capture, methods=["POST"]),
            Route("/v1/payment_intents/{reference}/cancel", self._cancel, methods=["POST"]),
            Route("/v1/refunds", self._refund, methods=["POST"]),
        ]

    async def _create(self, request: Request) -> Response:
        try:
            body = await _body(request, p.Create)
            command = _create(body, _key_of(request))
        except p.RefusedError as refused:
            return wire.response(refused.answer)
        return await self._run(command, body, command.order_reference)

    async def _confirm(self, request: Request) -> Response:
        def confirm(body: p.Confirm, payment: Payment) -> Command:
            known = self._face.form.notes.of(payment.reference)
            notes = {"payment_method": body.payment_method, "return_url": body.return_url}
            return replace(
                _about(payment, Operation.AUTHORIZE),
                token=body.payment_method or known.get("payment_method", ""),
                declined_is_open=True,
                notes={name: value for name, value in notes.items() if value},
            )

        return await self._on_a_payment(request, p.Confirm, confirm)

    async def _capture(self, request: Request) -> Response:
        return await self._on_a_payment(request, p.Capture, _capture)

    async def _cancel(self, request: Request) -> Response:
        return await self._on_a_payment(request, p.Cancel, _cancel)

    async def _refund(self, request: Request) -> Response:
        return await self._on_a_payment(request, p.Refund, _refund)

    async def _on_a_payment(
        self, request: Request, kind: type[P], build: Callable[[P, Payment], Command]
    ) -> Response:
        try:
            body = await _body(request, kind)
            named = getattr(body, "payment_intent", "")  # a refund names its payment in its body
            reference = request.path_params.get("reference", named)
            payment = self._known(reference)
            command = replace(build(body, payment), key=_key_of(request))
        except p.RefusedError as refused:
            return wire.response(refused.answer)
        return await self._run(command, body, payment.order_reference)

    def _known(self, reference: str) -> Payment:
        payment = self._face.payment(reference)
        if payment is None:
            raise p.RefusedError(missing("payment_intent", reference, param="intent"))
        return payment

    async def _run(
        self, command: Command, body: p.Parameters, order_reference: str | None
    ) -> Response:
        face = self._face
        received = face.journal.receive(
            command.operation,
            key=command.key,
            fingerprint=wire.fingerprint_of(command),
            order_reference=order_reference,
            reference=command.payment_reference,
        )
        form = replace(face.form, expand=frozenset(body.expand))
        return await face.pipeline.run(
            received,
            lambda plan: face.gateway.execute(command, received, plan, form),
            form=form,
        )


def check_test_key(request: Request) -> None:
    """Refuse to go on without a key of Stripe's test mode: nobody's live key belongs here.

    Raises:
        RefusedError: 401.
    """
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.startswith(_TEST_KEYS):
        raise p.RefusedError(
            parameter_error("the sandbox takes test keys only (Bearer sk_test_…)", status=401)
        )


async def _body(request: Request, kind: type[P]) -> P:
    check_test_key(request)
    return p.parameters((await request.body()).decode(errors="replace"), kind)


def _create(body: p.Create, key: str) -> Command:
    amount = _money(body.amount, body.currency, param="amount")
    return Command(
        operation=Operation.AUTHORIZE,
        key=key,
        order_reference=body.metadata.get(ORDER_REFERENCE),
        amount_minor=amount.minor,
        currency=amount.currency,
        token=body.payment_method,
        confirms=body.confirm,
        challenge=body.payment_method_options.card.request_three_d_secure != "automatic",
        declined_is_open=True,
        notes={
            "payment_method": body.payment_method,
            "return_url": body.return_url,
            **_pinned(body.metadata),
        },
    )


def _capture(body: p.Capture, payment: Payment) -> Command:
    amount = _given(body.amount_to_capture, payment, param="amount_to_capture")
    command = _about(payment, Operation.CAPTURE, amount)
    return replace(command, notes=_pinned(body.metadata))


def _cancel(body: p.Cancel, payment: Payment) -> Command:
    notes = {"cancellation_reason": body.cancellation_reason}
    return replace(_about(payment, Operation.VOID), declined_is_open=True, notes=notes)


def _refund(body: p.Refund, payment: Payment) -> Command:
    amount = _given(body.amount, payment, param="amount")
    left = max(payment.captured_minor - payment.refunded_minor, 1)  # of nothing it is too much
    command = _about(payment, Operation.REFUND, left if amount is None else amount)
    return replace(command, notes=_pinned(body.metadata))


def _about(payment: Payment, operation: Operation, amount_minor: int | None = None) -> Command:
    return Command(
        operation=operation,
        key="",
        payment_reference=payment.reference,
        amount_minor=payment.amount_minor if amount_minor is None else amount_minor,
        currency=payment.currency,
    )


def _given(units: int | None, payment: Payment, *, param: str) -> int | None:
    return None if units is None else _money(units, payment.currency, param=param).minor


def _money(units: int, currency: str, *, param: str) -> Money:
    if units < 1:
        raise p.RefusedError(
            parameter_error("must be at least 1", param=param, code="parameter_invalid_integer")
        )
    try:
        amount = from_stripe_units(units, currency)
        in_stripe_units(amount)
    except MoneyError as error:
        raise p.RefusedError(parameter_error(str(error), param=param)) from error
    return amount


def _pinned(metadata: Mapping[str, str]) -> dict[str, str]:
    return {METADATA + name: value for name, value in metadata.items()}


def _key_of(request: Request) -> str:
    """The idempotency key; Stripe does without one, and then nothing is ever replayed."""
    key = request.headers.get(wire.KEY_HEADER) or f"none-{uuid.uuid4()}"
    if len(key) > KEY_MAX_LENGTH:
        raise p.RefusedError(parameter_error(f"a key has at most {KEY_MAX_LENGTH} characters"))
    return key
