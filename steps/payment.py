"""Holds the money, takes it, and on the way back gives it back or lets it go.

What an undo answers, by what stands at the gateway:

    void meets        no payment                       nothing there
                      a hold, an open challenge        voided
                      a declined payment               closed, where another card might open it
                      an unseen one of a known name    voided by that name
                      voided, expired, refunded        already done: nothing is held or kept
                      captured, not refunded           Terminal: only a refund gives it back
    refund meets      never captured                   nothing there
                      captured                         refunded, whole
                      refunded, whole                  already done
                      refunded in part by others       Terminal: a person must look

"Nothing there" is said only while no effect is known; a known effect that is gone is "done". A
lookup that finds no payment at all is another answer, `NotLanded`: it may lag behind the step that
opened one (an authorization whose answer was lost is known by its key only), so the engine asks
again, later.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import timedelta
from typing import Final

from orchestrator.context import Effect, Movement, NothingThere, NotLanded, StepContext
from orchestrator.entries import Direction
from orchestrator.errors import OutcomeUnknown, Terminal, Wait
from orchestrator.keys import installation_of
from steps.fraud import is_challenged
from steps.gateways.errors import (
    AuthenticationRequiredError,
    CardDeclinedError,
    InvalidRequestError,
    PaymentStateError,
)
from steps.gateways.payment import (
    CaptureRequest,
    ChargeRequest,
    ChargeResult,
    ChargeStatus,
    PaymentGateway,
    RefundRequest,
    RefundResult,
    RefundStatus,
    method_of,
)
from steps.money import Money
from steps.payload import CheckoutPayload
from steps.second_look import call_or_find, found_if_answered

Context = StepContext[CheckoutPayload]

CALL: Final = timedelta(seconds=5)

AUTHENTICATED: Final = "payment_authenticated"
"""The signal that a payer has answered a challenge, one way or the other."""

CHALLENGE: Final = timedelta(minutes=15)
"""How long a payer has for it."""


def authorize_payment(ctx: Context) -> Effect:
    """Hold the price of the order; the reference is the payment's at the gateway.

    A payer who has to pass a challenge is waited for, holding no worker. What came of it is looked
    up by the payment's reference and not asked for again: the key would replay its first answer. So
    the answer to a repeated call may be of long ago, and is looked up as well before it is waited
    for: nobody is told again of a challenge that is over.

    Raises:
        CardDeclinedError: final; the issuer said no, or the challenge was not passed.
        Wait: for `AUTHENTICATED`, told by the gateway's webhook.
        Terminal: ``not_authenticated``: the payer did not answer in time. The void that follows
            calls the challenge off.
    """
    if ctx.waited:
        return held_payment(_after_the_challenge(ctx))
    try:
        held = call_or_find(lambda: _authorize(ctx), lambda: _held_under_our_key(ctx))
    except AuthenticationRequiredError as error:
        reference = error.reference
        seen = None
        if ctx.attempt > 1:
            seen = found_if_answered(lambda: find_payment(ctx, reference=reference))
        if seen is None or seen.status is ChargeStatus.REQUIRES_ACTION:
            raise _challenge(ctx, reference) from error
        held = _passed(seen)
    return held_payment(checked_as_ours(ctx, held))


def held_payment(payment: ChargeResult) -> Effect:
    """Return the effect that a payment on hold is."""
    return Effect(
        value={"reference": payment.reference, "card_checks": asdict(payment.card_checks)},
        reference=payment.reference,
        movements=[_movement("authorize", payment.amount, payment.reference)],
    )


def capture_payment(ctx: Context) -> Effect:
    """Take what is held.

    Raises:
        PaymentStateError: final; the hold is gone, or something else was taken from it.
    """
    reference = authorized_reference(ctx)
    taken = call_or_find(lambda: _capture(ctx, reference), lambda: _captured_whole(ctx, reference))
    return captured_payment(taken)


def captured_payment(payment: ChargeResult) -> Effect:
    """Return the effect that a captured payment is."""
    return Effect(
        value={"reference": payment.reference},
        reference=payment.reference,
        movements=[_movement("capture", payment.captured, payment.reference)],
    )


def void_payment(ctx: Context) -> Effect | NothingThere | NotLanded:
    """Let go of the hold, known or found under the key that may have made it.

    Raises:
        Terminal: ``captured``: the money was taken, so letting go is no longer possible and saying
            so would be a lie. Where our own capture took it, its refund has spared us this.
    """
    effect = ctx.effect
    if effect is not None and effect.reference is not None:
        was_held = not effect.is_open or _is_held(ctx, effect.reference)
        return _voided(ctx, effect.reference, was_held=was_held)
    payment = found_under_our_key(ctx)
    if payment is None:
        return _not_found(ctx)
    return _voided(ctx, payment.reference, was_held=payment.status is ChargeStatus.AUTHORIZED)


def refund_payment(ctx: Context) -> Effect | NothingThere | NotLanded:
    """Give back all that was taken; an accepted refund may be pending still, and says so.

    Raises:
        PaymentStateError: final; less is left than was taken, so others gave some back.
        Terminal: ``refund_failed``: the refund was accepted once and came back.
    """
    if ctx.effect is not None and ctx.effect.reference is not None:
        return _refunded(ctx, ctx.effect.reference, ctx.payload.price)
    if "authorize_payment" not in ctx.results:
        return NothingThere()
    payment = find_payment(ctx, reference=authorized_reference(ctx))
    if payment is None:
        return _not_found(ctx)
    if payment.captured == payment.refunded:
        return NothingThere()
    return _refunded(ctx, payment.reference, payment.captured)


# The four calls. Each passes the step's `calls`, and is told last how long it may take.


def _authorize(ctx: Context) -> ChargeResult:
    order = ctx.payload
    if order.payment_method is None:
        raise InvalidRequestError("nothing to charge the order to", code="no_payment_method")
    request = ChargeRequest(
        amount=order.price,
        token=order.payment_method,
        order_reference=order.order_id,
        challenge=is_challenged(ctx),
    )
    return ctx.call(
        lambda seconds: _gateway(ctx).authorize(
            request, key=ctx.idempotency_key, timeout_seconds=seconds
        ),
        CALL,
    )


def _capture(ctx: Context, reference: str) -> ChargeResult:
    request = CaptureRequest(reference=reference, amount=ctx.payload.price)
    return ctx.call(
        lambda seconds: _gateway(ctx).capture(
            request, key=ctx.idempotency_key, timeout_seconds=seconds
        ),
        CALL,
    )


def _voided(ctx: Context, reference: str, *, was_held: bool = True) -> Effect | NothingThere:
    try:
        payment = call_or_find(
            lambda: ctx.call(
                lambda seconds: _gateway(ctx).void(
                    reference, key=ctx.idempotency_key, timeout_seconds=seconds
                ),
                CALL,
            ),
            lambda: _let_go(find_payment(ctx, reference=reference)),
        )
    except PaymentStateError as error:
        return _gone_before(ctx, error)
    return Effect(
        value={"status": payment.status},
        reference=payment.reference,
        movements=[_movement("void", payment.amount, payment.reference)] if was_held else (),
    )


def _refunded(ctx: Context, reference: str, amount: Money) -> Effect:
    request = RefundRequest(reference=reference, amount=amount)
    try:
        refund = call_or_find(
            lambda: ctx.call(
                lambda seconds: _gateway(ctx).refund(
                    request, key=ctx.idempotency_key, timeout_seconds=seconds
                ),
                CALL,
            ),
            lambda: refund_of(find_payment(ctx, reference=reference), ctx.idempotency_key),
        )
    except PaymentStateError as error:
        if error.existing is None or error.existing.status is not ChargeStatus.REFUNDED:
            raise
        return refunded_by_others(error.existing)
    if refund.status is RefundStatus.FAILED:
        raise Terminal(
            "the refund was accepted and failed later; the money is with us still",
            code="refund_failed",
            details={"reference": refund.reference, "amount_minor": refund.amount.minor},
        )
    return accepted_refund(refund)


def accepted_refund(refund: RefundResult) -> Effect:
    """Return the effect that a refund is which did not fail."""
    return Effect(
        value={"reference": refund.reference, "status": refund.status},
        reference=refund.reference,
        movements=[_refund_movement(refund)],
    )


def refunded_by_others(payment: ChargeResult) -> Effect:
    """Return the effect that all refunds of a payment are together, whoever made them."""
    return Effect(
        value={"status": payment.status},
        reference=payment.reference,
        movements=refunds_of(payment),
    )


def refunds_of(payment: ChargeResult) -> list[Movement]:
    """Return what was given back of a payment, pending refunds included."""
    return [
        _refund_movement(each) for each in payment.refunds if each.status is not RefundStatus.FAILED
    ]


def _refund_movement(refund: RefundResult) -> Movement:
    movement = _movement("refund", refund.amount, refund.reference)
    return replace(movement, pending=refund.status is RefundStatus.PENDING)


def _gone_before(ctx: Context, error: PaymentStateError) -> Effect | NothingThere:
    """What a refused void means: nothing is held any more, or the money was taken."""
    existing = error.existing
    if existing is None:
        raise error
    if existing.captured != existing.refunded:
        raise Terminal(
            "the hold was captured; only a refund gives the money back",
            code="captured",
            details={
                "reference": existing.reference,
                "at_risk_minor": (existing.captured - existing.refunded).minor,
                "currency": existing.amount.currency,
            },
        ) from error
    return NothingThere() if ctx.effect is None else released_payment(ctx, existing)


def released_payment(ctx: Context, payment: ChargeResult) -> Effect:
    """Return the effect that a payment is of which nothing is held any more."""
    was_held = ctx.effect is not None and not ctx.effect.is_open and not payment.captured.minor
    return Effect(
        value={"status": payment.status},
        reference=payment.reference,
        movements=[_movement("void", payment.amount, payment.reference)] if was_held else (),
    )


# Questions.


def _after_the_challenge(ctx: Context) -> ChargeResult:
    """What came of the challenge: the signal only prompts this look at the truth."""
    payment = payment_begun(ctx)
    if payment is None:
        raise OutcomeUnknown("the payment with the challenge is not found", code="not_seen_yet")
    checked_as_ours(ctx, payment)
    if payment.status is not ChargeStatus.REQUIRES_ACTION:
        return _passed(payment)
    if ctx.signalled:  # it was told of something else
        raise _challenge(ctx, payment.reference)
    raise Terminal(
        "the payer did not authenticate in time", code="not_authenticated", decisive=True
    )


def _passed(payment: ChargeResult) -> ChargeResult:
    """The payment whose challenge is over, if it was passed."""
    if payment.status.holds_money:
        return payment
    raise CardDeclinedError(
        "the payer did not pass the challenge", code="authentication_failed", decisive=True
    )


def _challenge(ctx: Context, reference: str) -> Wait:
    until = ctx.now + CHALLENGE
    return Wait(AUTHENTICATED, until, decisive=True, reference=reference)


def payment_begun(ctx: Context) -> ChargeResult | None:
    """The payment that the step began: by its reference where that is known, else by the key."""
    if ctx.reference is not None:
        return find_payment(ctx, reference=ctx.reference)
    return find_payment(ctx, key=ctx.step_key)


def _not_found(ctx: Context) -> NotLanded:
    return NotLanded("no payment is found", lag=_gateway(ctx).capabilities.lookup_lag)


def _held_under_our_key(ctx: Context) -> ChargeResult | None:
    payment = found_under_our_key(ctx)
    return payment if payment is not None and payment.status.holds_money else None


def found_under_our_key(ctx: Context) -> ChargeResult | None:
    """Return the payment that the step's own key opened, whichever direction asks.

    Raises:
        OutcomeUnknown, Terminal: see `checked_as_ours`.
    """
    payment = find_payment(ctx, key=ctx.step_key)
    return None if payment is None else checked_as_ours(ctx, payment)


def checked_as_ours(ctx: Context, payment: ChargeResult) -> ChargeResult:
    """Return a payment that was found or replayed under our key, if it is this order's.

    A key alone proves nothing: a gateway may forget it, look it up in another spelling, or know it
    from a shop that derives the same. What differs is never adopted and never taken back.

    Raises:
        OutcomeUnknown: ``not_ours``: what our own request did is not known.
        Terminal: ``not_ours``, of an undo: there is nothing of ours that it may touch.
    """
    differing = differing_from_the_order(ctx, payment)
    if not differing:
        return payment
    message = f"{payment.reference} bears our key and is not this order's: {differing}"
    if ctx.direction == Direction.COMPENSATE:
        raise Terminal(message, code="not_ours", details={"reference": payment.reference})
    raise OutcomeUnknown(message, code="not_ours")


def differing_from_the_order(ctx: Context, payment: ChargeResult) -> str:
    """Return in what a payment is not what this order asks for; empty: in nothing."""
    order = ctx.payload
    method = None if order.payment_method is None else method_of(order.payment_method)
    compared = {
        "order": (payment.order_reference, order.order_id),
        "installation": (installation_of(payment.key), installation_of(ctx.step_key)),
        "amount": (payment.amount, order.price),
        "payment method": (payment.method or method, method),
    }
    return ", ".join(
        f"{name} {found} instead of {ours}"
        for name, (found, ours) in compared.items()
        if found != ours
    )


def _captured_whole(ctx: Context, reference: str) -> ChargeResult | None:
    """What was given back since, by whomever, is no longer taken."""
    payment = find_payment(ctx, reference=reference)
    if payment is None or payment.captured != ctx.payload.price or payment.refunded.minor:
        return None
    return payment


def _is_held(ctx: Context, reference: str) -> bool:
    """Whether the payer has passed the challenge meanwhile: for the books only, so asked once."""
    payment = found_if_answered(lambda: find_payment(ctx, reference=reference))
    return payment is not None and payment.status is ChargeStatus.AUTHORIZED


def _let_go(payment: ChargeResult | None) -> ChargeResult | None:
    gone = {ChargeStatus.VOIDED, ChargeStatus.EXPIRED}
    return payment if payment and payment.status in gone else None


def refund_of(payment: ChargeResult | None, key: str) -> RefundResult | None:
    """Return the refund of the payment that was made under that key, if there is one."""
    return next((each for each in payment.refunds if each.key == key), None) if payment else None


def find_payment(
    ctx: Context, *, reference: str | None = None, key: str | None = None
) -> ChargeResult | None:
    """Return the payment of that reference, or that a key opened; None when none is found.

    Raises:
        Terminal: ``several_payments``: the gateway forgot the key, and then did it again.
    """
    found = ctx.ask(
        lambda seconds: _gateway(ctx).find(reference=reference, key=key, timeout_seconds=seconds),
        CALL,
    )
    if len(found) > 1:  # the gateway forgot the key between two attempts: one charge too many
        raise Terminal(
            "one key opened several payments; a person must say which one is the order's",
            code="several_payments",
            details={"references": [each.reference for each in found]},
        )
    return found[0] if found else None


def authorized_reference(ctx: Context) -> str:
    """Return the gateway's name for the payment that the order is paid with."""
    reference: str = ctx.results["authorize_payment"]["reference"]
    return reference


def _gateway(ctx: Context) -> PaymentGateway:
    return ctx.resource(PaymentGateway)  # type: ignore[type-abstract]


def _movement(kind: str, amount: Money, reference: str) -> Movement:
    return Movement(
        kind=kind, amount_minor=amount.minor, currency=amount.currency, reference=reference
    )
