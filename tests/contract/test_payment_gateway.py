"""What every payment gateway adapter must do, held against each over a real process."""

from datetime import timedelta

import pytest

from steps.gateways.errors import (
    CardDeclinedError,
    InsufficientFundsError,
    InvalidRequestError,
    PaymentNotFoundError,
    PaymentStateError,
)
from steps.gateways.payment import ChargeStatus, PaymentGateway, RefundStatus
from steps.gateways.sandbox.judge import SandboxJudge
from steps.money import Money
from tests.contract.gateways import LONG, PRICE, Order

# The road of a payment.


def test_a_payment_is_held_then_taken_then_given_back(order: Order) -> None:
    held = order.authorize()
    taken = order.capture(held)
    back = order.refund(taken)

    assert held.status is ChargeStatus.AUTHORIZED
    assert (held.amount, held.captured) == (PRICE, Money.zero("EUR"))
    assert (taken.status, taken.captured) == (ChargeStatus.CAPTURED, PRICE)
    assert (back.amount, back.status) == (PRICE, RefundStatus.SUCCEEDED)
    assert order.found(taken).status is ChargeStatus.REFUNDED


def test_an_uncaptured_authorization_is_voided(order: Order) -> None:
    assert order.void(order.authorize()).status is ChargeStatus.VOIDED


def test_a_void_leaves_nothing_held(order: Order, judge: SandboxJudge) -> None:
    order.void(order.authorize())

    totals = judge.totals_of(order.reference)
    assert totals is not None
    assert totals.is_clean
    assert totals.voided_minor == PRICE.minor


def test_a_captured_payment_cannot_be_voided(order: Order) -> None:
    payment = order.captured()

    with pytest.raises(PaymentStateError) as refused:
        order.void(payment)

    assert refused.value.code == "already_captured"
    assert refused.value.decisive
    assert refused.value.existing == payment


def test_an_uncaptured_payment_cannot_be_refunded(order: Order) -> None:
    with pytest.raises(PaymentStateError) as refused:
        order.refund(order.authorize())

    assert refused.value.code == "not_captured"


def test_a_voided_authorization_cannot_be_captured(order: Order) -> None:
    payment = order.authorize()
    order.void(payment)

    with pytest.raises(PaymentStateError) as refused:
        order.capture(payment)

    assert refused.value.code == "already_voided"


def test_a_capture_never_exceeds_the_authorization(order: Order) -> None:
    payment = order.authorize()

    with pytest.raises(PaymentStateError) as refused:
        order.capture(payment, amount=PRICE + Money(minor=1, currency="EUR"))

    assert refused.value.code == "exceeds_authorized"


def test_a_part_can_be_captured_once(order: Order) -> None:
    part = Money.of("10.00", "EUR")
    payment = order.capture(order.authorize(), amount=part)

    assert payment.captured == part
    with pytest.raises(PaymentStateError) as refused:
        order.capture(payment, amount=PRICE - part, key="capture-rest")
    assert refused.value.code == "already_captured"


def test_refunds_never_exceed_the_capture(order: Order, judge: SandboxJudge) -> None:
    payment = order.captured()
    order.refund(payment, Money.of("30.00", "EUR"), key="refund-1")

    with pytest.raises(PaymentStateError) as refused:
        order.refund(payment, Money.of("20.00", "EUR"), key="refund-2")
    order.refund(payment, Money.of("19.90", "EUR"), key="refund-3")

    assert refused.value.code == "exceeds_captured"
    totals = judge.totals_of(order.reference)
    assert totals is not None
    assert (totals.refunded_minor, totals.kept_minor) == (PRICE.minor, 0)


def test_another_currency_is_refused(order: Order) -> None:
    payment = order.authorize()

    with pytest.raises(PaymentStateError) as refused:
        order.capture(payment, amount=Money(minor=PRICE.minor, currency="USD"))

    assert refused.value.code == "currency_mismatch"


@pytest.mark.parametrize("currency", ["JPY", "USD", "KWD"])
def test_minor_units_pass_unchanged(order: Order, currency: str) -> None:
    amount = Money(minor=1230, currency=currency)

    assert order.authorize(amount=amount).amount == amount


@pytest.mark.parametrize("minor", [0, -1])
def test_nothing_and_less_cannot_be_authorized(order: Order, minor: int) -> None:
    with pytest.raises(InvalidRequestError):
        order.authorize(amount=Money(minor=minor, currency="EUR"))

    assert order.gateway.find(order_reference=order.reference, timeout_seconds=LONG) == ()


def test_an_unknown_payment_is_a_typed_answer(order: Order) -> None:
    with pytest.raises(PaymentNotFoundError):
        order.gateway.void("pi_unknown", key=order.key("void"), timeout_seconds=LONG)


# Refusals of the issuer.


@pytest.mark.parametrize(
    ("card", "error_type"),
    [("declined", CardDeclinedError), ("insufficient_funds", InsufficientFundsError)],
)
def test_a_decline_is_final_and_decisive_however_often_it_is_asked(
    order: Order, card: str, error_type: type[CardDeclinedError]
) -> None:
    for _ in range(2):
        with pytest.raises(error_type) as refused:
            order.authorize(card)
        assert type(refused.value) is error_type
        assert refused.value.decisive


def test_a_declined_payment_holds_nothing(order: Order, judge: SandboxJudge) -> None:
    with pytest.raises(CardDeclinedError):
        order.authorize("declined")

    assert judge.totals_of(order.reference) is None
    assert order.found().status is ChargeStatus.DECLINED


def test_an_unknown_token_is_an_invalid_request(order: Order) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        order.authorize("nobody")

    assert refused.value.code == "invalid_token"


def test_capability_facts_are_coherent(gateway: PaymentGateway) -> None:
    facts = gateway.capabilities

    assert facts.key_lifetime > timedelta(minutes=30)
    assert facts.key_max_length >= 64
    assert facts.exponent("JPY") == 0
