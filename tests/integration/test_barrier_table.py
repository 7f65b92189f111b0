"""The barrier's table: made by many at once, pruned by age; and the example of the page."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import Retriable
from orchestrator.storage import barrier
from tests.bank import KINDS, Bank, context, credits_back, debits, execute, is_no_verdict

PAGE = Path(__file__).parents[2] / "docs/writing-a-saga.md"


def test_many_create_the_barrier_at_once(bank: Bank) -> None:
    with bank.transaction() as connection:
        execute(connection, "DROP SCHEMA amends CASCADE")
    gate = threading.Barrier(8)

    def create(number: int) -> None:
        with bank.transaction(KINDS[number % 3]) as connection:
            execute(connection, "SELECT to_regclass('amends.barrier')")
            gate.wait(timeout=20)
            barrier.create_barrier(connection)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(create, range(8)))
    with bank.transaction() as connection:
        debits(connection)
        barrier.create_barrier(connection)
    assert bank.states == ["done"]


def test_the_printed_sql_makes_the_same_table_and_may_run_twice(bank: Bank) -> None:
    columns = (
        "SELECT column_name, data_type, is_nullable, column_default "
        "FROM information_schema.columns WHERE table_schema = 'amends' ORDER BY ordinal_position"
    )
    made = bank.look(columns)
    with bank.transaction("psycopg") as connection:
        execute(connection, "DROP SCHEMA amends CASCADE")
        execute(connection, barrier.BARRIER_SQL)
        execute(connection, barrier.BARRIER_SQL)

    assert len(made) == 7
    assert bank.look(columns) == made


def test_only_rows_that_nobody_wrote_to_for_so_long_are_pruned(bank: Bank) -> None:
    with bank.transaction() as connection:
        for order in ("old", "undone lately", "new"):
            debits(connection, order=order)
        execute(
            connection,
            "UPDATE amends.barrier SET written_at = written_at - interval '91 days' "
            "WHERE saga_key <> 'new'",
        )
        credits_back(connection, order="undone lately")
    with bank.transaction() as connection:
        assert barrier.prune(connection, timedelta(days=90)) == 1

    kept = bank.look("SELECT saga_key FROM amends.barrier ORDER BY saga_key")
    assert kept == [("new",), ("undone lately",)]


def test_a_row_pruned_under_our_eyes_is_no_verdict(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = barrier._insert

    def insert_and_lose(*arguments: Any) -> bool:
        is_first = insert(*arguments)
        with bank.transaction() as other:
            barrier.prune(other, timedelta(0))
        return is_first

    with bank.transaction() as connection:
        debits(connection)
    monkeypatch.setattr(barrier, "_insert", insert_and_lose)
    with bank.transaction() as connection, pytest.raises(Retriable) as found:
        debits(connection)
    assert is_no_verdict(found.value)


def test_the_example_of_the_page_does_what_the_page_says(bank: Bank) -> None:
    page: dict[str, Any] = {"__name__": "documented"}
    for body in re.findall(
        r"^```python run\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE
    ):
        exec(compile(body, PAGE.name, "exec"), page)  # noqa: S102 - our own page
        if "transfer" in page:
            break
    page["bank"] = lambda: bank.engine
    with bank.transaction() as connection:
        execute(connection, "CREATE TABLE account (name text, balance_minor int)")
        execute(connection, "INSERT INTO account VALUES ('ours', 150)")
    moves = {"debit": page["debit"], "credit_back": page["credit_back"]}
    balances = []
    for verb in ("debit", "debit", "credit_back", "credit_back"):
        ctx = context(direction="forward" if verb == "debit" else "compensate")
        ctx.payload = page["Transfer"](account="ours", amount_minor=100)
        moves[verb](ctx)
        balances += bank.look("SELECT balance_minor FROM account")

    assert balances == [(50,), (50,), (150,), (150,)]
