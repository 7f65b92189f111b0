"""`PaymentGateway` and `Carrier` over the sandbox gateway's own wire form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from typing import Final
from urllib.parse import quote

from steps.gateways.arguments import one_name
from steps.gateways.carrier import Shipment, ShipmentRequest
from steps.gateways.done_before import captured_before, refunded_before, released_before
from steps.gateways.errors import (
    AuthenticationRequiredError,
    LookupFailedError,
    PaymentStateError,
)
from steps.gateways.payment import (
    CaptureRequest,
    ChargeRequest,
    ChargeResult,
    ChargeStatus,
    GatewayCapabilities,
    MovementKind,
    RefundRequest,
    RefundResult,
    ReportLine,
    UnreadableLine,
)
from steps.gateways.sandbox import answers
from steps.gateways.sandbox.calls import KEY_MAX_LENGTH, ask, perform
from steps.gateways.sandbox.transport import Transport
from steps.money import Money

SANDBOX_CAPABILITIES: Final = GatewayCapabilities(
    name="sandbox",
    key_lifetime=timedelta(hours=24),
    key_max_length=KEY_MAX_LENGTH,
    replays_errors=True,
    refuses_key_in_flight=True,
    voids_only_before_capture=True,
    captures_once=True,
    refunds_are_asynchronous=True,
    authorization_lifetime=timedelta(days=7),
    lookup_lag=timedelta(seconds=2),  # it has none of its own; the fault `not_found` plays one
    business_zone="UTC",
    keys_found=frozenset(MovementKind) - {MovementKind.REFUND_FAILED},
)


class SandboxGateway:
    """The sandbox as a payment gateway. `timeout` caps every call, however long it may take."""

    def __init__(self, base_url: str, *, timeout: timedelta) -> None:
        self._transport = Transport(base_url, longest=timeout)

    @property
    def capabilities(self) -> GatewayCapabilities:
        return SANDBOX_CAPABILITIES

    def authorize(
        self, request: ChargeRequest, *, key: str, timeout_seconds: float
    ) -> ChargeResult:
        payment = perform(
            "gateway.authorize",
            self._transport,
            "/payments",
            {
                **_amount_json(request.amount),
                "token": request.token,
                "order_reference": request.order_reference,
                "method": request.method,
                **({"challenge": True} if request.challenge else {}),
            },
            key=key,
            timeout_seconds=timeout_seconds,
            read=answers.payment,
        )
        if payment.status is ChargeStatus.REQUIRES_ACTION:
            raise AuthenticationRequiredError(
                "the payer must authenticate",
                challenge_url=payment.challenge_url or "",
                reference=payment.reference,
            )
        return payment

    def capture(self, request: CaptureRequest, *, key: str, timeout_seconds: float) -> ChargeResult:
        try:
            return perform(
                "gateway.capture",
                self._transport,
                f"/payments/{quote(request.reference, safe='')}/capture",
                _amount_json(request.amount),
                key=key,
                timeout_seconds=timeout_seconds,
                read=answers.payment,
            )
        except PaymentStateError as error:
            return captured_before(error, request)

    def void(self, reference: str, *, key: str, timeout_seconds: float) -> ChargeResult:
        try:
            return perform(
                "gateway.void",
                self._transport,
                f"/payments/{quote(reference, safe='')}/void",
                {},
                key=key,
                timeout_seconds=timeout_seconds,
                read=answers.payment,
            )
        except PaymentStateError as error:
            return released_before(error)

    def refund(self, request: RefundRequest, *, key: str, timeout_seconds: float) -> RefundResult:
        try:
            return perform(
                "gateway.refund",
                self._transport,
                f"/payments/{quote(request.reference, safe='')}/refunds",
                _amount_json(request.amount),
                key=key,
                timeout_seconds=timeout_seconds,
                read=answers.refund,
            )
        except PaymentStateError as error:
            return refunded_before(error, request)

    def find(
        self,
        *,
        reference: str | None = None,
        key: str | None = None,
        order_reference: str | None = None,
        timeout_seconds: float,
    ) -> Sequence[ChargeResult]:
        return ask(
            "gateway.find",
            self._transport,
            "/payments",
            one_name(reference=reference, key=key, order_reference=order_reference),
            timeout_seconds=timeout_seconds,
            read=answers.payments,
        )

    def list(self, day: date, *, timeout_seconds: float) -> Iterator[ReportLine | UnreadableLine]:
        after: int | None = 0
        while after is not None:
            lines, following = ask(
                "gateway.list",
                self._transport,
                "/report",
                {"day": day.isoformat(), "after": str(after)},
                timeout_seconds=timeout_seconds,
                read=answers.report_page,
            )
            if following is not None and following <= after:
                raise LookupFailedError(f"the report goes back from {after} to {following}")
            yield from lines
            after = following

    def close(self) -> None:
        """Close this process's connections; the next call opens new ones."""
        self._transport.close()


class SandboxCarrier:
    """The sandbox as a carrier. `timeout` caps every call, however long it may take."""

    def __init__(self, base_url: str, *, timeout: timedelta) -> None:
        self._transport = Transport(base_url, longest=timeout)

    def create_shipment(
        self, request: ShipmentRequest, *, key: str, timeout_seconds: float
    ) -> Shipment:
        return perform(
            "carrier.create_shipment",
            self._transport,
            "/shipments",
            {"order_reference": request.order_reference, "destination": request.destination},
            key=key,
            timeout_seconds=timeout_seconds,
            read=answers.shipment,
        )

    def find(
        self,
        *,
        reference: str | None = None,
        key: str | None = None,
        order_reference: str | None = None,
        timeout_seconds: float,
    ) -> Sequence[Shipment]:
        return ask(
            "carrier.find",
            self._transport,
            "/shipments",
            one_name(reference=reference, key=key, order_reference=order_reference),
            timeout_seconds=timeout_seconds,
            read=answers.shipments,
        )

    def close(self) -> None:
        """Close this process's connections; the next call opens new ones."""
        self._transport.close()


def _amount_json(amount: Money) -> dict[str, object]:
    return {"amount_minor": amount.minor, "currency": amount.currency}
