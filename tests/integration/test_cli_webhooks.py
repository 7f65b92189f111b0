"""`amends webhooks` as an operator types it; what doctor and prune say of the same rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy
from click.testing import CliRunner, Result

from orchestrator.storage import migrate
from orchestrator.storage.database import Database, create_engine
from recovery.cli.failures import ExitCode
from recovery.cli.program import amends
from steps.storage.webhook_inbox import Delivery, WebhookRows
from tests.servers import Databases

Run = Callable[..., Result]


@pytest.fixture
def engine(database: str) -> Iterator[sqlalchemy.Engine]:
    made: sqlalchemy.Engine = create_engine(database)
    yield made
    made.dispose()


@pytest.fixture
def run(database: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("AMENDS_DATABASE_URL", database)
    return lambda *arguments: CliRunner().invoke(amends, arguments, prog_name="amends")


def keep(engine: sqlalchemy.Engine, *ids: str) -> None:
    for each in ids:
        assert WebhookRows(Database(engine)).keep(
            Delivery(
                gateway="sandbox",
                account="",
                event_id=each,
                kind="payment.authorized",
                body=b"{}",
                signed_at=datetime.now(UTC),
            )
        )


def change(engine: sqlalchemy.Engine, what: str, event_id: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"UPDATE shop.webhook SET {what} WHERE event_id = %(id)s",  # noqa: S608 - our own
            {"id": event_id},
        )


def objects(answer: Result) -> list[dict[str, Any]]:
    assert answer.exit_code == 0, answer.stderr
    return [json.loads(line) for line in answer.stdout.splitlines()]


PROCESSED = "processed_at = clock_timestamp() - interval '91 days', due_at = NULL, outcome = 'told'"
PARKED = "parked_at = clock_timestamp(), due_at = clock_timestamp() + interval '1 day'"


def test_what_waits_and_what_is_parked_is_listed(engine: sqlalchemy.Engine, run: Run) -> None:
    keep(engine, "evt_1", "evt_2", "evt_3")
    change(engine, PROCESSED, "evt_1")
    change(engine, PARKED, "evt_2")

    listed = {row["event_id"]: row["stands"] for row in objects(run("webhooks", "--json"))}
    everything = {
        row["event_id"]: row["stands"] for row in objects(run("webhooks", "--all", "--json"))
    }

    assert listed == {"evt_2": "parked", "evt_3": "waiting"}
    assert everything == {**listed, "evt_1": "told"}
    assert "body" not in objects(run("webhooks", "--json"))[0]


def test_a_parked_one_is_due_again_when_an_operator_says_so(
    engine: sqlalchemy.Engine, run: Run
) -> None:
    keep(engine, "evt_1", "evt_2")
    change(engine, PARKED, "evt_1")
    [parked] = [row for row in objects(run("webhooks", "--json")) if row["event_id"] == "evt_1"]

    assert objects(run("webhooks", str(parked["id"]), "--retry", "--json")) == [{"due": 1}]

    [again] = objects(run("webhooks", str(parked["id"]), "--json"))
    assert again["stands"] == "waiting"
    assert objects(run("webhooks", "--retry", "--json")) == [{"due": 2}]


def test_a_dismissed_one_keeps_the_reason_and_is_never_due_again(
    engine: sqlalchemy.Engine, run: Run
) -> None:
    keep(engine, "evt_1")
    [row] = objects(run("webhooks", "--json"))
    named = str(row["id"])

    assert run("webhooks", named, "--dismiss").exit_code == ExitCode.USAGE
    dismissed = run("webhooks", named, "--dismiss", "--reason", "by phone", "--actor", "ada")

    assert dismissed.exit_code == 0, dismissed.stderr
    assert objects(run("webhooks", "--json")) == []
    [row] = objects(run("webhooks", "--all", "--json"))
    assert (row["stands"], row["note"], row["due_at"]) == ("dismissed", "ada: by phone", None)
    again = run("webhooks", named, "--dismiss", "--reason", "again")
    assert again.exit_code == ExitCode.NOT_FOUND


def test_an_id_that_does_not_wait_is_said_to(engine: sqlalchemy.Engine, run: Run) -> None:
    keep(engine, "evt_1")
    assert run("webhooks", "4711", "--retry").exit_code == ExitCode.NOT_FOUND


def test_doctor_warns_of_one_that_waits_for_a_person(engine: sqlalchemy.Engine, run: Run) -> None:
    def finding() -> str:
        findings = [json.loads(line) for line in run("doctor", "--json").stdout.splitlines()]
        [found] = [each for each in findings if each["check"] == "webhooks"]
        return str(found["verdict"])

    keep(engine, "evt_1")
    assert finding() == "ok"
    change(engine, PARKED, "evt_1")
    assert finding() == "warn"


def test_prune_drops_what_was_processed_long_ago(engine: sqlalchemy.Engine, run: Run) -> None:
    keep(engine, "evt_1", "evt_2")
    change(engine, PROCESSED, "evt_1")

    assert objects(run("prune", "--dry-run", "--json"))[0]["webhooks"] == 0
    assert objects(run("prune", "--json"))[0]["webhooks"] == 1
    assert [row["event_id"] for row in objects(run("webhooks", "--all", "--json"))] == ["evt_2"]


def test_a_database_without_the_shop_has_none(
    databases: Databases, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = databases.create()
    engine: sqlalchemy.Engine = create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA shop CASCADE")
    migrate.upgrade(engine)
    monkeypatch.setenv("AMENDS_DATABASE_URL", url)

    assert run("webhooks").exit_code == ExitCode.NOT_FOUND
    assert objects(run("prune", "--json"))[0]["webhooks"] == 0
    engine.dispose()
    databases.drop(url)
