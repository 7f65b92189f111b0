"""What people do at the gateway behind a saga's back, and what becomes of it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from uuid import UUID

import pytest

from orchestrator.entries import EffectReported
from orchestrator.state import State
from steps.gateways.payment import CaptureRequest, RefundRequest
from steps.gateways.sandbox.client import SandboxGateway
from steps.money import Money
from tests.integration.webhooks.test_looking import challenged, pays
from tests.integration.webhooks.world import PRICE, World, key_of

EUR = Money(minor=PRICE, currency="EUR")
PROCESSORS = 8


@pytest.fixture
def by_hand(shop: World) -> Iterator[SandboxGateway]:
    url = shop.settings.gateway_url or ""
    with closing(SandboxGateway(url, timeout=timedelta(seconds=10))) as gateway:
        yield gateway


def refunded_by_hand(gateway: SandboxGateway, reference: str, minor: int) -> str:
    amount = Money(minor=minor, currency="EUR")
    request = RefundRequest(reference=reference, amount=amount)
    key = f"by-hand-{reference}-{minor}"
    return gateway.refund(request, key=key, timeout_seconds=10).reference


def captured_by_hand(gateway: SandboxGateway, reference: str) -> None:
    request = CaptureRequest(reference=reference, amount=EUR)
    gateway.capture(request, key=f"by-hand-{reference}", timeout_seconds=10)


def hears(shop: World, kind: str, reference: str, *, times: int = 1) -> None:
    """Wait for the webhooks of that type about a payment, and deliver all there are."""

    def told() -> bool:
        found = [each for each in shop.post.heard if reference in each.body.decode()]
        return [each.told["type"] for each in found].count(kind) >= times

    shop.post.until(told)
    for each in list(shop.post.heard):
        shop.delivers(each)
    shop.inbox.process_due()


def works_until_captured(shop: World, order: str) -> tuple[UUID, str]:
    """A checkout whose money is taken and whose parcel does not leave yet."""
    saga_id = shop.start(order)
    while "payment.succeeded" not in shop.post.types_of(order):
        shop.works(saga_id)
    payment = shop.told(order, "payment.succeeded").told["payment"]
    return saga_id, payment["reference"]


def test_a_payment_that_was_captured_by_hand_is_the_sagas_capture(
    shop: World, order: str, by_hand: SandboxGateway
) -> None:
    saga_id, reference = challenged(shop, order)
    shop.judge.end_challenge(reference, passed=True)
    captured_by_hand(by_hand, reference)

    hears(shop, "payment.succeeded", reference)

    shop.runs_until(saga_id, State.COMPLETED)
    assert shop.totals(order).kept_minor == PRICE


def test_a_payment_that_was_voided_by_hand_takes_the_order_back(
    shop: World, order: str, by_hand: SandboxGateway
) -> None:
    saga_id, reference = challenged(shop, order)
    shop.judge.end_challenge(reference, passed=True)
    by_hand.void(reference, key=f"by-hand-{order}", timeout_seconds=10)

    hears(shop, "payment.voided", reference)

    shop.runs_until(saga_id, State.COMPENSATED)
    assert shop.totals(order).is_clean


def test_a_second_charge_that_was_captured_by_hand_is_refunded(
    shop: World, order: str, by_hand: SandboxGateway
) -> None:
    saga_id = shop.start(order)
    shop.runs_until(saga_id, State.COMPLETED)
    shop.judge.script("forget_key", order_reference=order, operation="authorize")
    second = pays(
        shop,
        order,
        key=key_of(order),
    )
    captured_by_hand(by_hand, second.reference)

    hears(shop, "payment.succeeded", second.reference)

    shop.runs_until(saga_id, State.COMPLETED)
    assert shop.totals(order).kept_minor == PRICE


def test_a_refund_by_hand_before_the_parcel_leaves_is_told_to_a_person(
    shop: World, order: str, by_hand: SandboxGateway
) -> None:
    """The saga goes on as if the order were paid: nobody but a person can say what was meant."""
    shop.judge.script("error_before", operation="ship", order_reference=order, times=None)
    _, reference = works_until_captured(shop, order)
    refund = refunded_by_hand(by_hand, reference, PRICE)

    hears(shop, "refund.created", reference)

    parked = [each for each in shop.rows() if each.parked_at is not None]
    assert any(refund in (each.note or "") for each in parked)


def test_one_of_two_refunds_by_hand_that_fails_reopens_the_saga(
    shop: World, order: str, by_hand: SandboxGateway
) -> None:
    """Both together undid the capture; without one of them the payer has not everything back."""
    shop.judge.script("refuse", operation="ship", order_reference=order, times=None)
    shop.judge.script("error_before", operation="refund", order_reference=order, times=None)
    saga_id, reference = works_until_captured(shop, order)
    shop.judge.clear_faults()
    shop.judge.script("refuse", operation="ship", order_reference=order, times=None)
    shop.judge.script("refund_pending", operation="refund", order_reference=order, times=2)
    stays, fails = (refunded_by_hand(by_hand, reference, each) for each in (1000, PRICE - 1000))
    while "UndoSkipped" not in shop.kinds(saga_id):  # the refund is believed, no void is needed
        shop.works(saga_id)
    shop.judge.end_refund(stays, failed=False)
    hears(shop, "refund.updated", reference)
    shop.client.report_settled(saga_id, "capture_payment", fails, by="a report")
    shop.runs_until(saga_id, State.COMPENSATED)

    shop.judge.end_refund(fails, failed=True)
    hears(shop, "refund.failed", reference)

    shop.runs_until(saga_id, State.FAILED_COMPENSATION)
    assert shop.totals(order).kept_minor == PRICE - 1000


def test_many_processors_of_many_events_beside_a_working_saga_tell_it_once(
    shop: World, order: str
) -> None:
    shop.judge.script("drop_after", order_reference=order, operation="authorize")
    shop.judge.script("error_before", operation="find", times=3)
    saga_id = shop.start(order)
    while not shop.post.types_of(order):
        shop.works(saga_id)
    shop.judge.clear_faults()
    heard = shop.told(order, "payment.authorized")
    for number in range(2 * PROCESSORS):
        shop.delivers_body(heard.body.replace(b'"evt_', b'"evt_%d_' % number))

    with ThreadPoolExecutor(PROCESSORS + 1) as pool:
        runs = [pool.submit(shop.inbox.process_due) for _ in range(PROCESSORS)]
        pool.submit(shop.runs_until, saga_id, State.COMPLETED).result()
        assert sum(each.result().total for each in runs) == 2 * PROCESSORS

    shop.is_due_again()
    shop.inbox.process_due()
    shop.runs_until(saga_id, State.COMPLETED)
    assert sum(isinstance(each.entry, EffectReported) for each in shop.log(saga_id)) <= 1
    assert "UnwindingStarted" not in shop.kinds(saga_id)
    assert shop.totals(order).kept_minor == PRICE
    assert all(each.processed_at for each in shop.rows())
