"""What a saga has to be told of its payment, from log and payment alone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from orchestrator.context import Effect
from orchestrator.entries import (
    Direction,
    Entry,
    MovementSettled,
    Recorded,
    SagaCompensated,
    SagaCompleted,
    SagaParked,
    SagaResolved,
    SagaStarted,
    SignalReceived,
    StepFailed,
    StepStarted,
    StepSucceeded,
    StepUnknown,
    StepWaiting,
    UndoFailed,
    UndoSkipped,
    UnwindingStarted,
)
from orchestrator.folding import replay
from orchestrator.state import State
from steps.gateways.payment import ChargeResult, ChargeStatus, RefundResult, RefundStatus
from steps.money import Money
from steps.payment import AUTHENTICATED
from steps.webhooks.weighing import (
    AUTHORIZE,
    CAPTURE,
    EffectProved,
    Finding,
    NotYet,
    PayerAnswered,
    Question,
    RefundFailed,
    RefundSettled,
    weigh,
)

AT = datetime(2026, 11, 24, 12, tzinfo=UTC)
PRICE, NOTHING = Money(minor=1990, currency="EUR"), Money(minor=0, currency="EUR")
FORWARD, BACK = Direction.FORWARD, Direction.COMPENSATE

BEGUN: list[Entry] = [SagaStarted(payload={"amount_minor": 1990, "currency": "EUR"})]


def tried(step: str, direction: str = FORWARD, attempt: int = 1) -> StepStarted:
    return StepStarted(step=step, direction=direction, attempt=attempt, owner="somebody")


def did(step: str, reference: str = "pay_1") -> list[Entry]:
    done = StepSucceeded(step=step, direction=FORWARD, attempt=1, reference=reference)
    return [tried(step), done]


def unknown(step: str) -> list[Entry]:
    return [
        tried(step),
        StepUnknown(step=step, direction=FORWARD, attempt=1, reason="timed_out"),
    ]


WAITING: list[Entry] = [
    *BEGUN,
    tried(AUTHORIZE),
    StepWaiting(
        step=AUTHORIZE,
        direction=FORWARD,
        attempt=1,
        until=AT.isoformat(),
        signal=AUTHENTICATED,
        decisive=True,
    ),
]
HELD = [*BEGUN, *did(AUTHORIZE)]
TAKEN = [*HELD, *did(CAPTURE)]
REFUSED: list[Entry] = [
    *BEGUN,
    tried(AUTHORIZE),
    StepFailed(step=AUTHORIZE, direction=FORWARD, attempt=1, terminal=True, error={}),
    UnwindingStarted(cause="step_failed", step=AUTHORIZE),
    SagaCompensated(),
]


def refunded(pending: bool = True) -> list[Entry]:
    movement = {
        "kind": "refund",
        "amount_minor": 1990,
        "currency": "EUR",
        "reference": "ref_1",
        "pending": pending,
    }
    return [
        *TAKEN,
        UnwindingStarted(cause="step_failed", step="create_shipment"),
        tried(CAPTURE, BACK),
        StepSucceeded(
            step=CAPTURE, direction=BACK, attempt=1, reference="ref_1", movements=[movement]
        ),
        UndoSkipped(step=AUTHORIZE, undone_by=CAPTURE),
    ]


def payment(status: ChargeStatus, **changes: Any) -> ChargeResult:
    amounts = {
        ChargeStatus.CAPTURED: {"captured": PRICE},
        ChargeStatus.REFUNDED: {"captured": PRICE, "refunded": PRICE},
    }
    values: dict[str, Any] = {
        "reference": "pay_1",
        "order_reference": "O-1",
        "amount": PRICE,
        "captured": NOTHING,
        "refunded": NOTHING,
        "status": status,
        "key": "k",
        "created_at": AT,
    }
    return ChargeResult(**(values | amounts.get(status, {}) | changes))


def with_refund(status: RefundStatus, reference: str = "ref_1") -> ChargeResult:
    refund = RefundResult(
        reference=reference,
        payment_reference="pay_1",
        amount=PRICE,
        status=status,
        key="undo",
        created_at=AT,
    )
    failed = status is RefundStatus.FAILED
    is_now = ChargeStatus.CAPTURED if failed else ChargeStatus.REFUNDED
    return payment(is_now, refunds=(refund,))


def weighed(entries: list[Entry], seen: ChargeResult) -> list[Finding]:
    log = [Recorded(seq=n, at=AT, entry=each) for n, each in enumerate(entries, start=1)]
    return weigh(seen, replay(log), log)


def kinds(found: list[Finding]) -> list[type]:
    return [type(each) for each in found]


OPEN, HOLD, TOOK = ChargeStatus.REQUIRES_ACTION, ChargeStatus.AUTHORIZED, ChargeStatus.CAPTURED
NO, GONE = ChargeStatus.DECLINED, ChargeStatus.VOIDED


@pytest.mark.parametrize(
    ("entries", "status", "found"),
    [
        # The payer.
        (WAITING, OPEN, []),
        (WAITING, HOLD, [PayerAnswered]),
        (WAITING, NO, [PayerAnswered]),
        (WAITING, GONE, [PayerAnswered]),
        ([*WAITING, SignalReceived(name=AUTHENTICATED, dedup_id="1")], HOLD, []),
        ([*WAITING, tried(AUTHORIZE, attempt=2)], HOLD, [NotYet]),
        # The hold.
        ([*BEGUN, tried(AUTHORIZE)], HOLD, [NotYet]),
        ([*BEGUN, tried(AUTHORIZE)], NO, [NotYet]),
        (BEGUN, HOLD, [NotYet]),
        (BEGUN, NO, []),
        (HELD, HOLD, []),
        ([*BEGUN, *unknown(AUTHORIZE)], HOLD, [EffectProved]),
        ([*BEGUN, *unknown(AUTHORIZE)], OPEN, []),
        ([*BEGUN, *unknown(AUTHORIZE)], NO, [NotYet]),
        ([*BEGUN, *unknown(AUTHORIZE)], GONE, [NotYet]),
        (REFUSED, HOLD, [EffectProved]),
        (REFUSED, NO, []),
        ([*BEGUN, *did(AUTHORIZE, "pay_0")], HOLD, [EffectProved]),
        ([*BEGUN, *did(AUTHORIZE, "pay_0"), SagaCompleted()], HOLD, [EffectProved]),
        # The capture.
        (TAKEN, TOOK, []),
        (HELD, TOOK, []),
        ([*HELD, tried(CAPTURE)], TOOK, [NotYet]),
        ([*HELD, *unknown(CAPTURE)], TOOK, [EffectProved]),
        ([*HELD, *unknown(CAPTURE)], HOLD, []),
        ([*HELD, UnwindingStarted(cause="cancelled")], TOOK, [Question]),
        # An operator had closed it.
        ([*HELD, SagaResolved(actor="ada", reason="…")], HOLD, []),
        ([*BEGUN, tried(AUTHORIZE), StepFailed(
            step=AUTHORIZE, direction=FORWARD, attempt=1, terminal=True, error={},
        ), SagaResolved(actor="ada", reason="…")], HOLD, [Question]),
    ],
)  # fmt: skip
def test_what_a_payment_means_to_its_saga(
    entries: list[Entry], status: ChargeStatus, found: list[type]
) -> None:
    assert kinds(weighed(entries, payment(status))) == found


@pytest.mark.parametrize(
    ("entries", "status", "reference", "found"),
    [
        (refunded(), RefundStatus.PENDING, "ref_1", []),
        (refunded(), RefundStatus.SUCCEEDED, "ref_1", [RefundSettled(reference="ref_1")]),
        (refunded(), RefundStatus.FAILED, "ref_1", [RefundFailed(reference="ref_1")]),
        (refunded(pending=False), RefundStatus.SUCCEEDED, "ref_1", []),
        (
            [*refunded(), MovementSettled(step=CAPTURE, reference="ref_1", by="a report")],
            RefundStatus.SUCCEEDED,
            "ref_1",
            [],
        ),
        (
            [
                *refunded(),
                MovementSettled(step=CAPTURE, reference="ref_1", by="a report"),
                SagaCompensated(),
            ],
            RefundStatus.FAILED,
            "ref_1",
            [RefundFailed(reference="ref_1")],
        ),
        (
            [*refunded(), UndoFailed(step=CAPTURE, reference="ref_1", by="a report")],
            RefundStatus.FAILED,
            "ref_1",
            [],
        ),
        ([*TAKEN, SagaCompleted()], RefundStatus.SUCCEEDED, "by-hand", []),
    ],
)
def test_what_a_refund_means_to_its_saga(
    entries: list[Entry], status: RefundStatus, reference: str, found: list[Finding]
) -> None:
    assert weighed(entries, with_refund(status, reference)) == found


@pytest.mark.parametrize("status", [RefundStatus.SUCCEEDED, RefundStatus.FAILED])
@pytest.mark.parametrize("parked", [False, True])
def test_a_refund_that_is_not_in_the_log_yet_is_waited_for(
    status: RefundStatus, parked: bool
) -> None:
    """Its call may be under way still, or have timed out: what it was must not be forgotten."""
    entries: list[Entry] = [*TAKEN, UnwindingStarted(cause="cancelled"), tried(CAPTURE, BACK)]
    if parked:
        question = SagaParked(
            state=State.FAILED_COMPENSATION, reason="unknown", question="?", steps=[CAPTURE]
        )
        gone = StepUnknown(step=CAPTURE, direction=BACK, attempt=1, reason="timed_out")
        entries += [gone, question]

    assert NotYet in kinds(weighed(entries, with_refund(status)))


@pytest.mark.parametrize(
    ("status", "found"),
    [
        (RefundStatus.PENDING, [Question]),
        (RefundStatus.SUCCEEDED, [Question]),
        (RefundStatus.FAILED, []),
    ],
)
def test_a_refund_by_others_while_the_order_goes_forward_is_a_persons_to_judge(
    status: RefundStatus, found: list[type]
) -> None:
    assert kinds(weighed(TAKEN, with_refund(status, "by-hand"))) == found


def test_a_proved_hold_is_what_the_step_itself_would_have_returned() -> None:
    [found] = weighed([*BEGUN, *unknown(AUTHORIZE)], payment(HOLD))

    assert isinstance(found, EffectProved)
    assert isinstance(found.effect, Effect)
    assert (found.step, found.effect.reference) == (AUTHORIZE, "pay_1")
    assert found.effect.value["reference"] == "pay_1"
    assert [each.amount_minor for each in found.effect.movements] == [1990]


@pytest.mark.parametrize("step", [AUTHORIZE, CAPTURE])
def test_money_that_is_not_the_orders_price_is_never_the_steps_own(step: str) -> None:
    other = Money(minor=1, currency="EUR")
    entries = [*BEGUN, *unknown(AUTHORIZE)] if step == AUTHORIZE else [*HELD, *unknown(CAPTURE)]
    seen = payment(HOLD, amount=other) if step == AUTHORIZE else payment(TOOK, captured=other)

    assert kinds(weighed(entries, seen)) == [Question]


def test_a_second_charge_that_was_taken_too_is_both() -> None:
    found = weighed([*TAKEN, SagaCompleted()], payment(TOOK, reference="pay_2"))

    assert [each.step for each in found if isinstance(each, EffectProved)] == [AUTHORIZE, CAPTURE]
