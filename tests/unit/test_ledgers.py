"""Books and gateway reports: honest ones have no violation, and each planted one is found."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from orchestrator.entries import (
    Entry,
    Recorded,
    SagaCompensated,
    SagaCompleted,
    SagaStarted,
    StepStarted,
    StepSucceeded,
    UndoSkipped,
    UnwindingStarted,
)
from orchestrator.folding import replay
from orchestrator.keys import forward_key, undo_key
from orchestrator.state import FoldedSaga, State
from orchestrator.storage.histories import SagaHistory
from orchestrator.storage.verification import SagaRecord
from recovery.invariants.evidence import Violation
from recovery.invariants.ledgers import check_books, check_line, check_listed
from steps.gateways.payment import MovementKind, ReportLine
from steps.money import Money

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
HERE = "eu-shop"
PRICE = 1_990
KIND = MovementKind


def did(step: str, kind: str, reference: str, minor: int = PRICE, *, undo: bool = False) -> Any:
    direction = "compensate" if undo else "forward"
    moved = {"kind": kind, "amount_minor": minor, "currency": "EUR", "reference": reference}
    return (
        StepStarted(step=step, direction=direction, attempt=1, owner="me"),
        StepSucceeded(
            step=step,
            direction=direction,
            attempt=1,
            reference=reference,
            movements=[moved],
            undone=True if undo else None,
        ),
    )


def record(state: State, *entries: Entry) -> tuple[SagaRecord, FoldedSaga]:
    payload = {"order_id": "A", "currency": "EUR", "amount_minor": PRICE}
    started = SagaStarted(payload=payload, installation=HERE)
    log = [
        Recorded(seq=seq, at=NOON + timedelta(seconds=seq), entry=each)
        for seq, each in enumerate((started, *entries), start=1)
    ]
    history = SagaHistory(
        id=UUID(int=1),
        definition="checkout",
        definition_hash="h",
        key="A",
        state=state,
        seq=len(log),
        is_due=False,
        open_attempts=0,
        entries=log,
    )
    return SagaRecord(history=history), replay(log)


HELD = did("authorize_payment", "authorize", "pay_A")
TAKEN = did("capture_payment", "capture", "pay_A")
BACK = (
    *did("capture_payment", "refund", "ref_A", undo=True),
    UndoSkipped(step="authorize_payment", undone_by="capture_payment"),
)
UNWINDING = UnwindingStarted(cause="cancelled")
COMPLETED = record(State.COMPLETED, *HELD, *TAKEN, SagaCompleted())
COMPENSATED = record(State.COMPENSATED, *HELD, *TAKEN, UNWINDING, *BACK, SagaCompensated())


def names(found: Iterable[Violation]) -> list[str]:
    return [each.invariant for each in found]


@pytest.mark.parametrize("honest", [COMPLETED, COMPENSATED], ids=["completed", "compensated"])
def test_honest_books_balance(honest: tuple[SagaRecord, FoldedSaga]) -> None:
    assert names(check_books(*honest)) == []


BOOKS = {
    "completed and never captured": record(State.COMPLETED, *HELD, SagaCompleted()),
    "completed for another price": record(
        State.COMPLETED, *HELD, *did("capture_payment", "capture", "pay_A", 1), SagaCompleted()
    ),
    "compensated and never refunded": record(
        State.COMPENSATED, *HELD, *TAKEN, UNWINDING, SagaCompensated()
    ),
    "compensated with a hold": record(State.COMPENSATED, *HELD, UNWINDING, SagaCompensated()),
    "completed and never paid": record(State.COMPLETED, SagaCompleted()),
}


@pytest.mark.parametrize("planted", BOOKS)
def test_books_that_do_not_balance_are_found(planted: str) -> None:
    assert names(check_books(*BOOKS[planted])) == ["books balance"]


def line(kind: MovementKind, step: str, reference: str = "pay_A", **changes: Any) -> ReportLine:
    values: dict[str, Any] = {
        "kind": kind,
        "reference": reference,
        "payment_reference": "pay_A",
        "order_reference": "A",
        "amount": Money(minor=PRICE, currency="EUR"),
        "key": forward_key("checkout", "A", step, installation=HERE),
        "at": NOON,
    }
    return ReportLine(**values | changes)


AUTHORIZED = line(KIND.AUTHORIZE, "authorize_payment")
CAPTURED = line(KIND.CAPTURE, "capture_payment")
REFUND_KEY = undo_key(CAPTURED.key, "pay_A")


def test_what_the_log_tells_of_is_reported_and_the_other_way_round() -> None:
    refunded = line(KIND.REFUND, "capture_payment", "ref_A", key=REFUND_KEY)
    for each in (AUTHORIZED, CAPTURED, refunded):
        assert names(check_line(each, [COMPENSATED], HERE)) == []
    listed = {("authorize", "pay_A"), ("capture", "pay_A"), ("refund", "ref_A")}
    around = (NOON - timedelta(hours=1), NOON + timedelta(hours=1))
    assert names(check_listed(COMPENSATED[0], listed, *around)) == []


LINES = {
    "a second payment": line(KIND.AUTHORIZE, "authorize_payment", "pay_B", payment_reference="b"),
    "another amount": line(KIND.CAPTURE, "capture_payment", amount=Money(minor=1, currency="EUR")),
    "a refund nobody knows": line(KIND.REFUND, "capture_payment", "ref_B", key=REFUND_KEY),
    "a refund that failed": line(KIND.REFUND_FAILED, "", "ref_A", key=""),
}


@pytest.mark.parametrize("planted", LINES)
def test_an_effect_that_the_log_does_not_tell_of_is_found(planted: str) -> None:
    found = names(check_line(LINES[planted], [COMPENSATED], HERE))
    assert found == ["every effect is in its log"]


def test_an_effect_of_ours_without_a_saga_is_found_and_of_others_is_not_ours() -> None:
    assert names(check_line(CAPTURED, [], HERE)) == ["every effect has a saga"]
    assert names(check_line(CAPTURED, [], "us-shop")) == []
    strange = line(KIND.CAPTURE, "capture_payment", "x", payment_reference="x", key="by hand")
    assert names(check_line(strange, [COMPENSATED], HERE)) == []


def test_a_movement_that_the_gateway_does_not_report_is_found() -> None:
    around = (NOON - timedelta(hours=1), NOON + timedelta(hours=1))
    found = names(check_listed(COMPLETED[0], {("authorize", "pay_A")}, *around))
    assert found == ["every movement is reported"]
    assert names(check_listed(COMPLETED[0], set(), NOON + timedelta(hours=1), around[1])) == []


def test_what_is_about_to_be_logged_is_no_violation() -> None:
    begun = StepStarted(step="capture_payment", direction="forward", attempt=1, owner="me")
    moving = record(State.RUNNING, *HELD, begun)
    assert names(check_line(CAPTURED, [moving], HERE)) == []
