"""Actions and compensations of one step at the same time, in open transactions that block."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from orchestrator.context import Effect, NothingThere
from orchestrator.errors import Terminal
from orchestrator.storage.barrier import LocalConnection
from tests.bank import (
    CREDIT,
    DEBIT,
    KINDS,
    Bank,
    Kind,
    Party,
    credits_back,
    debits,
    execute,
    is_no_verdict,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def parties(bank: Bank) -> Iterator[Callable[..., Party]]:
    """Makes parties; their connections end with the test."""
    made: list[Party] = []

    def make(kind: Kind = "connection", isolation: str = "READ COMMITTED") -> Party:
        made.append(Party(bank, kind, isolation))
        return made[-1]

    yield make
    for each in made:
        each.close()


Parties = Callable[..., Party]


two_kinds = pytest.mark.parametrize(("kind", "other"), list(itertools.pairwise((*KINDS, KINDS[0]))))


# -- two at a time ---------------------------------------------------------------------------------


@two_kinds
def test_a_duplicate_waits_for_the_action_and_gets_its_answer(
    bank: Bank, parties: Parties, kind: Kind, other: Kind
) -> None:
    first = parties(kind).does(debits)
    second = parties(other).does(debits)
    assert second.is_blocked

    first.commit()

    assert second.answer == first.answer
    second.commit()
    assert bank.entries == [DEBIT]


@two_kinds
def test_a_duplicate_acts_when_the_action_it_waited_for_is_rolled_back(
    bank: Bank, parties: Parties, kind: Kind, other: Kind
) -> None:
    first = parties(kind).does(debits)
    second = parties(other).does(debits)
    assert second.is_blocked

    first.rollback()

    assert second.answer != first.answer
    second.commit()
    assert bank.entries == [DEBIT]


def test_a_compensation_waits_for_the_action_and_credits_back_it(
    bank: Bank, parties: Parties
) -> None:
    action = parties().does(debits)
    compensation = parties().does(credits_back)
    assert compensation.is_blocked

    action.commit()

    assert compensation.answer != NothingThere()
    compensation.commit()
    assert bank.entries == [DEBIT, CREDIT]


def test_a_compensation_finds_nothing_when_the_action_is_rolled_back(
    bank: Bank, parties: Parties
) -> None:
    action = parties().does(debits)
    compensation = parties().does(credits_back)
    assert compensation.is_blocked

    action.rollback()

    assert compensation.answer == NothingThere()
    compensation.commit()
    assert isinstance(action.does(debits).error, Terminal)
    assert bank.entries == []


@pytest.mark.parametrize("commits", [True, False])
def test_an_action_waits_for_the_compensation_that_closes_the_door(
    bank: Bank, parties: Parties, commits: bool
) -> None:
    compensation = parties().does(credits_back)
    action = parties().does(debits)
    assert action.is_blocked

    compensation.commit() if commits else compensation.rollback()

    assert isinstance(action.error, Terminal) is commits
    action.commit()
    assert bank.entries == ([] if commits else [DEBIT])


@pytest.mark.parametrize("commits", [True, False])
def test_an_action_waits_for_the_undo_that_is_under_way(
    bank: Bank, parties: Parties, commits: bool
) -> None:
    first = parties().does(debits)
    first.commit()
    compensation = parties().does(credits_back)
    second = parties().does(debits)
    assert second.is_blocked

    compensation.commit() if commits else compensation.rollback()

    assert isinstance(second.error, Terminal) is commits
    assert commits or second.answer == first.answer
    assert bank.entries == ([DEBIT, CREDIT] if commits else [DEBIT])


def test_two_compensations_undo_once(bank: Bank, parties: Parties) -> None:
    parties().does(debits).commit()
    first = parties().does(credits_back)
    second = parties().does(credits_back)
    assert second.is_blocked

    first.commit()

    assert second.answer == first.answer
    second.commit()
    assert bank.entries == [DEBIT, CREDIT]


# -- contention ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize(
    ("early", "late"), [(debits, debits), (debits, credits_back), (credits_back, debits)]
)
def test_at_a_stricter_level_the_second_is_contention_and_then_right(
    bank: Bank, parties: Parties, kind: Kind, isolation: str, early: Any, late: Any
) -> None:
    first = parties(kind, isolation).does(early)
    second = parties(kind, isolation).does(late)
    assert second.is_blocked

    first.commit()

    assert is_no_verdict(second.error)
    second.rollback()
    again = second.does(late)
    assert isinstance(again.error, Terminal) if early is credits_back else again.error is None
    second.commit()
    assert (
        bank.entries
        == {debits: [DEBIT], credits_back: [DEBIT, CREDIT]}[late][: 2 * (early is debits)]
    )


def test_a_lock_timeout_is_contention_and_then_right(bank: Bank, parties: Parties) -> None:
    def impatient(connection: LocalConnection) -> Effect:
        execute(connection, "SET LOCAL lock_timeout = '100ms'")
        return debits(connection)

    first = parties().does(debits)
    second = parties().does(impatient)

    assert is_no_verdict(second.error)
    first.commit()
    assert second.does(debits).answer == first.answer
    assert bank.entries == [DEBIT]


def test_a_deadlock_is_contention_for_one_and_none_for_the_other(
    bank: Bank, parties: Parties
) -> None:
    one, other = parties(), parties()
    one.does(partial(debits, order="A-1"))
    other.does(partial(debits, order="A-2"))
    one.does(partial(debits, order="A-2"))
    assert one.is_blocked
    other.doing = other._thread.submit(partial(debits, order="A-1"), other.connection)

    victim = next(each for each in itertools.cycle((one, other)) if each.has_ended)
    assert is_no_verdict(victim.error)
    victim.rollback()
    survivor = other if victim is one else one
    assert survivor.error is None
    survivor.commit()
    assert bank.entries == [DEBIT, DEBIT]


# -- the process dies ------------------------------------------------------------------------------

_HOLDS = """
import sys
from tests.bank import Bank, book, context
from orchestrator.storage import barrier

connection = Bank(sys.argv[1]).open(sys.argv[2])

def action():
    book(connection, -100)
    print("inside", flush=True)
    sys.stdin.read()

barrier.act(connection, context(), action)
"""


@pytest.mark.parametrize("kind", ["connection", "psycopg"])
@pytest.mark.parametrize("next_one", [debits, credits_back])
def test_a_process_killed_inside_its_transaction_leaves_the_next_one_the_first(
    bank: Bank, parties: Parties, kind: Kind, next_one: Callable[[LocalConnection], Any]
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDS, bank.url, kind],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "inside\n"
        second = parties().does(next_one)
        assert second.is_blocked

        os.kill(process.pid, signal.SIGKILL)

        answer = second.answer
    second.commit()
    assert (answer == NothingThere()) is (next_one is credits_back)
    assert bank.entries == ([DEBIT] if next_one is debits else [])


def test_a_transaction_that_stands_still_ends_by_its_timeout(bank: Bank, parties: Parties) -> None:
    def stands_still(connection: LocalConnection) -> Effect:
        execute(connection, "SET LOCAL idle_in_transaction_session_timeout = '500ms'")
        return debits(connection)

    first = parties("psycopg").does(stands_still)
    second = parties().does(debits)

    assert second.answer != first.answer
    second.commit()
    with pytest.raises(Exception, match=r"idle-in-transaction|closed"):
        first.commit()
    assert bank.entries == [DEBIT]
