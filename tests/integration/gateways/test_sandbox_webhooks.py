"""The sandbox tells what moved: signed, at least once, in no promised order, and lies on demand."""

import hashlib
import hmac
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import TypeVar

import pytest
import stripe

from steps.gateways.errors import AuthenticationRequiredError, PaymentStateError
from steps.gateways.payment import CaptureRequest, ChargeRequest, ChargeResult, RefundRequest
from steps.gateways.sandbox.client import SandboxGateway
from steps.gateways.sandbox.judge import SandboxJudge
from steps.gateways.sandbox.process import SandboxProcess
from steps.gateways.stripe.client import StripeGateway
from steps.money import Money
from tests.integration.gateways.receiver import Heard, Receiver, listening

PRICE = Money.of("12.34", "EUR")
SECRET = "whsec_not_a_real_secret"
LONG = 10.0

T = TypeVar("T")
_serial = count(1)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with listening() as receiver:
        yield receiver


@pytest.fixture
def told(judge: SandboxJudge, receiver: Receiver) -> Iterator[Receiver]:
    """A receiver that is told everything in the sandbox's own form."""
    endpoint = judge.announce_to(receiver.url, SECRET)
    yield receiver
    judge.stop_announcing(endpoint)


def authorize(
    gateway: SandboxGateway | StripeGateway,
    order: str,
    token: str = "tok_ok",  # noqa: S107 - a test card
) -> ChargeResult:
    request = ChargeRequest(amount=PRICE, token=token, order_reference=order)
    return gateway.authorize(request, key=f"{order}:authorize", timeout_seconds=LONG)


def capture(gateway: SandboxGateway | StripeGateway, payment: ChargeResult) -> ChargeResult:
    request = CaptureRequest(reference=payment.reference, amount=PRICE)
    key = f"{payment.order_reference}:capture"
    return gateway.capture(request, key=key, timeout_seconds=LONG)


def is_signed(heard: Heard, secret: str) -> bool:
    """Checked by hand, as the first receiver of this form would."""
    at, *marks = heard.header.split(",")
    message = at.removeprefix("t=").encode() + b"." + heard.body
    mark = hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()
    return f"v1={mark}" in marks


# What is told.


def test_every_step_of_a_payment_is_told(
    told: Receiver, gateway: SandboxGateway, judge: SandboxJudge, order: str
) -> None:
    judge.script("refund_pending", order_reference=order, operation="refund")
    payment = capture(gateway, authorize(gateway, order))
    refund = gateway.refund(
        RefundRequest(reference=payment.reference, amount=PRICE),
        key=f"{order}:refund",
        timeout_seconds=LONG,
    )
    told.until(lambda: len(told.heard) == 3)
    judge.end_refund(refund.reference, failed=True)

    told.until(lambda: len(told.heard) == 4)
    by_type = {each.told["type"]: each.told for each in told.heard}
    assert set(by_type) == {
        "payment.authorized",
        "payment.succeeded",
        "refund.created",
        "refund.failed",
    }
    assert by_type["payment.authorized"]["payment"]["status"] == "authorized"
    assert by_type["refund.created"]["refund"]["status"] == "pending"
    assert by_type["refund.failed"]["refund"]["reference"] == refund.reference
    assert len({each["id"] for each in by_type.values()}) == 4
    assert all(is_signed(each, SECRET) for each in told.heard)


@pytest.mark.parametrize(
    ("end", "type_"),
    [
        (lambda judge, reference: judge.end_challenge(reference, passed=True), "authorized"),
        (lambda judge, reference: judge.end_challenge(reference, passed=False), "failed"),
        (lambda judge, reference: judge.expire_challenge(reference), "failed"),
    ],
    ids=["passed", "failed", "lapsed"],
)
def test_the_end_of_a_challenge_is_told(
    told: Receiver,
    gateway: SandboxGateway,
    judge: SandboxJudge,
    order: str,
    end: Callable[[SandboxJudge, str], None],
    type_: str,
) -> None:
    with pytest.raises(AuthenticationRequiredError) as waiting:
        authorize(gateway, order, "tok_challenge")
    told.hears(order, "payment.requires_action")

    end(judge, waiting.value.reference)

    told.hears(order, "payment.requires_action", f"payment.{type_}")


def test_a_refused_request_is_not_told(told: Receiver, gateway: SandboxGateway, order: str) -> None:
    payment = capture(gateway, authorize(gateway, order))
    with pytest.raises(PaymentStateError):
        gateway.void(payment.reference, key=f"{order}:void", timeout_seconds=LONG)
    another = authorize(gateway, f"{order}-later")

    told.until(lambda: told.types_of(another.order_reference))
    assert sorted(told.types_of(payment.reference)) == ["payment.authorized", "payment.succeeded"]


def test_stripes_client_accepts_what_is_told_in_stripes_form(
    judge: SandboxJudge, sandbox: SandboxProcess, receiver: Receiver, order: str
) -> None:
    endpoint = judge.announce_to(receiver.url, SECRET, form="stripe")
    gateway = StripeGateway("sk_test_no", timeout=timedelta(seconds=9), base_url=sandbox.base_url)
    payment = capture(gateway, authorize(gateway, order, "pm_card_visa"))

    receiver.until(lambda: len(receiver.heard) == 2)
    judge.stop_announcing(endpoint)
    gateway.close()
    events = [
        stripe.Webhook.construct_event(each.body, each.header, SECRET) for each in receiver.heard
    ]
    assert {event.type for event in events} == {
        "payment_intent.amount_capturable_updated",
        "payment_intent.succeeded",
    }
    assert {event.data.object["id"] for event in events} == {payment.reference}


def test_both_secrets_sign_while_one_is_replaced(
    judge: SandboxJudge, gateway: SandboxGateway, receiver: Receiver, order: str
) -> None:
    endpoint = judge.announce_to(receiver.url, "old", "new")
    authorize(gateway, order)

    receiver.hears(order, "payment.authorized")
    judge.stop_announcing(endpoint)
    (heard,) = receiver.heard
    assert is_signed(heard, "old")
    assert is_signed(heard, "new")
    assert not is_signed(heard, "another")


# At least once.


def test_a_receiver_that_fails_is_told_again(
    told: Receiver, gateway: SandboxGateway, judge: SandboxJudge, order: str
) -> None:
    told.answers += [500, 302]

    authorize(gateway, order)

    told.hears(order, *["payment.authorized"] * 3)
    assert len({each.told["id"] for each in told.heard}) == 1
    (row,) = [each for each in judge.deliveries() if each.event_id == told.heard[0].told["id"]]
    told.until(lambda: not next(judge.deliveries(since=row.id - 1)).is_open)
    done = next(judge.deliveries(since=row.id - 1))
    assert (done.attempts, done.status, done.kind) == (3, 200, "true")
    assert done.delivered_at is not None


def test_what_was_not_delivered_is_told_after_kill_9(receiver: Receiver, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.db"
    receiver.answers += [503] * 100
    with SandboxProcess.start(ledger) as first, SandboxJudge(first.base_url) as judge:
        judge.announce_to(receiver.url, SECRET)
        gateway = SandboxGateway(first.base_url, timeout=timedelta(seconds=9))
        orders = [f"order-{number}." for number in range(20)]
        for each in orders:
            authorize(gateway, each)
        gateway.close()
        first.kill()
    receiver.answers.clear()
    receiver.heard.clear()

    with SandboxProcess.start(ledger):
        receiver.until(
            lambda: all("payment.authorized" in receiver.types_of(each) for each in orders),
            seconds=30,
        )


def test_an_endpoint_that_was_removed_is_told_nothing_more(
    judge: SandboxJudge, gateway: SandboxGateway, receiver: Receiver, order: str
) -> None:
    endpoint = judge.announce_to(receiver.url, SECRET)
    authorize(gateway, order)
    receiver.hears(order, "payment.authorized")

    judge.stop_announcing(endpoint)
    second = judge.announce_to(f"{receiver.url}/other", SECRET)
    authorize(gateway, f"{order}-later")

    receiver.until(lambda: len(receiver.heard) >= 2)
    judge.stop_announcing(second)
    assert len(receiver.heard) == 2


# Faults.


def test_an_announcement_may_come_before_the_answer(
    told: Receiver, gateway: SandboxGateway, judge: SandboxJudge, order: str
) -> None:
    judge.script("hold_after", order_reference=order)

    with ThreadPoolExecutor(1) as callers:
        answer = callers.submit(authorize, gateway, order)
        told.hears(order, "payment.authorized")
        assert not answer.done()
        judge.release(order)
        assert answer.result().order_reference == order


def test_an_announcement_can_come_twice(
    told: Receiver, gateway: SandboxGateway, judge: SandboxJudge, order: str
) -> None:
    judge.script("duplicate_webhook", order_reference=order)

    authorize(gateway, order)

    told.hears(order, *["payment.authorized"] * 2)
    assert len({each.body for each in told.heard}) == 1


def test_an_announcement_can_be_overtaken(
    told: Receiver, gateway: SandboxGateway, judge: SandboxJudge, order: str
) -> None:
    judge.script("late_webhook", order_reference=order, delay_ms=700)

    capture(gateway, authorize(gateway, order))

    told.hears(order, "payment.authorized", "payment.succeeded")
    assert told.types_of(order) == ["payment.succeeded", "payment.authorized"]


def test_an_announcement_can_be_lost(
    told: Receiver, gateway: SandboxGateway, judge: SandboxJudge, order: str
) -> None:
    judge.script("lost_webhook", order_reference=order)

    capture(gateway, authorize(gateway, order))

    told.hears(order, "payment.succeeded")


@pytest.mark.parametrize("fault", ["forged_webhook", "stale_webhook"])
def test_somebody_else_can_send_one_too(
    told: Receiver, gateway: SandboxGateway, judge: SandboxJudge, order: str, fault: str
) -> None:
    judge.script(fault, order_reference=order)

    authorize(gateway, order)

    told.hears(order, *["payment.authorized"] * 2)
    judged = []
    for each in told.heard:
        try:
            stripe.WebhookSignature.verify_header(each.body, each.header, SECRET, tolerance=300)
        except stripe.SignatureVerificationError as error:
            judged.append(str(error)[:20])
        else:
            judged.append("")
    refusal = {"forged_webhook": "No signatures found ", "stale_webhook": "Timestamp outside th"}
    assert sorted(judged) == ["", refusal[fault]]


def test_a_fault_of_requests_strikes_no_announcement(
    told: Receiver, gateway: SandboxGateway, judge: SandboxJudge, order: str
) -> None:
    judge.script("slow_after", order_reference=order, delay_ms=1, times=None)
    judge.script("late_webhook", order_reference=order, delay_ms=1, times=None)

    authorize(gateway, order)

    told.hears(order, "payment.authorized")
    applied = [
        rule["applied"]
        for rule in judge.faults()
        if rule["rule"]["match"]["order_reference"] == order
    ]
    assert applied == [1, 1]
