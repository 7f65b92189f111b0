"""Every way an attempt can end becomes one value."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import outcomes
from orchestrator.context import Effect, Movement, NothingThere, NotLanded
from orchestrator.entries import (
    StepFailed,
    StepReleased,
    StepSucceeded,
    StepUnknown,
    StepWaiting,
    UnknownReason,
    encode,
)
from orchestrator.errors import OutcomeUnknown, PayloadError, Retriable, Terminal, Wait
from orchestrator.instrumentation import observed
from tests.histories import COMPENSATE, FORWARD, PROBE, Order, doing

PAY = doing("pay")
ROWS = doing("rows", transactional=True)
LOOK = doing("look", read_only=True)


@contextmanager
def events() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    heard: list[tuple[str, dict[str, Any]]] = []
    with observed(lambda event, fields: heard.append((event, fields))):
        yield heard


def raised(error: BaseException, step: Any = PAY, direction: str = FORWARD) -> Any:
    return outcomes.raised(step, direction, 1, error)


def test_a_returned_value_is_a_success() -> None:
    assert outcomes.succeeded(PAY, FORWARD, 1, {"x": 1}) == StepSucceeded(
        step="pay", direction=FORWARD, attempt=1, result={"x": 1}
    )


def test_a_returned_model_becomes_json() -> None:
    assert outcomes.succeeded(PAY, FORWARD, 1, Order(amount=2)).result == {
        "amount": 2,
        "gift": False,
    }


def test_an_effect_keeps_its_reference_and_the_money_it_moved() -> None:
    moved = Movement(kind="authorize", amount_minor=5, currency="EUR")
    outcome = outcomes.succeeded(PAY, FORWARD, 1, Effect(value=1, reference="p", movements=[moved]))
    assert (outcome.result, outcome.reference) == (1, "p")
    assert outcome.movements == [
        {"kind": "authorize", "amount_minor": 5, "currency": "EUR", "reference": None}
    ]


@pytest.mark.parametrize(("returned", "undone"), [(None, True), (NothingThere(), False)])
def test_a_compensation_says_whether_there_was_anything(returned: Any, undone: bool) -> None:
    assert outcomes.succeeded(PAY, COMPENSATE, 1, returned).undone is undone


@pytest.mark.parametrize("returned", [object(), float("nan"), "x" * 70_000, {"a": {1, 2}}])
def test_a_result_that_cannot_be_logged_is_refused(returned: Any) -> None:
    with pytest.raises(PayloadError):
        outcomes.succeeded(PAY, FORWARD, 1, returned)


@pytest.mark.parametrize("amount", ["1,990", "1990", 19.9, None, True])
def test_money_that_is_not_counted_in_integers_is_refused_before_it_is_logged(amount: Any) -> None:
    """Else no decision could be taken from the log any more."""
    moved = Movement(kind="capture", amount_minor=amount, currency="EUR")

    with pytest.raises(PayloadError):
        outcomes.succeeded(PAY, FORWARD, 1, Effect(reference="r", movements=[moved]))


def test_a_reference_that_postgres_could_not_store_is_made_printable() -> None:
    outcome = outcomes.succeeded(PAY, FORWARD, 1, Effect(reference="a\x00\ud800"))
    assert outcome.reference == "a\\x00?"


CARD = "4242424242424242"
HIDDEN = "************4242"


def test_no_card_number_of_a_result_is_kept_and_it_is_told() -> None:
    given = Effect(
        value={
            "card": {"number": CARD, "cvc": 123},
            "list": [int(CARD)],
            "token": "sk_live_abcd1234",
        },
        reference=f"ref {CARD}",
        movements=[Movement(kind="capture", amount_minor=5, currency="EUR", reference=CARD)],
    )

    with events() as heard:
        kept = outcomes.succeeded(PAY, FORWARD, 1, given)

    assert kept.result == {
        "card": {"number": HIDDEN, "cvc": "[REDACTED_CVV]"},
        "list": [HIDDEN],
        "token": "sk_live_abcd1234",  # the next step may need it
    }
    assert kept.reference == f"ref {HIDDEN}"
    assert kept.movements is not None
    assert kept.movements[0]["reference"] == HIDDEN
    places = ["result.card.number", "result.card.cvc", "result.list.0", "reference"]
    assert heard == [
        ("redaction.applied", {"step": "pay", "places": [*places, "movements.0.reference"]})
    ]


def test_a_result_without_a_card_number_tells_nothing() -> None:
    with events() as heard:
        outcomes.succeeded(
            PAY, FORWARD, 1, Effect(value={"id": 6205500000000000004}, reference="p")
        )

    assert heard == []


def test_no_card_number_of_an_error_is_kept_and_none_is_cut_in_two() -> None:
    error = Terminal(
        "x" * 490 + CARD, code=f"code {CARD}", details={"card": CARD, "key": "sk_live_abcd1234"}
    )

    with events() as heard:
        kept = raised(error).error

    assert "4242424242" not in json.dumps(kept)
    assert kept["message"] == "x" * 490 + "*" * 10
    assert kept["code"] == f"code {HIDDEN}"
    assert kept["details"] == {"card": HIDDEN, "key": "sk_live_[REDACTED_SECRET]"}
    assert [event for event, _ in heard] == ["redaction.applied"] * 3


def test_no_card_number_of_a_probes_answer_is_kept() -> None:
    kept = outcomes.probed(PAY, PROBE, 1, NotLanded(why=f"no payment with {CARD}"))

    assert kept.why == f"no payment with {HIDDEN}"


EXPECTED: list[tuple[Any, BaseException, type]] = [
    (PAY, Retriable("busy"), StepFailed),
    (PAY, Terminal("declined"), StepFailed),
    (PAY, OutcomeUnknown("hm"), StepUnknown),
    (PAY, ValueError("?"), StepUnknown),
    (PAY, TimeoutError(), StepUnknown),
    (PAY, PayloadError("result"), StepUnknown),
    (ROWS, ValueError("?"), StepFailed),
    (ROWS, OutcomeUnknown("hm"), StepFailed),
    (LOOK, ValueError("?"), StepFailed),
    (LOOK, OutcomeUnknown("hm"), StepFailed),
    (PAY, Wait("answer", datetime(2026, 1, 1, tzinfo=UTC)), StepWaiting),
]


@pytest.mark.parametrize(("step", "error", "kind"), EXPECTED)
def test_each_exception_has_its_outcome(step: Any, error: BaseException, kind: type) -> None:
    assert type(raised(error, step)) is kind


def test_a_compensation_may_wait_too() -> None:
    wait = Wait("answer", datetime(2026, 1, 1, tzinfo=UTC))
    assert isinstance(raised(wait, direction=COMPENSATE), StepWaiting)


def test_only_a_terminal_answer_for_the_key_is_decisive() -> None:
    assert raised(Terminal("no", decisive=True)).decisive
    assert not raised(Terminal("no")).decisive
    assert not raised(Retriable("busy")).decisive


def test_foreign_errors_mean_what_the_definition_says() -> None:
    step = doing("pay", terminal_errors=[KeyError], retriable_errors=[OSError])
    assert raised(KeyError("x"), step).terminal
    assert not raised(OSError("x"), step).terminal


class DriverError(Exception):
    """As psycopg raises it."""

    def __init__(self, sqlstate: str) -> None:
        super().__init__("lost")
        self.sqlstate = sqlstate


class WrappedError(Exception):
    """As SQLAlchemy wraps it."""

    def __init__(self, sqlstate: str) -> None:
        super().__init__("wrapped")
        self.orig = DriverError(sqlstate)


@pytest.mark.parametrize("error", [DriverError, WrappedError])
@pytest.mark.parametrize(
    ("sqlstate", "spends"), [("40001", False), ("40P01", False), ("55P03", False), ("23505", True)]
)
def test_losing_to_others_in_postgres_spends_no_budget(
    error: type[Exception], sqlstate: str, spends: bool
) -> None:
    outcome = raised(error(sqlstate), ROWS)
    assert (outcome.terminal, outcome.spends_budget) == (False, spends)


def test_only_a_transactional_step_knows_that_a_lost_transaction_is_no_effect() -> None:
    assert isinstance(raised(DriverError("40001"), PAY), StepUnknown)


def test_how_long_to_wait_and_whether_it_counts_come_from_the_step() -> None:
    outcome = raised(Retriable("slow", retry_after=timedelta(seconds=9), spends_budget=False))
    assert (outcome.retry_after_seconds, outcome.spends_budget) == (9.0, False)


def test_code_and_details_are_kept() -> None:
    outcome = raised(Terminal("no", code="card_declined", details={"try": 1}))
    assert outcome.error == {
        "type": "Terminal",
        "message": "no",
        "code": "card_declined",
        "details": {"try": 1},
    }


class Unprintable(Exception):  # noqa: N818 - it stands for other people's exceptions
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    "error",
    [
        Unprintable(),
        Terminal("x" * 10_000),
        Terminal("a\x00b\ud800"),
        Terminal("no", code=object()),  # type: ignore[arg-type]
        Terminal("no", details={"x": object()}),
        Terminal("no", details={"x": "y" * 100_000}),
    ],
)
def test_an_error_of_any_shape_can_be_logged(error: BaseException) -> None:
    written = json.dumps(encode(raised(error))[1])
    assert len(written) < 70_000
    assert "\\u0000" not in written


@given(st.text())
def test_any_text_becomes_text_that_postgres_can_store(text: str) -> None:
    stored = outcomes.printable(text)
    assert "\x00" not in stored
    stored.encode()


@pytest.mark.parametrize(
    ("step", "reason", "kind"),
    [
        (PAY, UnknownReason.LEASE_LOST, StepUnknown),
        (PAY, UnknownReason.DRAINED, StepUnknown),
        (ROWS, UnknownReason.CRASHED, StepFailed),
        (LOOK, UnknownReason.CRASHED, StepFailed),
    ],
)
def test_a_given_up_attempt_is_unknown_only_if_it_could_have_had_an_effect(
    step: Any, reason: UnknownReason, kind: type
) -> None:
    assert type(outcomes.given_up(step, FORWARD, 1, reason)) is kind


@pytest.mark.parametrize(
    ("reason", "crashed"), [(UnknownReason.CRASHED, True), (UnknownReason.DRAINED, False)]
)
def test_a_drained_attempt_is_not_blamed_for_a_crash(reason: UnknownReason, crashed: bool) -> None:
    outcome = outcomes.given_up(ROWS, FORWARD, 1, reason)
    assert isinstance(outcome, StepFailed)
    assert (outcome.crashed, outcome.spends_budget) == (crashed, False)


def test_a_hand_back_leaves_nothing_to_keep() -> None:
    assert outcomes.late(StepReleased(step="pay", direction=FORWARD, attempt=1)) is None


def test_a_late_success_keeps_what_is_needed_to_undo_it() -> None:
    success = outcomes.succeeded(PAY, FORWARD, 2, Effect(value={"x": 1}, reference="p"))
    late = outcomes.late(success)
    assert late is not None
    assert (late.outcome, late.attempt, late.reference, late.result) == (
        "succeeded",
        2,
        "p",
        {"x": 1},
    )
