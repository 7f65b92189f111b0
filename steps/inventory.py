"""Puts the order's units aside and, if the order comes to nothing, back on the shelf."""

from __future__ import annotations

import sqlalchemy

from orchestrator.context import Effect, NothingThere, StepContext
from orchestrator.errors import Terminal
from steps.payload import CheckoutPayload
from steps.storage import stock
from steps.storage.stock import ReservationState


def reserve_inventory(ctx: StepContext[CheckoutPayload]) -> Effect:
    """Reserve the units in the transaction that logs it; the reservation's key is its reference.

    Raises:
        OutOfStockError: final; there is too little.
    """
    order = ctx.payload
    stock.reserve(_transaction(ctx), key=ctx.idempotency_key, sku=order.sku, units=order.units)
    return Effect(
        value={"reservation_key": ctx.idempotency_key, "sku": order.sku, "units": order.units},
        reference=ctx.idempotency_key,
    )


def release_inventory(ctx: StepContext[CheckoutPayload]) -> Effect | NothingThere:
    """Give the units back; a second release finds them back already and changes nothing."""
    if ctx.effect is None or ctx.effect.reference is None:
        return NothingThere()  # what was not logged was rolled back
    match stock.release(_transaction(ctx), ctx.effect.reference):
        case None:
            return NothingThere()
        case ReservationState.SHIPPED:
            raise Terminal("the units have left the house", code="already_shipped")
        case ReservationState.RESERVED | ReservationState.RELEASED:
            return Effect(reference=ctx.effect.reference)


def _transaction(ctx: StepContext[CheckoutPayload]) -> sqlalchemy.Connection:
    if ctx.connection is None:
        raise TypeError(f"step {ctx.step} must be declared transactional=True")
    return ctx.connection
