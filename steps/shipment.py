"""Hands the parcel to the carrier: the point of no return."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from orchestrator.context import CannotTell, Effect, Found, NotLanded, Standing, StepContext
from orchestrator.keys import is_derived
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
    carrier = _carrier(ctx)
    accepted = call_or_find(lambda: _hand_over(ctx, carrier), lambda: _find(ctx, carrier))
    return _written_down(ctx, accepted)


def probe_shipment(ctx: StepContext[CheckoutPayload]) -> Effect | NotLanded:
    """Tell whether the carrier has the parcel; one that it has is written down, as by the step."""
    found = _find(ctx, _carrier(ctx))
    return NotLanded("no parcel under the key") if found is None else _written_down(ctx, found)


def look_up_shipment(
    ctx: StepContext[CheckoutPayload], reference: str | None
) -> Found | NotLanded | CannotTell:
    """Tell whether the carrier has the order's parcel; then it is written down, as by the step.

    One that another saga may have handed over, of whichever installation, is nobody's here.
    """
    if reference is None:
        return NotLanded("a parcel is looked up by its reference")
    found = ctx.ask(
        lambda seconds: _carrier(ctx).find(reference=reference, timeout_seconds=seconds), CALL
    )
    if not found:
        return NotLanded(f"no parcel {reference}")
    if found[0].key != ctx.step_key and is_derived(found[0].key):
        return CannotTell(f"{reference} was handed over under another key than this step's")
    ours_too = None if found[0].key == ctx.step_key else _find(ctx, _carrier(ctx))
    if ours_too is not None:
        return CannotTell(f"our own key had {ours_too.reference} fetched as well")
    theirs = Standing(order=found[0].order_reference, status="accepted")
    ours = Standing(order=ctx.payload.order_id, status="accepted")
    if theirs != ours:
        return Found(theirs=theirs, ours=ours)
    return Found(theirs=theirs, ours=ours, effect=_written_down(ctx, found[0]))


def _written_down(ctx: StepContext[CheckoutPayload], accepted: Shipment) -> Effect:
    shop = ctx.resource(ShopDatabase)
    shop.keep_shipment(ctx.step_key, ctx.results["reserve_inventory"]["reservation_key"], accepted)
    return Effect(
        value={"reference": accepted.reference, "tracking_number": accepted.tracking_number},
        reference=accepted.reference,
    )


def _carrier(ctx: StepContext[CheckoutPayload]) -> Carrier:
    return ctx.resource(Carrier)  # type: ignore[type-abstract]


def _hand_over(ctx: StepContext[CheckoutPayload], carrier: Carrier) -> Shipment:
    return ctx.call(
        lambda seconds: carrier.create_shipment(
            ShipmentRequest(order_reference=ctx.payload.order_id),
            key=ctx.idempotency_key,
            timeout_seconds=seconds,
        ),
        CALL,
    )


def _find(ctx: StepContext[CheckoutPayload], carrier: Carrier) -> Shipment | None:
    found = ctx.ask(lambda seconds: carrier.find(key=ctx.step_key, timeout_seconds=seconds), CALL)
    return found[0] if found else None
