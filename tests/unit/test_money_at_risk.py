"""The money that a log leaves open, told from values."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.entries import (
    Direction,
    EffectReported,
    Entry,
    LateOutcomeRecorded,
    Recorded,
    StepFailed,
    StepProbed,
    StepSettled,
    StepSucceeded,
    UndoFailed,
)
from orchestrator.money_at_risk import MoneyAtRisk, money_at_risk
from tests.histories import MORNING

FORWARD, COMPENSATE = Direction.FORWARD, Direction.COMPENSATE


def movement(kind: str, minor: int, reference: str | None, currency: str = "EUR") -> dict[str, Any]:
    return {"kind": kind, "amount_minor": minor, "currency": currency, "reference": reference}


def done(step: str, *movements: dict[str, Any], direction: str = FORWARD) -> StepSucceeded:
    return StepSucceeded(step=step, direction=direction, attempt=1, movements=list(movements))


def at_risk(*entries: Entry) -> dict[str, MoneyAtRisk]:
    log = [Recorded(seq=seq, at=MORNING, entry=entry) for seq, entry in enumerate(entries, start=1)]
    return dict(money_at_risk(log))


HELD = done("authorize", movement("authorize", 1990, "p1"))
TAKEN = done("capture", movement("capture", 1990, "p1"))
LET_GO = done("authorize", movement("void", 1990, "p1"), direction=COMPENSATE)
GIVEN_BACK = done("capture", movement("refund", 1990, "r1"), direction=COMPENSATE)


@pytest.mark.parametrize(
    ("entries", "open_money"),
    [
        ([], {}),
        ([HELD], {"EUR": MoneyAtRisk(held_minor=1990)}),
        ([HELD, LET_GO], {}),
        ([HELD, TAKEN], {"EUR": MoneyAtRisk(captured_minor=1990)}),
        ([HELD, TAKEN, GIVEN_BACK], {}),
    ],
)
def test_what_is_held_or_taken_is_open_until_it_is_undone(
    entries: list[Entry], open_money: dict[str, MoneyAtRisk]
) -> None:
    assert at_risk(*entries) == open_money


def test_a_part_that_was_not_taken_is_held_still_and_a_part_not_refunded_is_taken() -> None:
    part = done("capture", movement("capture", 990, "p1"))
    back = done("capture", movement("refund", 90, "r1"), direction=COMPENSATE)
    assert at_risk(HELD, part, back) == {"EUR": MoneyAtRisk(held_minor=1000, captured_minor=900)}


def test_currencies_do_not_mix() -> None:
    yen = done("deposit", movement("authorize", 300, "p2", "JPY"))
    assert at_risk(HELD, yen, LET_GO) == {"JPY": MoneyAtRisk(held_minor=300)}


def test_more_given_back_than_taken_is_no_risk() -> None:
    assert at_risk(GIVEN_BACK, LET_GO) == {}


def late(direction: str, *movements: dict[str, Any]) -> LateOutcomeRecorded:
    return LateOutcomeRecorded(
        step="authorize",
        direction=direction,
        attempt=1,
        outcome="succeeded",
        reference="p1",
        movements=list(movements),
    )


AGAIN = [movement("authorize", 1990, "p1")]


@pytest.mark.parametrize(
    "told",
    [
        HELD,
        late(FORWARD, *AGAIN),
        StepProbed(step="authorize", direction="probe", attempt=1, landed=True, movements=AGAIN),
        StepSettled(step="authorize", direction=FORWARD, landed=True, by="x", movements=AGAIN),
        EffectReported(step="authorize", reference="p1", by="webhook", movements=AGAIN),
    ],
    ids=lambda told: type(told).__name__,
)
def test_an_effect_counts_whoever_tells_of_it_and_only_once(told: Entry) -> None:
    assert at_risk(told) == {"EUR": MoneyAtRisk(held_minor=1990)}
    assert at_risk(HELD, told) == {"EUR": MoneyAtRisk(held_minor=1990)}


def test_a_second_effect_of_a_step_is_money_too() -> None:
    second = late(FORWARD, movement("authorize", 1990, "p2"))
    assert at_risk(HELD, second) == {"EUR": MoneyAtRisk(held_minor=3980)}


def test_two_captures_of_one_payment_by_two_steps_add_up() -> None:
    rest = done("capture_rest", movement("capture", 10, "p1"))
    assert at_risk(TAKEN, rest) == {"EUR": MoneyAtRisk(captured_minor=2000)}


def test_without_references_a_repeated_answer_is_the_same_movement() -> None:
    anonymous = done("authorize", movement("authorize", 5, None), movement("authorize", 7, None))
    assert at_risk(anonymous, anonymous) == {"EUR": MoneyAtRisk(held_minor=12)}


def test_what_did_not_succeed_moves_nothing() -> None:
    failed = StepFailed(step="capture", direction=FORWARD, attempt=1, terminal=True, error={})
    nowhere = StepProbed(step="authorize", direction="probe", attempt=1, landed=False)
    assert at_risk(failed, nowhere) == {}


def test_a_late_undo_gives_nothing_back() -> None:
    undo = late(COMPENSATE, movement("void", 1990, "p1"))
    assert at_risk(HELD, undo) == {"EUR": MoneyAtRisk(held_minor=1990)}


@pytest.mark.parametrize("reference", ["r1", "p1"], ids=["the refund's", "the payment's"])
def test_a_refund_that_failed_later_leaves_the_money_taken(reference: str) -> None:
    bounced = UndoFailed(step="capture", reference=reference, by="webhook")
    log = (HELD, TAKEN, GIVEN_BACK, bounced)
    assert at_risk(*log) == {"EUR": MoneyAtRisk(captured_minor=1990)}
    second = done("capture", movement("refund", 1990, "r2"), direction=COMPENSATE)
    assert at_risk(*log, second) == {}
