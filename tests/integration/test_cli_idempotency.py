"""`amends idempotency`: what is unknown of idempotent calls, and a person's word on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from orchestrator.errors import OutcomeUnknown
from orchestrator.idempotency import IdempotencyState, idempotent
from orchestrator.storage.database import create_engine
from orchestrator.storage.idempotency import PostgresIdempotencyStore
from recovery.cli.failures import ExitCode
from recovery.cli.program import amends

Run = Callable[..., Result]
CALL = ("idempotency", "shop.charge", "order-1")
NOT_DONE = (*CALL, "--not-done", "--reason", "asked twice", "--actor", "ann")


@pytest.fixture
def run(database: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AMENDS_DATABASE_URL", database)
    return lambda *arguments: CliRunner().invoke(amends, arguments, prog_name="amends")


@pytest.fixture
def store(database: str) -> Iterator[PostgresIdempotencyStore]:
    engine = create_engine(database)
    yield PostgresIdempotencyStore(engine)
    engine.dispose()


class Till:
    """A function whose answer is lost on the way, as long as it is told so."""

    def __init__(self, store: PostgresIdempotencyStore) -> None:
        self.loses = True
        self.count = 0

        @idempotent(store, scope="shop.charge")
        def charge(amount: int, idempotency_key: str) -> dict[str, int]:
            self.count += 1
            if self.loses:
                raise OutcomeUnknown("no answer")
            return {"charged": amount}

        self.charge = charge

    def is_lost(self) -> None:
        with pytest.raises(OutcomeUnknown):
            self.charge(10, "order-1")


@pytest.fixture
def till(store: PostgresIdempotencyStore) -> Till:
    made = Till(store)
    made.is_lost()
    return made


def objects(answer: Result) -> list[dict[str, Any]]:
    assert answer.exit_code == 0, answer.stderr
    return [json.loads(line) for line in answer.stdout.splitlines()]


def test_what_is_unknown_is_listed_with_what_settles_it(run: Run, till: Till) -> None:
    [found] = objects(run("idempotency", "--json"))
    assert (found["scope"], found["key"], found["state"]) == ("shop.charge", "order-1", "unknown")
    assert "no answer" in found["error"]
    assert found["seen"] in run("idempotency").stdout


def test_a_result_is_what_later_callers_get(
    run: Run, till: Till, store: PostgresIdempotencyStore
) -> None:
    [found] = objects(run("idempotency", "--json"))
    said = ("--result", '{"charged": 10}', "--reason", "pay_17", "--seen", found["seen"])
    answer = run(*CALL, *said, "--actor", "ann")
    assert answer.stdout == "shop.charge order-1: it happened (by ann)\n"
    assert till.charge(10, "order-1") == {"charged": 10}
    assert till.count == 1
    assert run("idempotency").stdout.count("\n") == 1
    record = store.read("shop.charge", "order-1")
    assert record is not None
    assert record.state is IdempotencyState.SUCCEEDED


def test_what_did_not_happen_runs_again_and_who_said_so_is_kept(
    run: Run, till: Till, store: PostgresIdempotencyStore
) -> None:
    assert run(*NOT_DONE).exit_code == 0
    till.loses = False
    assert till.charge(10, "order-1") == {"charged": 10}
    assert till.count == 2

    store.prune()
    [said] = objects(run("idempotency", "--settled", "--json"))
    assert (said["outcome"], said["settled_by"], said["settled_because"]) == (
        "released",
        "ann",
        "asked twice",
    )
    assert "asked twice" in run("idempotency", "--settled").stdout


def test_who_comes_second_is_told(run: Run, till: Till) -> None:
    assert run(*NOT_DONE).exit_code == 0
    second = run(*CALL, "--result", "1", "--reason", "it is there", "--actor", "bob")
    assert second.exit_code == ExitCode.CONFLICT
    assert "only an unknown is settled" in second.stderr
    assert len(objects(run("idempotency", "--settled", "--json"))) == 1


def test_a_word_on_an_earlier_call_does_not_settle_a_later_one(run: Run, till: Till) -> None:
    [earlier] = objects(run("idempotency", "--json"))
    assert run(*NOT_DONE).exit_code == 0
    till.is_lost()

    late = run(*CALL, "--not-done", "--reason", "asked", "--seen", earlier["seen"])

    assert late.exit_code == ExitCode.CONFLICT
    assert "used again since" in late.stderr
    [found] = objects(run("idempotency", "--json"))
    assert found["seen"] != earlier["seen"]


@pytest.mark.parametrize(
    "arguments",
    [
        CALL,
        (*CALL, "--not-done"),
        (*CALL, "--not-done", "--reason", " "),
        (*CALL, "--not-done", "--result", "1", "--reason", "both"),
        (*CALL, "--result", "{", "--reason", "no JSON"),
        (*CALL, "--not-done", "--reason", "x", "--settled"),
        ("idempotency", "shop.charge", "--not-done", "--reason", "which?"),
        ("idempotency", "--not-done", "--reason", "which?"),
    ],
)
def test_what_is_said_by_halves_settles_nothing(
    run: Run, till: Till, arguments: tuple[str, ...]
) -> None:
    assert run(*arguments).exit_code == ExitCode.USAGE
    assert len(objects(run("idempotency", "--json"))) == 1


def test_a_settlement_is_never_changed(run: Run, till: Till, database: str) -> None:
    assert run(*NOT_DONE).exit_code == 0
    with psycopg.connect(database.replace("+psycopg", ""), autocommit=True) as connection:
        for statement in (
            "UPDATE amends.idempotency_settlement SET settled_by = 'bob'",
            "DELETE FROM amends.idempotency_settlement",
            "TRUNCATE amends.idempotency_settlement",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
