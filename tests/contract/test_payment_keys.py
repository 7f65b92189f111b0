"""What an idempotency key and a lost answer mean, the same for every payment gateway adapter."""

import socket
from datetime import timedelta

import pytest

from orchestrator.errors import OutcomeUnknown, Retriable
from steps.gateways.errors import (
    GatewayServerError,
    GatewayTimeoutError,
    InvalidRequestError,
    KeyConflictError,
    KeyInUseError,
    NetworkError,
    PaymentStateError,
    RateLimitedError,
)
from steps.gateways.payment import ChargeRequest, ChargeStatus
from steps.gateways.sandbox.judge import SandboxJudge
from steps.money import Money
from tests.contract.gateways import LONG, PRICE, SHORT, Adapter, Order

# Idempotency keys.


def test_a_key_replays_its_first_answer(order: Order, judge: SandboxJudge) -> None:
    first = order.authorize()
    order.capture(first)

    assert order.authorize() == first
    totals = judge.totals_of(order.reference)
    assert totals is not None
    assert totals.authorizations_count == 1


def test_a_key_with_other_parameters_is_a_conflict_and_unknown(order: Order) -> None:
    order.authorize()

    with pytest.raises(KeyConflictError) as refused:
        order.authorize(amount=PRICE + PRICE)

    assert isinstance(refused.value, OutcomeUnknown)


def test_a_key_belongs_to_one_operation(order: Order) -> None:
    payment = order.authorize()

    with pytest.raises(KeyConflictError):
        order.void(payment, key="authorize")
    with pytest.raises(KeyConflictError):  # the very same parameters
        order.refund(order.capture(payment), key="capture")


def test_a_key_in_flight_is_unknown(order: Order, judge: SandboxJudge) -> None:
    judge.script("hold_before", order_reference=order.reference)
    with pytest.raises(GatewayTimeoutError):
        order.authorize(timeout_seconds=SHORT)

    with pytest.raises(KeyInUseError) as refused:
        order.authorize()
    judge.release(order.reference)

    assert isinstance(refused.value, OutcomeUnknown)


@pytest.mark.parametrize("key", ["", "k" * 256, "a\r\nb", "schlüssel"])
def test_an_unusable_key_is_refused_before_anything_is_sent(order: Order, key: str) -> None:
    request = ChargeRequest(amount=PRICE, token=order.tokens["ok"], order_reference=order.reference)

    with pytest.raises(InvalidRequestError) as refused:
        order.gateway.authorize(request, key=key, timeout_seconds=LONG)

    assert not refused.value.decisive
    assert order.gateway.find(order_reference=order.reference, timeout_seconds=LONG) == ()


# Done before is done.


def test_a_second_capture_of_the_same_amount_is_success(order: Order) -> None:
    taken = order.captured()

    assert order.capture(taken, key="capture-again") == taken


def test_a_second_capture_of_what_was_given_back_is_refused(order: Order) -> None:
    taken = order.captured()
    order.refund(taken)

    with pytest.raises(PaymentStateError) as refused:
        order.capture(taken, key="capture-again")

    assert refused.value.code == "already_captured"


def test_a_second_void_is_success(order: Order) -> None:
    payment = order.authorize()
    released = order.void(payment)

    assert order.void(payment, key="void-again") == released


def test_a_second_full_refund_is_the_first_one(order: Order) -> None:
    payment = order.captured()
    first = order.refund(payment)

    assert order.refund(payment, key="refund-again") == first


@pytest.mark.parametrize("amount", [PRICE, Money.of("24.95", "EUR")], ids=["all", "a half"])
def test_one_more_refund_after_two_halves_is_not_success(order: Order, amount: Money) -> None:
    payment = order.captured()
    order.refund(payment, Money.of("24.95", "EUR"), key="refund-1")
    order.refund(payment, Money.of("24.95", "EUR"), key="refund-2")

    with pytest.raises(PaymentStateError) as refused:
        order.refund(payment, amount)

    assert refused.value.code == "already_refunded"


# Lost answers.


def test_an_answer_lost_after_the_effect_is_unknown_and_the_key_settles_it(
    order: Order, judge: SandboxJudge
) -> None:
    judge.script("drop_after", order_reference=order.reference)

    with pytest.raises(GatewayTimeoutError):
        order.authorize()

    assert order.authorize().status is ChargeStatus.AUTHORIZED
    assert len(judge.effects(order.reference)) == 1


@pytest.mark.parametrize("fault", ["drop_before", "error_before", "error_after"])
def test_a_failure_that_may_have_had_an_effect_is_unknown(
    order: Order, judge: SandboxJudge, fault: str
) -> None:
    judge.script(fault, order_reference=order.reference)

    with pytest.raises((GatewayTimeoutError, GatewayServerError)) as lost:
        order.authorize()

    assert isinstance(lost.value, OutcomeUnknown)
    assert order.authorize().status is ChargeStatus.AUTHORIZED


@pytest.mark.parametrize("lands", [True, False])
def test_a_stored_500_is_replayed_and_only_a_lookup_settles_it(
    order: Order, judge: SandboxJudge, lands: bool
) -> None:
    judge.script("stored_500", order_reference=order.reference, lands=lands)

    with pytest.raises(GatewayServerError) as first:
        order.authorize()
    with pytest.raises(GatewayServerError) as second:
        order.authorize()

    assert not first.value.is_replayed
    assert second.value.is_replayed
    found = order.gateway.find(key=order.key("authorize"), timeout_seconds=LONG)
    assert [payment.status for payment in found] == [ChargeStatus.AUTHORIZED] * lands


def test_a_slow_answer_is_unknown_at_the_deadline(order: Order, judge: SandboxJudge) -> None:
    judge.script("slow_after", order_reference=order.reference, delay_ms=3000)

    with pytest.raises(GatewayTimeoutError):
        order.authorize(timeout_seconds=SHORT)

    assert order.found().status is ChargeStatus.AUTHORIZED


def test_a_rate_limit_is_retriable_and_says_when(order: Order, judge: SandboxJudge) -> None:
    judge.script("rate_limited", order_reference=order.reference, retry_after_seconds=7)

    with pytest.raises(RateLimitedError) as refused:
        order.authorize()

    assert isinstance(refused.value, Retriable)
    assert refused.value.retry_after == timedelta(seconds=7)
    assert not refused.value.spends_budget


def test_a_call_without_time_left_is_not_sent(order: Order) -> None:
    with pytest.raises(NetworkError):
        order.authorize(timeout_seconds=0)

    assert order.gateway.find(order_reference=order.reference, timeout_seconds=LONG) == ()


def test_an_unreachable_gateway_is_retriable(adapter: Adapter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        base_url = f"http://127.0.0.1:{gone.getsockname()[1]}"
    gateway = adapter.connect(base_url)
    order = Order(gateway=gateway, tokens=adapter.tokens, reference="order-nowhere")

    with pytest.raises(NetworkError):
        order.authorize()
