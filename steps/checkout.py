"""The checkout: goods are put aside, the order is screened, money is taken, the parcel leaves.

Once the parcel has left nothing is taken back. Before that, every step that may have run is undone
in reverse: a capture by a refund, a hold that was never captured by a void, reserved units by their
release. A verdict stays, because it stays true.

The order is screened twice: before any money is asked for, and once money is held, because what the
issuer says of address and security code comes with the hold.

A free order (amount 0) has nothing to hold or to take, and gateways refuse a charge of nothing: it
skips all steps of the payment and goes from its screening straight to its parcel.
"""

from __future__ import annotations

from datetime import timedelta

from orchestrator.definition import Retry, SagaDefinition, step
from orchestrator.guarding import Breaker, CallPolicy
from steps.balanced_books import balanced_books
from steps.fraud import screen_authorization, screen_fraud
from steps.gateways.outages import of_gateway
from steps.inventory import release_inventory, reserve_inventory
from steps.payload import CheckoutPayload
from steps.payment import authorize_payment, capture_payment, refund_payment, void_payment
from steps.payment_lookups import look_up_authorization, look_up_capture
from steps.payment_probes import (
    KEY_LIFE,
    LAG,
    probe_authorization,
    probe_capture,
    probe_refund,
    probe_void,
)
from steps.shipment import create_shipment, look_up_shipment, probe_shipment

__all__ = ["CheckoutPayload", "checkout"]


def _costs_money(order: CheckoutPayload) -> bool:
    return not order.is_free


LOCAL = timedelta(seconds=10)
"""Longest attempt of a step that asks only our own database."""

OUTSIDE = timedelta(seconds=20)
"""Longest attempt of a step that calls out: two calls of at most 5 s, and room around them."""

PATIENCE = Retry(max_attempts=6, base=timedelta(milliseconds=200), cap=timedelta(seconds=10))

GATEWAY = CallPolicy(name="payment_gateway", breaker=Breaker(judge=of_gateway))
CARRIER = CallPolicy(name="carrier", breaker=Breaker(judge=of_gateway))
"""How many requests either may be sent is a matter of its contract: a deployment sets the rate."""

checkout = SagaDefinition(
    name="checkout",
    version=1,
    payload=CheckoutPayload,
    attributes=["order_id", "customer_id"],
    deadline=timedelta(minutes=30),
    closing=balanced_books,
    steps=[
        step(
            "reserve_inventory",
            reserve_inventory,
            compensation=release_inventory,
            transactional=True,
            timeout=LOCAL,
            retry=PATIENCE,
        ),
        step(
            "screen_fraud",
            screen_fraud,
            no_compensation="none, because a verdict stays true",
            timeout=LOCAL,
            retry=PATIENCE,
        ),
        step(
            "authorize_payment",
            authorize_payment,
            calls=GATEWAY,
            probe=probe_authorization,
            undo_probe=probe_void,
            lookup=look_up_authorization,
            key_life=KEY_LIFE,
            lag=LAG,
            compensation=void_payment,
            undone_by="capture_payment",
            when=_costs_money,
            timeout=OUTSIDE,
            retry=PATIENCE,
        ),
        step(
            "screen_authorization",
            screen_authorization,
            no_compensation="none, because a verdict stays true",
            when=_costs_money,
            timeout=LOCAL,
            retry=PATIENCE,
        ),
        step(
            "capture_payment",
            capture_payment,
            calls=GATEWAY,
            probe=probe_capture,
            undo_probe=probe_refund,
            lookup=look_up_capture,
            key_life=KEY_LIFE,
            lag=LAG,
            compensation=refund_payment,
            when=_costs_money,
            timeout=OUTSIDE,
            retry=PATIENCE,
        ),
        step(
            "create_shipment",
            create_shipment,
            calls=CARRIER,
            probe=probe_shipment,
            lookup=look_up_shipment,
            key_life=KEY_LIFE,
            lag=LAG,
            pivot=True,
            timeout=OUTSIDE,
            retry=PATIENCE,
        ),
    ],
)
