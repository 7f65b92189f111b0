"""The Stripe adapter over the sandbox's Stripe face: what it sends, and that it sends it once."""

import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar
from urllib.parse import parse_qs

import httpx2
import pytest

from orchestrator.seam import intercepted
from steps.gateways.errors import (
    GatewayServerError,
    GatewayTimeoutError,
    GatewayUnavailableError,
    InvalidRequestError,
    LookupFailedError,
    NetworkError,
    PaymentStateError,
)
from steps.gateways.payment import (
    CaptureRequest,
    ChargeRequest,
    ChargeResult,
    ChargeStatus,
    RefundRequest,
)
from steps.gateways.sandbox.judge import RequestRow, SandboxJudge
from steps.gateways.sandbox.process import SandboxProcess
from steps.gateways.stripe.client import StripeGateway
from steps.money import Money
from tests.integration.gateways.calls import LONG, PRICE, scripted_peer

FAKE_KEY = "sk_test_not_a_real_key"
CARD = "pm_card_visa"
DAY = 24 * 3600

T = TypeVar("T")


@pytest.fixture
def stripe_gateway(sandbox: SandboxProcess) -> Iterator[StripeGateway]:
    with connected_to(sandbox.base_url) as gateway:
        yield gateway


@contextmanager
def connected_to(base_url: str, *, api_key: str = FAKE_KEY) -> Iterator[StripeGateway]:
    gateway = StripeGateway(api_key, timeout=timedelta(seconds=30), base_url=base_url)
    try:
        yield gateway
    finally:
        gateway.close()


def authorize(gateway: StripeGateway, order: str, amount: Money = PRICE) -> ChargeResult:
    request = ChargeRequest(amount=amount, token=CARD, order_reference=order)
    return gateway.authorize(request, key=f"{order}:authorize", timeout_seconds=LONG)


def capture(
    gateway: StripeGateway, payment: ChargeResult, *, timeout_seconds: float = LONG
) -> ChargeResult:
    request = CaptureRequest(reference=payment.reference, amount=payment.amount)
    key = f"{payment.order_reference}:capture"
    return gateway.capture(request, key=key, timeout_seconds=timeout_seconds)


def effects_asked_of(judge: SandboxJudge, order: str) -> list[RequestRow]:
    return [row for row in judge.requests() if row.order_reference == order and row.key]


# What goes over the wire.


def test_a_call_carries_the_key_and_stripes_units_and_nothing_about_us() -> None:
    heard: list[bytes] = []

    def listen(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")

    with (
        scripted_peer(listen, heard) as base_url,
        connected_to(base_url) as gateway,
        pytest.raises(GatewayServerError),
    ):
        authorize(gateway, "order-1", Money(minor=500, currency="ISK"))

    head, _, body = heard[0].decode().partition("\r\n\r\n")
    form = parse_qs(body)
    assert head.startswith("POST /v1/payment_intents HTTP/1.1")
    assert "Idempotency-Key: order-1:authorize" in head
    assert f"Authorization: Bearer {FAKE_KEY}" in head
    assert "telemetry" not in head.lower()
    assert (form["amount"], form["currency"]) == (["50000"], ["isk"])
    assert (form["capture_method"], form["confirm"]) == (["manual"], ["true"])
    assert form["metadata[order_reference]"] == ["order-1"]
    assert form["metadata[authorize_key]"] == ["order-1:authorize"]


def test_an_amount_that_stripe_cannot_express_is_not_sent(
    stripe_gateway: StripeGateway, judge: SandboxJudge, order: str
) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        authorize(stripe_gateway, order, Money(minor=1234, currency="KWD"))

    assert refused.value.code == "invalid_amount"
    assert effects_asked_of(judge, order) == []


def test_an_amount_of_another_currency_is_not_sent(
    stripe_gateway: StripeGateway, judge: SandboxJudge, order: str
) -> None:
    payment = authorize(stripe_gateway, order)
    yen = Money(minor=PRICE.minor, currency="JPY")

    with pytest.raises(PaymentStateError, match="EUR"):
        stripe_gateway.capture(
            CaptureRequest(reference=payment.reference, amount=yen), key="c", timeout_seconds=LONG
        )
    with pytest.raises(PaymentStateError, match="EUR"):
        stripe_gateway.refund(
            RefundRequest(reference=payment.reference, amount=yen), key="r", timeout_seconds=LONG
        )

    assert [row.operation for row in effects_asked_of(judge, order)] == ["authorize"]


@pytest.mark.parametrize("fault", ["error_before", "drop_before", "drop_after", "rate_limited"])
def test_nothing_is_sent_twice_by_itself(
    stripe_gateway: StripeGateway, judge: SandboxJudge, order: str, fault: str
) -> None:
    judge.script(fault, order_reference=order)

    with pytest.raises(Exception, match=r"Stripe|answer"):
        authorize(stripe_gateway, order)

    assert len(effects_asked_of(judge, order)) == 1


def test_a_call_is_at_most_three_requests(
    stripe_gateway: StripeGateway, judge: SandboxJudge, order: str
) -> None:
    """What docs/resilience.md says of a rate's slots: each is one call."""

    def requests_of(call: Callable[[], object]) -> int:
        before = len(list(judge.requests()))
        call()
        return len(list(judge.requests())) - before

    held = authorize(stripe_gateway, order)
    again = CaptureRequest(reference=held.reference, amount=PRICE)
    refund = RefundRequest(reference=held.reference, amount=PRICE)

    assert requests_of(lambda: capture(stripe_gateway, held)) == 2
    assert requests_of(lambda: stripe_gateway.capture(again, key="k", timeout_seconds=LONG)) == 3
    assert requests_of(lambda: stripe_gateway.refund(refund, key="r", timeout_seconds=LONG)) == 2


def test_the_question_and_the_call_share_one_deadline(
    stripe_gateway: StripeGateway, judge: SandboxJudge, order: str
) -> None:
    payment = authorize(stripe_gateway, order)
    judge.script("slow_before", reference=payment.reference, times=None, delay_ms=4_000)

    with pytest.raises(GatewayTimeoutError):
        capture(stripe_gateway, payment, timeout_seconds=7.0)


def test_a_question_that_takes_all_the_time_leaves_nothing_unknown(
    stripe_gateway: StripeGateway, judge: SandboxJudge, order: str
) -> None:
    payment = authorize(stripe_gateway, order)
    judge.script("slow_before", reference=payment.reference, operation="find", delay_ms=3000)

    with pytest.raises((LookupFailedError, NetworkError)):
        capture(stripe_gateway, payment, timeout_seconds=0.5)

    assert [row.operation for row in effects_asked_of(judge, order)] == ["authorize"]


def test_a_refusal_that_nobody_explains_can_be_tried_again(
    stripe_gateway: StripeGateway, judge: SandboxJudge, order: str
) -> None:
    payment = authorize(stripe_gateway, order)
    stripe_gateway.void(payment.reference, key=f"{order}:void", timeout_seconds=LONG)
    judge.script("drop_before", reference=payment.reference, operation="find", nth=2)

    with pytest.raises(LookupFailedError):
        capture(stripe_gateway, payment)
    with pytest.raises(PaymentStateError) as refused:
        capture(stripe_gateway, payment)

    assert refused.value.code == "already_voided"


def test_a_live_key_is_no_key_for_the_sandbox(sandbox: SandboxProcess, order: str) -> None:
    with (
        connected_to(sandbox.base_url, api_key="sk_live_not_a_real_key") as gateway,
        pytest.raises(GatewayUnavailableError) as refused,
    ):
        authorize(gateway, order)

    assert refused.value.code == "credentials_refused"


def test_every_operation_runs_through_the_durable_seam(
    stripe_gateway: StripeGateway, order: str
) -> None:
    names: list[str] = []

    def record(name: str, action: Callable[[], T]) -> T:
        names.append(name)
        return action()

    with intercepted(record):
        payment = capture(stripe_gateway, authorize(stripe_gateway, order))
        stripe_gateway.find(reference=payment.reference, timeout_seconds=LONG)

    assert names == ["gateway.authorize", "gateway.capture", "gateway.find"]


def test_no_token_and_no_key_is_logged(
    stripe_gateway: StripeGateway, order: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    authorize(stripe_gateway, order)

    assert "/v1/payment_intents" in caplog.text
    assert CARD not in caplog.text
    assert FAKE_KEY not in caplog.text
    assert FAKE_KEY not in repr(stripe_gateway)


# What comes back.


def test_more_refunds_than_a_page_are_all_read(stripe_gateway: StripeGateway, order: str) -> None:
    payment = capture(stripe_gateway, authorize(stripe_gateway, order))
    cent = Money(minor=1, currency="EUR")
    for number in range(12):
        stripe_gateway.refund(
            RefundRequest(reference=payment.reference, amount=cent),
            key=f"{order}:refund-{number}",
            timeout_seconds=LONG,
        )

    (found,) = stripe_gateway.find(order_reference=order, timeout_seconds=LONG)

    keys = [refund.key for refund in found.refunds]
    assert keys == [f"{order}:refund-{number}" for number in range(12)]
    assert found.refunded == Money(minor=12, currency="EUR")


def test_a_hold_that_came_of_age_is_expired(tmp_path_factory: pytest.TempPathFactory) -> None:
    ledger = tmp_path_factory.mktemp("stripe") / "ledger.db"
    with (
        SandboxProcess.start(ledger) as sandbox,
        SandboxJudge(sandbox.base_url) as judge,
        connected_to(sandbox.base_url) as gateway,
    ):
        payment = authorize(gateway, "order")
        judge.advance_clock(7 * DAY)

        released = gateway.void(payment.reference, key="order:void", timeout_seconds=LONG)
        with pytest.raises(PaymentStateError) as refused:
            capture(gateway, payment)

    assert released.status is ChargeStatus.EXPIRED
    assert refused.value.code == "authorization_expired"


def test_a_declined_payment_can_be_called_off_at_stripe(
    stripe_gateway: StripeGateway, order: str
) -> None:
    request = ChargeRequest(amount=PRICE, token="pm_card_chargeDeclined", order_reference=order)
    with pytest.raises(Exception, match="declined"):
        stripe_gateway.authorize(request, key=f"{order}:a", timeout_seconds=LONG)
    (declined,) = stripe_gateway.find(order_reference=order, timeout_seconds=LONG)

    released = stripe_gateway.void(declined.reference, key=f"{order}:v", timeout_seconds=LONG)

    assert (declined.status, released.status) == (ChargeStatus.DECLINED, ChargeStatus.VOIDED)


def test_a_payment_without_our_metadata_is_read_too(
    stripe_gateway: StripeGateway, sandbox: SandboxProcess
) -> None:
    made = httpx2.post(
        f"{sandbox.base_url}/v1/payment_intents",
        data={"amount": 100, "currency": "eur", "capture_method": "manual", "payment_method": CARD},
        headers={"authorization": f"Bearer {FAKE_KEY}"},
        trust_env=False,
    ).json()

    (found,) = stripe_gateway.find(reference=made["id"], timeout_seconds=LONG)

    assert (found.key, found.order_reference) == ("", "")
    assert found.status is ChargeStatus.REQUIRES_ACTION


@pytest.mark.parametrize("name", ["order 'quoted'", 'order "quoted"', "back\\slash"])
def test_any_order_reference_can_be_searched(
    stripe_gateway: StripeGateway, name: str, order: str
) -> None:
    payment = authorize(stripe_gateway, f"{order}{name}")

    found = stripe_gateway.find(order_reference=f"{order}{name}", timeout_seconds=LONG)

    assert [each.reference for each in found] == [payment.reference]


def test_a_search_that_knows_no_case_finds_no_payment_of_others(
    stripe_gateway: StripeGateway, order: str
) -> None:
    ours, others = authorize(stripe_gateway, f"{order}-a"), authorize(stripe_gateway, f"{order}-A")

    by_order = stripe_gateway.find(order_reference=f"{order}-a", timeout_seconds=LONG)
    by_key = stripe_gateway.find(key=f"{order}-A:authorize", timeout_seconds=LONG)

    assert [each.reference for each in by_order] == [ours.reference]
    assert [each.reference for each in by_key] == [others.reference]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhtml",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nhtml",
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
        b'HTTP/1.1 502 Bad Gateway\r\nContent-Length: 14\r\n\r\n{"error": 502}',
        b'HTTP/1.1 400 Bad Request\r\nContent-Length: 15\r\n\r\n{"error": null}',
        b'HTTP/1.1 400 Bad Request\r\nContent-Length: 16\r\n\r\n{"error": ["x"]}',
    ],
)
def test_an_answer_that_is_not_stripes_is_unknown(answer: bytes) -> None:
    with (
        scripted_peer(lambda connection: connection.sendall(answer)) as base_url,
        connected_to(base_url) as gateway,
        pytest.raises(GatewayServerError),
    ):
        authorize(gateway, "order")
