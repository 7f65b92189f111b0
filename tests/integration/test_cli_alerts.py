"""`amends alerts` and `amends acknowledge` on a real database."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from click.testing import CliRunner, Result

from orchestrator.context import Effect, Movement
from orchestrator.errors import Terminal
from orchestrator.storage.alerts import Alert, Alerts
from orchestrator.storage.database import Database
from recovery.cli.failures import ExitCode
from recovery.cli.program import amends
from tests.histories import doing, saga
from tests.integration.engine import Engine

Run = Callable[..., Result]


def hold(_: Any) -> Effect:
    moved = Movement(kind="authorize", amount_minor=1990, currency="EUR")
    return Effect(reference="p1", movements=[moved])


def refuse(_: Any) -> None:
    raise Terminal("no", decisive=True)


HELD = saga(doing("pay", run=hold, compensation=refuse), doing("ship", run=refuse), name="held")


@pytest.fixture
def run(database: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AMENDS_DATABASE_URL", database)
    return lambda *arguments: CliRunner().invoke(amends, arguments, prog_name="amends")


@pytest.fixture
def alerts(database: str) -> Iterator[list[Alert]]:
    """Those of two sagas that are parked."""
    engine = Engine(database, HELD)
    for number in range(2):
        saga_id = engine.client.start("held", {"amount": 1}, key=f"A-{number}").id
        engine.finish(saga_id)
    yield Alerts(Database(engine.pool)).raise_parked()
    engine.close()


def objects(answer: Result) -> list[dict[str, Any]]:
    assert answer.exit_code == 0, answer.output
    return [json.loads(line) for line in answer.stdout.splitlines()]


def test_the_list_says_what_where_how_much_and_what_next(run: Run, alerts: list[Alert]) -> None:
    listed = objects(run("alerts", "--json"))
    assert {each["id"] for each in listed} == {str(each.id) for each in alerts}
    first = next(each for each in listed if each["key"] == "A-0")
    assert (first["kind"], first["saga"], first["state"]) == (
        "saga_parked",
        "held",
        "failed_compensation",
    )
    assert first["money_at_risk"] == {"EUR": {"held_minor": 1990, "captured_minor": 0}}
    assert first["next"] == f"amends show {first['saga_id']}"
    assert "EUR 1990" in run("alerts").stdout


def test_an_acknowledged_alert_is_listed_only_when_asked_for(run: Run, alerts: list[Alert]) -> None:
    chosen = str(alerts[0].id)
    done = objects(run("acknowledge", chosen, "--reason", "on it", "--actor", "ada", "--json"))
    assert (done[0]["closed_by"], done[0]["acknowledged"]) == ("ada", "on it")
    assert [each["id"] for each in objects(run("alerts", "--json"))] == [str(alerts[1].id)]
    listed = objects(run("alerts", "--all", "--json"))
    assert {each["closed_by"] for each in listed} == {"ada", None}


def test_without_an_actor_the_user_of_the_machine_is_named(run: Run, alerts: list[Alert]) -> None:
    [done] = objects(run("acknowledge", str(alerts[0].id), "--reason", "on it", "--json"))
    assert done["closed_by"].startswith("cli")


def test_a_second_acknowledgement_is_a_conflict_that_names_the_first(
    run: Run, alerts: list[Alert]
) -> None:
    chosen = str(alerts[0].id)
    run("acknowledge", chosen, "--reason", "on it", "--actor", "ada")
    again = run("acknowledge", chosen, "--reason", "me too", "--actor", "bob")
    assert again.exit_code == ExitCode.CONFLICT
    assert "ada" in again.stderr


@pytest.mark.parametrize("named", ["4f0c", str(UUID(int=1)), "nonsense", "f" * 33])
def test_an_alert_that_is_not_there_is_not_found(run: Run, named: str) -> None:
    answer = run("acknowledge", named, "--reason", "on it")
    assert answer.exit_code == ExitCode.NOT_FOUND
    assert "amends alerts" in answer.stderr


def test_a_beginning_that_names_two_is_refused(
    run: Run, alerts: list[Alert], database: str
) -> None:
    engine = Engine(database, HELD)
    for number, each in enumerate(alerts):
        engine.sql(
            "UPDATE amends.alert SET id = :new WHERE id = :old",
            new=UUID(int=0xABCD << 112 | number),
            old=each.id,
        )
    engine.close()
    answer = run("acknowledge", "abcd", "--reason", "on it")
    assert answer.exit_code == ExitCode.USAGE
    assert run("acknowledge", str(UUID(int=0xABCD << 112)), "--reason", "on it").exit_code == 0


@pytest.mark.parametrize("arguments", [["abcd"], ["abcd", "--reason", "  "]])
def test_no_reason_is_no_acknowledgement(run: Run, arguments: list[str]) -> None:
    assert run("acknowledge", *arguments).exit_code == ExitCode.USAGE
