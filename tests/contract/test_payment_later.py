"""What happens after the answer: challenges, refunds that live on, lookups, reports."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from steps.gateways.errors import (
    AuthenticationRequiredError,
    CardDeclinedError,
    LookupFailedError,
)
from steps.gateways.payment import (
    ChargeStatus,
    MovementKind,
    PaymentGateway,
    RefundStatus,
    ReportLine,
    UnreadableLine,
)
from steps.gateways.sandbox.judge import SandboxJudge
from tests.contract.gateways import LONG, PRICE, Order

# 3-D Secure.


def test_a_challenge_is_a_wait_that_ends_in_an_authorization(
    order: Order, judge: SandboxJudge
) -> None:
    with pytest.raises(AuthenticationRequiredError) as waiting:
        order.authorize("challenge")
    assert judge.totals_of(order.reference) is None

    judge.end_challenge(waiting.value.reference, passed=True)

    assert waiting.value.challenge_url.endswith(waiting.value.reference)
    assert order.found().status is ChargeStatus.AUTHORIZED
    with pytest.raises(AuthenticationRequiredError):  # the key replays its first answer for ever
        order.authorize("challenge")


def test_a_failed_challenge_is_a_decline(order: Order, judge: SandboxJudge) -> None:
    with pytest.raises(AuthenticationRequiredError) as waiting:
        order.authorize("challenge")

    judge.end_challenge(waiting.value.reference, passed=False)

    assert order.found().status is ChargeStatus.DECLINED


def test_a_challenge_that_the_payer_let_lapse_is_a_decline(
    order: Order, judge: SandboxJudge
) -> None:
    with pytest.raises(AuthenticationRequiredError) as waiting:
        order.authorize("challenge")

    judge.expire_challenge(waiting.value.reference)

    assert order.found().status is ChargeStatus.DECLINED
    with pytest.raises(RuntimeError, match="no_open_challenge"):
        judge.end_challenge(waiting.value.reference, passed=True)


def test_an_open_challenge_can_be_called_off(order: Order, judge: SandboxJudge) -> None:
    with pytest.raises(AuthenticationRequiredError):
        order.authorize("challenge")

    assert order.void(order.found()).status is ChargeStatus.VOIDED

    with pytest.raises(RuntimeError, match="no_open_challenge"):
        judge.end_challenge(order.found().reference, passed=True)
    assert judge.totals_of(order.reference) is None


def test_calling_off_what_was_never_held_moves_no_money(order: Order) -> None:
    with pytest.raises(AuthenticationRequiredError):
        order.authorize("challenge")
    released = order.void(order.found())

    assert not [
        line
        for day in {released.created_at.date(), datetime.now(UTC).date()}
        for line in order.gateway.list(day, timeout_seconds=LONG)
        if isinstance(line, UnreadableLine) or line.payment_reference == released.reference
    ]


# Refunds live on.


@pytest.mark.parametrize(
    ("failed", "status", "kept"),
    [(False, RefundStatus.SUCCEEDED, 0), (True, RefundStatus.FAILED, PRICE.minor)],
)
def test_a_pending_refund_ends_later(
    order: Order, judge: SandboxJudge, failed: bool, status: RefundStatus, kept: int
) -> None:
    judge.script("refund_pending", order_reference=order.reference, operation="refund")
    pending = order.refund(order.captured())
    assert pending.status is RefundStatus.PENDING

    judge.end_refund(pending.reference, failed=failed)

    assert [each.status for each in order.found().refunds] == [status]
    totals = judge.totals_of(order.reference)
    assert totals is not None
    assert totals.kept_minor == kept


def test_a_failed_refund_can_be_tried_again(order: Order, judge: SandboxJudge) -> None:
    judge.script("refund_pending", order_reference=order.reference, operation="refund")
    payment = order.captured()
    judge.end_refund(order.refund(payment).reference, failed=True)

    assert order.refund(payment, key="refund-2").status is RefundStatus.SUCCEEDED


# Questions.


def test_a_payment_is_found_by_each_of_its_names(order: Order) -> None:
    payment = order.captured()
    back = order.refund(payment)
    now = order.found()

    done = {MovementKind.AUTHORIZE, MovementKind.CAPTURE, MovementKind.REFUND}
    keys = [{"key": order.key(kind)} for kind in done & order.gateway.capabilities.keys_found]
    names = [{"reference": payment.reference}, {"order_reference": order.reference}, *keys]
    for name in names:
        assert order.gateway.find(**name, timeout_seconds=LONG) == (now,)
    assert now.refunds == (back,)
    assert back.key == order.key("refund")


def test_what_is_not_there_is_not_found(gateway: PaymentGateway) -> None:
    for name in ({"reference": "pi_no"}, {"key": "no"}, {"order_reference": "no"}):
        assert gateway.find(**name, timeout_seconds=LONG) == ()


def test_exactly_one_name_is_asked_for(gateway: PaymentGateway) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        gateway.find(timeout_seconds=LONG)
    with pytest.raises(ValueError, match="exactly one"):
        gateway.find(key="k", reference="r", timeout_seconds=LONG)


def test_a_lagging_lookup_does_not_see_it_yet(order: Order, judge: SandboxJudge) -> None:
    order.authorize()
    judge.script("not_found", order_reference=order.reference, operation="find")

    assert order.gateway.find(order_reference=order.reference, timeout_seconds=LONG) == ()
    assert order.found().status is ChargeStatus.AUTHORIZED


def test_a_failed_question_is_retriable(order: Order, judge: SandboxJudge) -> None:
    judge.script("drop_after", order_reference=order.reference, operation="find")

    with pytest.raises(LookupFailedError):
        order.found()


def test_the_report_of_a_day_lists_what_moved(order: Order) -> None:
    payment = order.captured()
    back = order.refund(payment)
    another = replace(order, reference=f"{order.reference}-declined")
    with pytest.raises(CardDeclinedError):
        another.authorize("declined")

    today = datetime.now(UTC).date()
    lines = [
        line
        for day in (payment.created_at.date(), today)
        for line in order.gateway.list(day, timeout_seconds=LONG)
        if isinstance(line, ReportLine) and line.order_reference.startswith(order.reference)
    ]

    seen = {(line.kind, line.reference, line.amount) for line in lines}
    assert seen == {
        (MovementKind.AUTHORIZE, payment.reference, PRICE),
        (MovementKind.CAPTURE, payment.reference, PRICE),
        (MovementKind.REFUND, back.reference, PRICE),
    }
    assert not list(order.gateway.list(today - timedelta(days=3), timeout_seconds=LONG))
