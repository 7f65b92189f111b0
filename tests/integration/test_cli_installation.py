"""``amends installation`` and what `doctor` says of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from recovery.cli.program import amends
from tests.servers import INSTALLATION

Run = Callable[..., Result]


@pytest.fixture
def run(database: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AMENDS_DATABASE_URL", database)
    return lambda *words: CliRunner().invoke(amends, [*words], prog_name="amends")


@pytest.fixture
def moved(database: str) -> None:
    """The database as after a restore: its identity is another one."""
    with psycopg.connect(database.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("UPDATE amends.installation SET identity = 'elsewhere/1'")


def doctor(run: Run) -> dict[str, Any]:
    findings = [json.loads(each) for each in run("doctor", "--json").stdout.splitlines()]
    [found] = [each for each in findings if each["check"] == "installation"]
    return dict(found)


def test_it_is_shown_and_named_before_the_first_saga(run: Run) -> None:
    assert run("installation").stdout.strip() == INSTALLATION
    assert run("installation", "set", "eu-shop").exit_code == 0
    assert run("installation").stdout.strip() == "eu-shop"
    assert run("migrate", "--installation", "us-shop").exit_code == 0
    assert doctor(run) | {"hint": ""} == {
        "check": "installation",
        "verdict": "ok",
        "found": "us-shop",
        "hint": "",
    }
    refused = run("installation", "set", "US shop")
    assert (refused.exit_code, "no name for an installation" in refused.stderr) == (2, True)


@pytest.mark.usefixtures("moved")
def test_a_restored_database_fails_the_check_up_until_somebody_decides(run: Run) -> None:
    assert doctor(run)["verdict"] == "fail"
    assert "amends installation keep" in run("installation").stdout

    assert run("installation", "keep", "--reason", "the old server burned").exit_code == 0

    assert doctor(run)["verdict"] == "ok"
    assert run("installation").stdout.strip() == INSTALLATION


@pytest.mark.usefixtures("moved")
def test_a_copy_gets_another_name_and_closes_what_is_in_flight(run: Run) -> None:
    order = ["order_id=1001", "customer_id=C-7", "units=1", "amount_minor=0", "currency=EUR"]
    started = run("start", "checkout", "--key", "1001", *(f"--set={each}" for each in order))
    assert started.exit_code == 0, started.output

    refused = run("installation", "new", INSTALLATION, "--reason", "staging")
    renewed = run("installation", "--json", "new", "staging", "--reason", "staging")

    assert refused.exit_code == 5
    assert json.loads(renewed.stdout) == {"installation": "staging", "closed": 1}
    assert "resolved" in run("list").stdout
    assert doctor(run)["found"] == "staging"


def test_workers_of_another_installation_are_told(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMENDS_INSTALLATION", "staging")
    found = doctor(run)
    assert found["verdict"] == "fail"
    assert "AMENDS_INSTALLATION" in found["found"]
