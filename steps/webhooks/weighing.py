"""Compares a payment as it stands at its gateway with what a saga's log knows of it.

Pure: the webhook's own words do not come in, so it is all the same in which order, how late and how
often webhooks arrive. What a running attempt may be about to record is waited for.

    at the gateway                 in the log                          then
    challenge answered             authorize_payment waits             the payer answered
    challenge failed               authorize_payment is unsettled      later, it may come to wait
    held or taken                  no such hold, the step ran          an effect is proved
    taken                          no such capture, the step ran       an effect is proved
    refund succeeded               the refund is pending               a refund is settled
    refund failed                  the refund undid a capture          a refund failed
    refunded                       the saga goes on, unaware of it     a person is asked
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from orchestrator.books import movements
from orchestrator.context import Effect
from orchestrator.entries import (
    Direction,
    MovementSettled,
    Recorded,
    StepProbed,
    StepSettled,
    StepSucceeded,
    StepWaiting,
    UndoFailed,
)
from orchestrator.state import FoldedSaga, State, StepState
from steps.gateways.payment import ChargeResult, ChargeStatus, RefundResult, RefundStatus
from steps.money import Money
from steps.payment import AUTHENTICATED, captured_payment, held_payment

AUTHORIZE: Final = "authorize_payment"
CAPTURE: Final = "capture_payment"


@dataclass(frozen=True, slots=True, kw_only=True)
class PayerAnswered:
    """The payer has answered the challenge that the saga waits for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectProved:
    """An effect of a step that the log knows nothing of, and the key it was done under."""

    step: str
    effect: Effect
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundSettled:
    """A pending refund is final."""

    reference: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundFailed:
    """A refund that undid a capture has come back."""

    reference: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NotYet:
    """The log is about to say something of this: compare again, soon."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Only a person can say what this means."""

    text: str


News = PayerAnswered | EffectProved | RefundSettled | RefundFailed
Finding = News | NotYet | Question


def weigh(payment: ChargeResult, state: FoldedSaga, log: Sequence[Recorded]) -> list[Finding]:
    """Return what the saga of that state and log has to be told of its payment; maybe nothing."""
    found = [
        *_of_the_hold(payment, state),
        *_of_the_capture(payment, state),
        *(f for each in payment.refunds for f in _of_a_refund(each, payment, state, log)),
    ]
    if state.phase is State.RESOLVED and found:
        question = f"the saga was resolved, and {payment.reference} has moved since"
        return [Question(text=f"{question}: {payment.status}, refunded {payment.refunded}")]
    return found


def _of_the_hold(payment: ChargeResult, state: FoldedSaga) -> Iterator[Finding]:
    step = state.step(AUTHORIZE)
    if payment.status is ChargeStatus.REQUIRES_ACTION or _knows(step, payment.reference):
        return
    if step.is_open:
        yield NotYet(reason=f"{AUTHORIZE} is running")
    elif _waits(step, state):
        heard = len(state.signals.get(AUTHENTICATED, ()))
        if heard <= step.signals_used.get(AUTHENTICATED, 0):
            yield PayerAnswered()
    elif not payment.status.holds_money:
        if step.forward.unsettled:  # its next attempt may begin to wait for what was answered now
            yield NotYet(reason=f"{AUTHORIZE} is not settled")
    elif not step.forward.attempts:
        yield NotYet(reason=f"the saga has not come to {AUTHORIZE}")
    elif _is_first_of(step, state) and payment.amount != _price(state):
        yield Question(text=_differs("holds", payment, state))
    else:
        yield EffectProved(step=AUTHORIZE, effect=held_payment(payment), key=payment.key)


def _of_the_capture(payment: ChargeResult, state: FoldedSaga) -> Iterator[Finding]:
    step = state.step(CAPTURE)
    if payment.captured == payment.refunded or _knows(step, payment.reference):
        return
    if step.is_open:
        yield NotYet(reason=f"{CAPTURE} is running")
    elif not step.forward.attempts:
        if state.phase is not State.RUNNING:  # else our own capture comes, and finds it taken
            yield Question(text=f"{payment.reference} was captured, and not by the saga")
    elif _is_first_of(step, state) and payment.captured - payment.refunded != _price(state):
        yield Question(text=_differs("took", payment, state))
    else:
        yield EffectProved(step=CAPTURE, effect=captured_payment(payment))


def _of_a_refund(
    refund: RefundResult, payment: ChargeResult, state: FoldedSaga, log: Sequence[Recorded]
) -> Iterator[Finding]:
    if refund.reference not in _told_of(log):
        yield from _of_a_strange_refund(refund, payment, state)
        return
    standing = {each.reference: each for each in movements(log) if each.is_undo}
    known = standing.get(refund.reference)
    if refund.status is RefundStatus.SUCCEEDED and known is not None and known.is_pending:
        yield RefundSettled(reference=refund.reference)
    elif refund.status is RefundStatus.FAILED:
        undone_by = _undone_by(state.step(CAPTURE))
        if refund.reference in undone_by:
            yield RefundFailed(reference=refund.reference)
        elif known is not None and payment.reference in undone_by:  # one of several, by others
            yield RefundFailed(reference=payment.reference)


def _of_a_strange_refund(
    refund: RefundResult, payment: ChargeResult, state: FoldedSaga
) -> Iterator[Finding]:
    """Of a refund that the log does not speak of. After the end it is the shop's own affair."""
    if state.is_terminal:
        return
    if state.unwinding is None:
        if refund.status is not RefundStatus.FAILED:
            stands = f"the saga is {state.phase} and goes on as if {payment.reference} were paid"
            yield Question(text=f"others refunded {refund.amount} by {refund.reference}: {stands}")
    elif refund.status is not RefundStatus.PENDING:
        yield NotYet(reason=f"refund {refund.reference} is not in the log yet")


def _knows(step: StepState, reference: str) -> bool:
    return any(each.reference == reference for each in step.effects)


def _waits(step: StepState, state: FoldedSaga) -> bool:
    return (
        state.phase is State.RUNNING
        and not step.effects
        and isinstance(step.forward.last, StepWaiting)
    )


def _is_first_of(step: StepState, state: FoldedSaga) -> bool:
    """Whether it would count as the step's own, for steps after it to work with."""
    return not step.effects and state.unwinding is None


def _price(state: FoldedSaga) -> Money:
    return Money(minor=state.payload["amount_minor"], currency=state.payload["currency"])


def _differs(verb: str, payment: ChargeResult, state: FoldedSaga) -> str:
    return f"{payment.reference} {verb} {payment.amount}, and the order costs {_price(state)}"


def _told_of(log: Sequence[Recorded]) -> set[str]:
    """The references of refunds that the log speaks of, whatever became of them."""
    told: set[str | None] = set()
    for each in log:
        match each.entry:
            case UndoFailed(reference=reference) | MovementSettled(reference=reference):
                told.add(reference)
            case StepSucceeded() | StepSettled() | StepProbed() as entry if entry.direction in (
                Direction.COMPENSATE,
                Direction.PROBE_UNDO,
            ):
                told.add(entry.reference)
                told.update(moved.get("reference") for moved in entry.movements or ())
            case _:
                pass
    return {each for each in told if each is not None}


def _undone_by(step: StepState) -> set[str]:
    """The references of what stands for the capture's undoing now."""
    named = {each.undo_reference for each in step.effects if each.covered}
    return {each for each in (step.undo_reference, *named) if each is not None}
