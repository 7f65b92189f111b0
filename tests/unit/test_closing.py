"""The closing check: a saga ends only when its books allow it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from orchestrator.books import books
from orchestrator.closing import Close, Closing, HoldOn, Stop
from orchestrator.context import Movement
from orchestrator.entries import MovementSettled, StepSucceeded, UndoFailed
from tests.histories import COMPENSATE, FORWARD, MORNING, History, doing, saga

DEADLINE = timedelta(days=10)


def moved(kind: str, amount: int, reference: str = "p-1", *, pending: bool = False) -> list[Any]:
    return [
        Movement(
            kind=kind, amount_minor=amount, currency="EUR", reference=reference, pending=pending
        ).as_json()
    ]


def balanced(closing: Closing) -> Close | HoldOn | Stop:
    """Ten cents and nothing else, or nothing at all."""
    balance = closing.books.get("EUR")
    kept = balance.kept if balance else 0
    if kept != (10 if closing.outcome == "completed" else 0):
        return Stop(question=f"{kept} cents are with us: where do they belong?")
    waiting = [each.since for each in closing.movements if each.is_pending]
    return HoldOn(until=min(waiting) + DEADLINE) if waiting else Close()


SHOP = saga(doing("pay"), doing("ship"), closing=balanced)


def paid(amount: int = 10) -> History:
    history = History(SHOP).claims("pay")
    return history.records(
        StepSucceeded(
            step="pay",
            direction=FORWARD,
            attempt=1,
            reference="p-1",
            movements=moved("capture", amount),
        )
    )


def refunded(history: History, amount: int = 10, *, pending: bool = False) -> History:
    history.declined("ship").finds_nothing("ship").claims("pay", COMPENSATE)
    return history.records(
        StepSucceeded(
            step="pay",
            direction=COMPENSATE,
            attempt=1,
            undone=True,
            reference="r-1",
            movements=moved("refund", amount, "r-1", pending=pending),
        )
    )


def test_a_saga_whose_books_balance_completes() -> None:
    assert paid().succeeds("ship").visible == "completed"


def test_a_saga_that_took_too_much_parks_with_the_question() -> None:
    history = paid(11).succeeds("ship")
    assert history.visible == "stuck"
    assert history.state.parked is not None
    assert history.state.parked.question == "11 cents are with us: where do they belong?"


def test_a_saga_that_gave_too_little_back_is_not_called_compensated() -> None:
    assert refunded(paid(), 9).visible == "failed_compensation"


def test_a_saga_that_gave_everything_back_is_compensated() -> None:
    assert refunded(paid()).visible == "compensated"


def test_a_pending_refund_holds_the_end_back_until_it_is_settled() -> None:
    history = refunded(paid(), pending=True)
    assert history.visible == "compensating"
    assert history.decision.wake_at is not None
    assert history.decision.wake_at - MORNING > timedelta(days=9)
    history.records(MovementSettled(step="pay", reference="r-1", by="webhook"))
    assert history.visible == "compensated"


def test_a_refund_that_is_pending_too_long_parks_and_goes_on_once_settled() -> None:
    history = refunded(paid(), pending=True).later(days=11)
    assert history.visible == "failed_compensation"
    history.records(MovementSettled(step="pay", reference="r-1", by="webhook"))
    assert history.visible == "compensated"


def test_a_refund_that_fails_is_made_again_under_a_new_key() -> None:
    history = refunded(paid(), pending=True).undo_failed("pay", "r-1")
    assert history.wants == ["undo pay#2"]
    assert history.state.step("pay").undo_generation == 2
    assert books(history.state.money)["EUR"].refunded == 0


def test_a_refund_that_fails_after_the_end_reopens_the_saga() -> None:
    history = refunded(paid())
    assert history.visible == "compensated"
    history.records(UndoFailed(step="pay", reference="r-1", by="webhook"))
    assert history.visible == "compensating"
    assert history.wants == ["undo pay#2"]


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise ValueError("no")


@pytest.mark.parametrize(
    "answer",
    [
        ValueError("a bug with \x00 in it"),
        RecursionError(),
        UnprintableError(),
        None,
        True,
        Close,
        HoldOn(until=MORNING.replace(tzinfo=None)),
        HoldOn(until="tomorrow"),  # type: ignore[arg-type]
        Stop(question=None),  # type: ignore[arg-type]
    ],
    ids=repr,
)
def test_a_closing_check_that_is_no_answer_parks(answer: Any) -> None:
    def check(_closing: Closing) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    history = History(saga(doing("pay"), closing=check)).succeeds("pay")
    assert history.visible == "stuck"
    parked = history.state.parked
    assert parked is not None
    assert parked.reason == "closing_check"
    assert "closing check" in parked.question
    assert "\x00" not in parked.question
