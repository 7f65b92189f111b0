"""Hands the parcel to the carrier: the point of no return."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from orchestrator.context import Effect, StepContext
from steps.gateways.carrier import Carrier, Shipment, ShipmentRequest
from steps.payload import CheckoutPayload
from steps.second_look import call_or_find
from steps.storage.shop_database import ShopDatabase

CALL: Final = timedelta(seconds=5)


def create_shipment(ctx: StepContext[CheckoutPayload]) -> Effect:
    """Have the parcel fetched, then write it down and take its units out of stock.

    When only the writing fails the outcome is unknown, which is true: the next attempt gets the
    same parcel for the same key and writes it then.

    Raises:
        ShipmentRefusedError: final; the carrier will not take it, and the money goes back.
    """
    carrier = ctx.resource(Carrier)  # type: ignore[type-abstract]
    shop = ctx.resource(ShopDatabase)
    accepted = call_or_find(lambda: _hand_over(ctx, carrier), lambda: _find(ctx, carrier))
    shop.keep_shipment(
        ctx.idempotency_key, ctx.results["reserve_inventory"]["reservation_key"], accepted
    )
    return Effect(
        value={"reference": accepted.reference, "tracking_number": accepted.tracking_number},
        reference=accepted.reference,
    )


def _hand_over(ctx: StepContext[CheckoutPayload], carrier: Carrier) -> Shipment:
    return carrier.create_shipment(
        ShipmentRequest(order_reference=ctx.payload.order_id),
        key=ctx.idempotency_key,
        timeout_seconds=ctx.call_timeout(CALL),
    )


def _find(ctx: StepContext[CheckoutPayload], carrier: Carrier) -> Shipment | None:
    found = carrier.find(key=ctx.idempotency_key, timeout_seconds=ctx.call_timeout(CALL))
    return found[0] if found else None
