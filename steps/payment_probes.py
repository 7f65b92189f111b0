"""Asks the gateway whether a step, or its undo, took effect when nobody was told.

"It is there" is proof. "It is not there" is only one voice: the engine believes it when it was said
twice, late enough for everything that was sent to have arrived and to be shown.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from orchestrator.context import CannotTell, Effect, NotLanded, StepContext
from steps.gateways.payment import ChargeStatus, RefundStatus
from steps.payload import CheckoutPayload
from steps.payment import (
    accepted_refund,
    authorized_reference,
    captured_payment,
    differing_from_the_order,
    find_payment,
    found_under_our_key,
    held_payment,
    payment_begun,
    refund_of,
    refunded_by_others,
    released_payment,
)

Context = StepContext[CheckoutPayload]

KEY_LIFE: Final = timedelta(hours=24)
"""How long payment gateways remember a key at least."""

LAG: Final = timedelta(minutes=1)
"""How long their lookups may not show a payment that was just made."""

_RELEASED: Final = frozenset({ChargeStatus.VOIDED, ChargeStatus.EXPIRED, ChargeStatus.REFUNDED})


def probe_authorization(ctx: Context) -> Effect | NotLanded | CannotTell:
    """Tell whether the order's price is held, by the payment's reference or the step's key."""
    payment = payment_begun(ctx)
    if payment is None:
        return NotLanded("no such payment")
    differing = differing_from_the_order(ctx, payment)
    if differing:
        return CannotTell(f"{payment.reference} is not this order's: {differing}")
    if payment.status is ChargeStatus.DECLINED:
        return NotLanded("declined")
    if payment.status.holds_money:
        return held_payment(payment)
    return CannotTell(f"{payment.reference} is {payment.status}")


def probe_capture(ctx: Context) -> Effect | NotLanded | CannotTell:
    """Tell whether the whole price was taken from the payment on hold."""
    reference = authorized_reference(ctx)
    payment = find_payment(ctx, reference=reference)
    if payment is None:
        return CannotTell(f"{reference} is not found")
    if payment.captured == ctx.payload.price and not payment.refunded.minor:
        return captured_payment(payment)
    if payment.status is ChargeStatus.AUTHORIZED:
        return NotLanded("held, not captured")
    return CannotTell(f"{reference} is {payment.status}, captured {payment.captured}")


def probe_void(ctx: Context) -> Effect | NotLanded | CannotTell:
    """Tell whether nothing is held any more of what the void was for."""
    reference = ctx.effect.reference if ctx.effect is not None else None
    payment = find_payment(ctx, reference=reference) if reference else found_under_our_key(ctx)
    if payment is None:
        return CannotTell("the payment is not found")
    if payment.status in _RELEASED:
        return released_payment(ctx, payment)
    return NotLanded(f"{payment.reference} is {payment.status}")


def probe_refund(ctx: Context) -> Effect | NotLanded | CannotTell:
    """Tell whether the refund of that key was accepted, or all was given back by others."""
    reference = ctx.effect.reference if ctx.effect is not None else None
    reference = reference or authorized_reference(ctx)
    payment = find_payment(ctx, reference=reference)
    if payment is None:
        return CannotTell(f"{reference} is not found")
    refund = refund_of(payment, ctx.idempotency_key)
    if refund is not None and refund.status is not RefundStatus.FAILED:
        return accepted_refund(refund)
    if payment.status is ChargeStatus.REFUNDED:
        return refunded_by_others(payment)
    return NotLanded(f"{reference}: {payment.captured} taken, {payment.refunded} given back")
