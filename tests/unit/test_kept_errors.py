"""Errors as rows: what comes back is the class that was raised, with its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import OutcomeUnknown, PayloadError, StepError, Terminal
from orchestrator.kept_errors import as_json, from_json, kept, rebuilt, without_cards
from orchestrator.payloads import MAX_BYTES, canonical, to_json
from orchestrator.redaction.values import MAX_VALUES
from steps.gateways.errors import CardDeclinedError
from tests.integration.engine import events

if TYPE_CHECKING:
    Imagined = Any

CARD = "4111 1111 1111 1111"


@dataclass(frozen=True)
class Seat:
    row: int
    price: Decimal


class TakenError(Terminal):
    """Knows more than text, and says of which types."""

    def __init__(self, seat: Seat, until: datetime, by: UUID, patience: timedelta) -> None:
        super().__init__(f"row {seat.row} is taken", code="taken")
        self.seat = seat
        self.until = until
        self.by = by
        self.patience = patience
        self.connection = object()


class VagueError(Terminal):
    """Its types cannot be found out at run time."""

    def __init__(self, imagined: Imagined) -> None:
        super().__init__("vague")
        self.imagined = imagined


class UnprintableError(Terminal):
    def __str__(self) -> str:
        raise ValueError("no text")


def through_a_row(error: BaseException, family: type[BaseException] = StepError) -> Any:
    return rebuilt(to_json(kept(error)), (family,))


def test_attributes_come_back_as_the_types_that_the_class_declares() -> None:
    seat = Seat(row=7, price=Decimal("12.50"))
    moment = datetime(2026, 11, 24, tzinfo=UTC)
    error = TakenError(seat, moment, UUID(int=7), timedelta(minutes=2))
    again = through_a_row(error)
    assert type(again) is TakenError
    assert (again.seat, again.until, again.by) == (seat, moment, UUID(int=7))
    assert again.patience == timedelta(minutes=2)
    assert (str(again), again.code) == ("row 7 is taken", "taken")
    assert not hasattr(again, "connection"), "what has no JSON form stays behind"


def test_attributes_of_unknown_types_come_back_as_json() -> None:
    assert through_a_row(VagueError({"a": 1})).imagined == {"a": 1}


@given(
    message=st.text(st.characters(exclude_categories=["Cs", "Nd"], exclude_characters="\x00")),
    details=st.dictionaries(st.sampled_from("abc"), st.integers(-9, 9) | st.booleans() | st.none()),
)
def test_any_message_and_details_come_back(message: str, details: Mapping[str, object]) -> None:
    again = through_a_row(Terminal(message, details=details))
    assert (again.message, again.args, again.details) == (message, (message,), details)


def test_notes_come_back() -> None:
    error = Terminal("no")
    error.add_note("asked twice")
    assert through_a_row(error).__notes__ == ["asked twice"]


def test_an_error_of_the_standard_library_comes_back() -> None:
    again = through_a_row(FileNotFoundError(2, "No such file"), OSError)
    assert type(again) is FileNotFoundError
    assert (again.errno, again.strerror) == (2, "No such file")


def test_a_class_is_looked_for_among_those_that_are_loaded_in_its_family() -> None:
    declined = kept(CardDeclinedError("declined"))
    assert type(rebuilt(declined, (Terminal,))) is CardDeclinedError
    assert rebuilt(declined, (OutcomeUnknown,)) is None
    assert rebuilt({**declined, "class": "os.system"}, (Terminal,)) is None


def test_data_of_any_size_leaves_a_small_row() -> None:
    error = Terminal("no", details={"text": "x" * 2 * MAX_BYTES})
    record = to_json(kept(error))
    assert len(canonical(record)) < MAX_BYTES
    again = rebuilt(record, (Terminal,))
    assert type(again) is Terminal
    assert str(again) == "no"


@pytest.mark.parametrize(
    "error", [UnprintableError(), Terminal("a\x00b"), Terminal("\ud800"), Terminal(), KeyError()]
)
def test_any_error_can_be_kept_and_raised_again(error: Exception) -> None:
    again = through_a_row(error, Exception)
    assert type(again) is type(error)


def test_no_card_number_is_kept() -> None:
    error = Terminal(f"refused {CARD}", details={"number": CARD, "cvv": "123"})
    error.add_note(CARD)
    with events() as heard:
        record = kept(error)
    assert "4111 1111" not in str(record)
    assert "123" not in str(record)
    assert "redaction.applied" in [name for name, _ in heard]


def test_results_that_are_large_are_kept_whole_and_card_data_in_them_is_never_missed() -> None:
    large: list[Any] = [1] * (MAX_VALUES + 1)
    assert without_cards(large) is large
    with pytest.raises(PayloadError):
        without_cards([*large, CARD])


@pytest.mark.parametrize(
    "value",
    [object(), float("nan"), b"\xff", "a\x00", 2**64, {1: object()}],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_json_form_is_refused(value: Any) -> None:
    with pytest.raises(PayloadError):
        as_json(value)


def test_what_does_not_fit_its_declared_type_comes_back_as_json() -> None:
    assert from_json({"row": "seven"}, Seat) == {"row": "seven"}
    assert from_json([1], object) == [1]
    assert from_json([1], type(lambda: None)) == [1]
