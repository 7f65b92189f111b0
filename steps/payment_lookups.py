"""Looks up at the gateway and the carrier what an operator says under a reference.

The reference of a step's undo is that of what undid it (a refund), or of the payment itself. A
payment that another saga may have opened belongs to nobody here: then nobody can tell.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from orchestrator.context import CannotTell, Effect, Found, NotLanded, Standing, StepContext
from orchestrator.entries import Direction
from orchestrator.keys import is_derived
from steps.gateways.payment import ChargeResult, ChargeStatus, RefundStatus
from steps.payload import CheckoutPayload
from steps.payment import (
    authorized_reference,
    captured_payment,
    find_payment,
    found_under_our_key,
    held_payment,
    refunds_of,
    released_payment,
)

Context = StepContext[CheckoutPayload]

HELD: Final = "held"
CAPTURED: Final = "captured"
RELEASED: Final = "released"
REFUNDED: Final = "refunded"


def look_up_authorization(ctx: Context, reference: str | None) -> Found | NotLanded | CannotTell:
    """Tell whether the order's price is held under a reference, or was let go of."""
    if ctx.direction == Direction.COMPENSATE:
        return _release(ctx, reference)
    payment = _payment(ctx, reference)
    if payment is None:
        return NotLanded(f"no payment {reference}")
    if _is_anothers(ctx, payment):
        return CannotTell(f"{payment.reference} was opened under another key than this step's")
    ours = _still_open_under_our_key(ctx, payment)
    if ours is not None:
        return CannotTell(f"our own key opened {ours.reference} as well, which is {ours.status}")
    is_held = payment.status.holds_money and not payment.refunded.minor
    return Found(
        theirs=_standing(payment, payment.amount.minor, HELD if is_held else payment.status.value),
        ours=_wanted(ctx, ctx.payload.amount_minor, HELD),
        effect=held_payment(payment),
    )


def look_up_capture(ctx: Context, reference: str | None) -> Found | NotLanded | CannotTell:
    """Tell whether the order's price was taken under a reference, or was given back."""
    if ctx.direction == Direction.COMPENSATE:
        return _refund(ctx, reference)
    payment = _payment(ctx, reference)
    if payment is None:
        return NotLanded(f"no payment {reference}")
    is_taken = payment.status is ChargeStatus.CAPTURED and not payment.refunded.minor
    theirs = _standing(
        payment, payment.captured.minor, CAPTURED if is_taken else payment.status.value
    )
    wanted = _wanted(ctx, ctx.payload.amount_minor, CAPTURED)
    return Found(
        theirs=replace(theirs, reference=payment.reference),
        ours=replace(wanted, reference=authorized_reference(ctx)),
        effect=captured_payment(payment),
    )


def _release(ctx: Context, reference: str | None) -> Found | NotLanded:
    known = None if ctx.effect is None else ctx.effect.reference
    payment = _payment(ctx, known) if known else found_under_our_key(ctx)
    if payment is None or reference not in (None, payment.reference):
        return _something_else(ctx, reference, RELEASED)
    is_given_back = bool(payment.captured.minor) and payment.captured == payment.refunded
    is_gone = is_given_back or payment.status in (ChargeStatus.VOIDED, ChargeStatus.EXPIRED)
    return Found(
        theirs=_standing(payment, payment.amount.minor, RELEASED if is_gone else _stands(payment)),
        ours=_wanted(ctx, ctx.payload.amount_minor, RELEASED),
        effect=released_payment(ctx, payment),
        untouched=not is_gone,
    )


def _refund(ctx: Context, reference: str | None) -> Found | NotLanded:
    known = ctx.effect.reference if ctx.effect is not None else None
    payment = _payment(ctx, known or _authorized(ctx))
    if payment is None:
        return _something_else(ctx, reference, REFUNDED)
    named = [each for each in payment.refunds if each.reference == reference]
    if reference not in (None, payment.reference) and not named:
        return _something_else(ctx, reference, REFUNDED)
    is_failed = any(each.status is RefundStatus.FAILED for each in named)
    is_whole = bool(payment.captured.minor) and payment.refunded == payment.captured
    status = "refund failed" if is_failed else REFUNDED if is_whole else _stands(payment)
    return Found(
        theirs=_standing(payment, payment.refunded.minor, status),
        ours=_wanted(ctx, payment.captured.minor, REFUNDED),
        effect=Effect(
            value={"status": payment.status},
            reference=payment.reference,
            movements=refunds_of(payment),
        ),
        untouched=not payment.refunded.minor,
    )


def _something_else(ctx: Context, reference: str | None, status: str) -> Found | NotLanded:
    """A reference that has nothing to do with what is to be undone."""
    other = _payment(ctx, reference)
    if other is None:
        return NotLanded(f"nothing is found under {reference}")
    theirs = _standing(other, other.refunded.minor, _stands(other))
    return Found(
        theirs=replace(theirs, reference=other.reference),
        ours=_wanted(ctx, ctx.payload.amount_minor, status),
    )


def _payment(ctx: Context, reference: str | None) -> ChargeResult | None:
    return find_payment(ctx, reference=reference) if reference else None


def _authorized(ctx: Context) -> str | None:
    return authorized_reference(ctx) if "authorize_payment" in ctx.results else None


def _is_anothers(ctx: Context, payment: ChargeResult) -> bool:
    """Whether a key like ours, but not ours, opened the payment: most likely another saga's.

    Of this installation or of another on the same account, whose orders may bear the same numbers.
    """
    return payment.key != ctx.step_key and is_derived(payment.key)


def _still_open_under_our_key(ctx: Context, payment: ChargeResult) -> ChargeResult | None:
    """What the step's own key opened beside `payment` and still may cost: a person chooses then."""
    if payment.key == ctx.step_key:
        return None
    ours = find_payment(ctx, key=ctx.step_key)
    if ours is None or not (ours.status.holds_money or ours.status is ChargeStatus.REQUIRES_ACTION):
        return None
    return ours


def _stands(payment: ChargeResult) -> str:
    if payment.refunded.minor and payment.refunded != payment.captured:
        return "refunded in part"
    return HELD if payment.status is ChargeStatus.AUTHORIZED else payment.status.value


def _standing(payment: ChargeResult, minor: int, status: str) -> Standing:
    return Standing(
        order=payment.order_reference,
        amount_minor=minor,
        currency=payment.amount.currency,
        status=status,
    )


def _wanted(ctx: Context, minor: int, status: str) -> Standing:
    return Standing(
        order=ctx.payload.order_id,
        amount_minor=minor,
        currency=ctx.payload.currency,
        status=status,
    )
