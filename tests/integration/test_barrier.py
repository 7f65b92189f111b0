"""The barrier in a participant's own database: once, empty-safe, hang-safe; by every connection."""

from __future__ import annotations

import psycopg
import pytest
import sqlalchemy

from orchestrator.context import Effect, Movement, NothingThere
from orchestrator.errors import OutcomeUnknown, PayloadError, Terminal
from orchestrator.storage import barrier
from orchestrator.storage.barrier import LocalConnection
from tests.bank import (
    CREDIT,
    DEBIT,
    KINDS,
    Bank,
    Kind,
    book,
    context,
    credits_back,
    debits,
)

each_kind = pytest.mark.parametrize("kind", KINDS)


# -- once ------------------------------------------------------------------------------------------


@each_kind
def test_a_repeated_action_has_one_effect_and_the_first_answer(bank: Bank, kind: Kind) -> None:
    with bank.transaction(kind) as connection:
        first = debits(connection)
    with bank.transaction(kind) as connection:
        second = debits(connection)

    assert first == second
    assert first.reference == "entry-1"
    assert first.movements == [Movement(kind="capture", amount_minor=100, currency="EUR")]
    assert bank.entries == [DEBIT]


def test_without_the_barrier_a_repeated_action_has_two_effects(bank: Bank) -> None:
    for _ in range(2):
        with bank.transaction() as connection:
            book(connection, DEBIT)

    assert bank.entries == [DEBIT, DEBIT]


@each_kind
def test_a_repeated_compensation_has_one_effect_and_the_first_answer(
    bank: Bank, kind: Kind
) -> None:
    with bank.transaction(kind) as connection:
        debits(connection)
    answers = []
    for _ in range(2):
        with bank.transaction(kind) as connection:
            answers.append(credits_back(connection, effect="entry-1"))

    answer = {"entry": 2, "took back": 1}
    assert answers == 2 * [Effect(value=answer, reference="entry-1", movements=[])]
    assert bank.entries == [DEBIT, CREDIT]


def test_an_action_that_names_no_reference_gets_the_steps_key(bank: Bank) -> None:
    with bank.transaction() as connection:
        effect = barrier.act(connection, context(), lambda: {"booked": True})

    assert effect == Effect(value={"booked": True}, reference=context().step_key, movements=[])


def test_two_sagas_do_not_meet(bank: Bank) -> None:
    for order in ("A-1", "A-2"):
        with bank.transaction() as connection:
            debits(connection, order=order)

    assert bank.entries == [DEBIT, DEBIT]


# -- empty, and late -------------------------------------------------------------------------------


@each_kind
def test_a_compensation_of_nothing_does_nothing_and_closes_the_door(bank: Bank, kind: Kind) -> None:
    for _ in range(2):
        with bank.transaction(kind) as connection:
            assert credits_back(connection) == NothingThere()

    with bank.transaction(kind) as connection, pytest.raises(Terminal) as refused:
        debits(connection)
    assert (refused.value.decisive, refused.value.code) == (True, "closed")
    assert bank.entries == []


@each_kind
def test_an_action_that_arrives_after_its_compensation_is_refused(bank: Bank, kind: Kind) -> None:
    with bank.transaction(kind) as connection:
        debits(connection)
    with bank.transaction(kind) as connection:
        credits_back(connection)

    with bank.transaction(kind) as connection, pytest.raises(Terminal) as refused:
        debits(connection)
    assert (refused.value.decisive, refused.value.code) == (True, "undone")
    assert bank.entries == [DEBIT, CREDIT]


def test_an_effect_the_log_knows_and_the_barrier_does_not_is_not_undone(bank: Bank) -> None:
    with bank.transaction() as connection:
        assert credits_back(connection, effect="entry-1") == NothingThere()

    assert (bank.entries, bank.states) == ([], ["closed"])


# -- which effect ----------------------------------------------------------------------------------


def test_what_was_undone_unnamed_is_not_undone_again_once_the_log_knows_its_name(
    bank: Bank,
) -> None:
    with bank.transaction() as connection:
        debits(connection)
    answers = []
    for known in (None, "entry-1"):
        with bank.transaction() as connection:
            answers.append(credits_back(connection, effect=known))

    assert answers[0] == answers[1]
    assert bank.entries == [DEBIT, CREDIT]


def test_another_effect_than_the_barriers_is_neither_undone_nor_called_undone(bank: Bank) -> None:
    with bank.transaction() as connection:
        debits(connection)
        credits_back(connection, effect="entry-1")

    with bank.transaction() as connection, pytest.raises(Terminal, match=r"'entry-7'.*'entry-1'"):
        credits_back(connection, effect="entry-7")
    assert bank.entries == [DEBIT, CREDIT]


def test_an_undo_that_proved_undone_is_done_again_under_its_new_key(bank: Bank) -> None:
    with bank.transaction() as connection:
        debits(connection)
    for generation in (1, 2, 2, 1):
        with bank.transaction() as connection:
            credits_back(connection, effect="entry-1", undo_generation=generation)

    assert bank.entries == [DEBIT, CREDIT, CREDIT]


def test_a_later_generation_is_a_new_action_and_the_earlier_one_is_refused(bank: Bank) -> None:
    with bank.transaction() as connection:
        effect = debits(connection, generation=2)

    with bank.transaction() as connection, pytest.raises(Terminal):
        debits(connection, generation=1)
    with bank.transaction() as connection:
        credits_back(connection, generation=2, effect=effect.reference)
    assert bank.entries == [DEBIT, CREDIT]


def test_a_later_generation_acts_after_the_earlier_one_was_undone(bank: Bank) -> None:
    with bank.transaction() as connection:
        debits(connection)
        credits_back(connection, effect="entry-1")
        debits(connection, generation=2)

    assert bank.entries == [DEBIT, CREDIT, DEBIT]


def test_a_later_generation_finds_the_effect_of_the_earlier_one_that_stands(bank: Bank) -> None:
    with bank.transaction() as connection:
        first = debits(connection)
    with bank.transaction() as connection:
        assert debits(connection, generation=2) == first
    with bank.transaction() as connection:
        credits_back(connection, generation=2, effect=first.reference)

    assert bank.entries == [DEBIT, CREDIT]


def test_a_compensation_shuts_the_doors_of_every_generation(bank: Bank) -> None:
    with bank.transaction() as connection:
        credits_back(connection, generation=2)

    for generation in (1, 2):
        with bank.transaction() as connection, pytest.raises(Terminal):
            debits(connection, generation=generation)
    assert bank.entries == []


# -- the caller's transaction ----------------------------------------------------------------------


@each_kind
def test_a_rollback_leaves_nothing_and_the_action_can_be_tried_again(
    bank: Bank, kind: Kind
) -> None:
    connection = bank.open(kind)
    debits(connection)
    connection.rollback()
    credits_back(connection)
    connection.rollback()

    assert (bank.entries, bank.states) == ([], [])
    debits(connection)
    connection.commit()
    connection.close()
    assert (bank.entries, bank.states) == ([DEBIT], ["done"])


@each_kind
@pytest.mark.parametrize("error", [Terminal("no cover"), psycopg.ProgrammingError("broken")])
def test_a_refused_action_leaves_nothing_even_if_its_caller_commits(
    bank: Bank, kind: Kind, error: Exception
) -> None:
    def refuse() -> None:
        book(connection, DEBIT)
        raise error

    with bank.transaction(kind) as connection:
        with pytest.raises(type(error)) as raised:
            barrier.act(connection, context(), refuse)
        book(connection, 1)

    assert raised.value is error
    assert (bank.entries, bank.states) == ([1], [])


def test_an_answer_that_cannot_be_kept_leaves_nothing(bank: Bank) -> None:
    def too_much() -> str:
        book(connection, DEBIT)
        return "x" * 70_000

    with bank.transaction() as connection, pytest.raises(PayloadError, match="larger than"):
        barrier.act(connection, context(), too_much)

    assert (bank.entries, bank.states) == ([], [])


@pytest.mark.parametrize("kind", ["connection", "psycopg"])
def test_autocommit_is_refused_before_anything_is_written(bank: Bank, kind: Kind) -> None:
    connection: LocalConnection
    if kind == "psycopg":
        connection = psycopg.connect(bank.url.replace("+psycopg", ""), autocommit=True)
    else:
        connection = bank.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    with pytest.raises((psycopg.Error, sqlalchemy.exc.DBAPIError), match="transaction block"):
        debits(connection)
    connection.close()

    assert (bank.entries, bank.states) == ([], [])


def test_an_action_that_commits_by_itself_is_a_question_and_not_an_answer(bank: Bank) -> None:
    def commits() -> None:
        book(connection, DEBIT)
        connection.commit()

    connection = bank.open("connection")
    with pytest.raises(sqlalchemy.exc.DBAPIError, match="savepoint"):
        barrier.act(connection, context(), commits)
    connection.rollback()

    with pytest.raises(OutcomeUnknown, match="did it take effect"):
        debits(connection)
    with pytest.raises(OutcomeUnknown, match="did it take effect"):
        credits_back(connection)
    connection.close()
    assert bank.entries == [DEBIT]


def test_each_verb_is_for_its_own_direction(bank: Bank) -> None:
    with bank.transaction() as connection:
        with pytest.raises(ValueError, match="`undo` for compensations"):
            barrier.act(connection, context(direction="compensate"), lambda: None)
        with pytest.raises(ValueError, match="`act` is for steps"):
            barrier.undo(connection, context(), lambda _: None)


def test_a_key_that_is_not_the_steps_is_refused(bank: Bank) -> None:
    foreign = context()
    foreign.step_key = "minted"

    with bank.transaction() as connection, pytest.raises(ValueError, match="no key of this step"):
        barrier.act(connection, foreign, lambda: None)
