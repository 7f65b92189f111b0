"""`amends reconcile`, `amends discrepancies`, `amends close-discrepancy`, and beat's task."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from orchestrator.definitions import Definitions
from orchestrator.storage.database import Database
from recovery.cli.failures import ExitCode
from recovery.cli.program import amends
from recovery.reconciliation.nightly import reconcile_if_due
from recovery.reconciliation.storage.findings import Findings
from steps.gateways.sandbox.process import SandboxProcess
from tests.integration.engine import Engine, events
from tests.integration.reconciliation.test_daily import completed
from tests.integration.reconciliation.test_ledger import SHOP
from tests.yesterday import NOON, YESTERDAY
from workers.settings import Settings

HEADER = "at,operation,reference,payment_reference,order_reference,amount_minor,currency,key\n"
Run = Callable[..., Result]


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = Engine(database, SHOP)
    yield made
    made.close()


@pytest.fixture
def run(database: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AMENDS_DATABASE_URL", database)
    monkeypatch.delenv("AMENDS_GATEWAY_URL", raising=False)
    return lambda *arguments: CliRunner().invoke(amends, arguments, prog_name="amends")


def report(path: Path, *captures: tuple[str, int]) -> str:
    rows = [
        f"{NOON.isoformat()},capture,p-{order},p-{order},{order},{minor},EUR,k\n"
        for order, minor in captures
    ]
    path.write_text(HEADER + "".join(rows))
    return str(path)


def given(tmp_path: Path, *captures: tuple[str, int]) -> list[str]:
    """A report with empty neighbours, of a gateway of that name."""
    empty = report(tmp_path / "empty.csv")
    day = report(tmp_path / "day.csv", *captures)
    return ["--report", day, "--before", empty, "--after", empty, "--gateway", "bank"]


def rows(run: Run, *arguments: str) -> list[dict[str, Any]]:
    answer = run("discrepancies", "--json", *arguments)
    assert answer.exit_code == 0, answer.output
    return [json.loads(each) for each in answer.stdout.splitlines()]


def test_what_is_open_is_told_in_words_numbers_and_the_exit_code(
    engine: Engine, run: Run, tmp_path: Path
) -> None:
    answer = run("reconcile", *given(tmp_path, ("x", 100)))

    assert answer.exit_code == ExitCode.DISCREPANCIES, answer.output
    assert answer.stdout.splitlines() == [
        f"bank {YESTERDAY}: 0 movements match",
        f"  {'missing_internal':20} {1:>9}  1 open",
        f"amends discrepancies --date {YESTERDAY} lists them",
    ]
    assert json.loads(run("reconcile", "--json", *given(tmp_path, ("x", 100))).stdout) == {
        "gateway": "bank",
        "day": str(YESTERDAY),
        "run": 2,
        "matched": 0,
        "missing_internal": 1,
        "missing_gateway": 0,
        "amount_mismatch": 0,
        "status_mismatch": 0,
        "currency_mismatch": 0,
        "duplicate_internal": 0,
        "duplicate_gateway": 0,
        "invalid_row": 0,
        "open": 1,
        "unjudged": 0,
        "failed_actions": 0,
    }
    assert run("reconcile", *given(tmp_path)).exit_code == 0


def test_one_is_closed_with_a_reason_as_it_was_seen(
    engine: Engine, run: Run, tmp_path: Path
) -> None:
    run("reconcile", *given(tmp_path, ("x", 100)))
    [found] = rows(run)
    closing = ["close-discrepancy", found["id"][:8], "--as", "resolved", "--reason", "by hand"]

    assert run(*closing, "--seen", str(found["version"] + 1)).exit_code == ExitCode.CONFLICT
    done = run(*closing, "--seen", str(found["version"]), "--actor", "ada")
    assert done.exit_code == 0
    assert done.stdout == "resolved: missing_internal p-x\n"
    assert run(*closing).exit_code == ExitCode.CONFLICT
    assert rows(run) == []
    [closed] = rows(run, "--all", "--date", str(YESTERDAY), "--gateway", "bank")
    assert (closed["closed_by"], closed["reason"]) == ("ada", "by hand")
    again = run("reconcile", *given(tmp_path, ("x", 100)))
    assert again.exit_code == 0
    assert "closed" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["reconcile"], ExitCode.USAGE),
        (["reconcile", "--report", "day.csv"], ExitCode.USAGE),
        (["reconcile", "--before", "day.csv"], ExitCode.USAGE),
        (["reconcile", "--report", "nowhere.csv", "--gateway", "bank"], ExitCode.USAGE),
        (["reconcile", "--report", "none.csv", "--gateway", "bank"], ExitCode.USAGE),
        (["reconcile", "--report", "day.csv", "--gateway", "bank", "--zone", "X"], ExitCode.USAGE),
        (["reconcile", "--report", "day.csv", "--gateway", "bank", "--date", "2999-01-01"],
         ExitCode.USAGE),
        (["reconcile", "--date", "yesterday"], ExitCode.USAGE),
        (["close-discrepancy", "abcd", "--as", "resolved", "--reason", "x"], ExitCode.NOT_FOUND),
        (["close-discrepancy", "x", "--as", "resolved", "--reason", "x"], ExitCode.NOT_FOUND),
        (["close-discrepancy", "abcd", "--as", "resolved"], ExitCode.USAGE),
        (["close-discrepancy", "abcd", "--as", "gone", "--reason", "x"], ExitCode.USAGE),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_and_keeps_nothing(
    engine: Engine, run: Run, tmp_path: Path, arguments: list[str], code: ExitCode
) -> None:
    report(tmp_path / "day.csv", ("x", 100))
    (tmp_path / "none.csv").write_text("hello\n")

    answer = run(*arguments)

    assert answer.exit_code == code, answer.output
    assert engine.sql("SELECT count(*) FROM reconciliation.run") == [(0,)]


def test_a_gateway_that_does_not_answer_is_told_as_unreachable(
    engine: Engine, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMENDS_GATEWAY_URL", "http://127.0.0.1:9")

    answer = run("reconcile")

    assert answer.exit_code == ExitCode.UNREACHABLE
    assert engine.sql("SELECT count(*) FROM reconciliation.run") == [(0,)]


# -- by itself -------------------------------------------------------------------------------------


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[SandboxProcess]:
    with SandboxProcess.start(tmp_path / "ledger.sqlite") as started:
        yield started


def nightly(engine: Engine, database: str, gateway: str, hour: int | None) -> Any:
    settings = Settings.load(database_url=database, gateway_url=gateway, reconcile_hour=hour)
    return reconcile_if_due(settings, Database(engine.pool), Definitions([SHOP]))


def test_yesterday_is_reconciled_once_from_its_hour_on(
    engine: Engine, database: str, gateway: SandboxProcess
) -> None:
    completed(engine, "a")
    url = gateway.base_url
    hour = datetime.now(UTC).hour

    assert nightly(engine, database, url, None) is None
    if hour < 23:
        assert nightly(engine, database, url, hour + 1) is None
    done = nightly(engine, database, url, hour)
    assert done.found == {"invalid_row": 1, "missing_gateway": 2}
    engine.sql("UPDATE reconciliation.discrepancy SET state = 'open', act_count = 0")
    assert nightly(engine, database, url, hour) is None
    assert engine.sql("SELECT DISTINCT state FROM reconciliation.discrepancy") == [("acted",)]
    [row] = engine.sql("SELECT gateway, day, run_count FROM reconciliation.run")
    assert tuple(row) == ("sandbox", YESTERDAY, 1)


def test_days_that_nobody_reconciled_are_made_up_for_the_latest_first(
    engine: Engine, database: str, gateway: SandboxProcess
) -> None:
    url = gateway.base_url
    assert nightly(engine, database, url, 0).run.day == YESTERDAY
    assert nightly(engine, database, url, 0) is None  # it was the first
    engine.sql("UPDATE reconciliation.run SET day = day - 3")

    made_up = [nightly(engine, database, url, 0) for _ in range(4)]

    days = [each and each.run.day for each in made_up]
    assert days == [*(YESTERDAY - timedelta(days=ago) for ago in range(3)), None]


def test_without_its_gateway_it_is_left_to_the_next_look(engine: Engine, database: str) -> None:
    with events() as heard:
        assert nightly(engine, database, "http://127.0.0.1:9", 0) is None

    assert [name for name, _ in heard if name.startswith("reconciliation")] == [
        "reconciliation.failed"
    ]
    assert Findings(Database(engine.pool)).run_of("sandbox", YESTERDAY) is None


SCHEDULE = (
    "from workers.celery import app; import recovery.beat; print(sorted(app.conf.beat_schedule))"
)


@pytest.mark.parametrize("hour", ["", "3"])
def test_beat_sends_it_only_where_an_hour_is_set(database: str, hour: str) -> None:
    environment = {**os.environ, "AMENDS_DATABASE_URL": database, "AMENDS_RECONCILE_HOUR": hour}
    done = subprocess.run(
        [sys.executable, "-c", SCHEDULE],
        check=True,
        capture_output=True,
        text=True,
        env=environment | {"AMENDS_BROKER_URL": "redis://127.0.0.1:1/0"},
    )

    assert ("amends.reconcile" in done.stdout) == bool(hour)
    assert "amends.sweep" in done.stdout


def test_a_day_of_the_past_can_be_asked_for(engine: Engine, run: Run, tmp_path: Path) -> None:
    day = YESTERDAY - timedelta(days=40)

    answer = run("reconcile", "--json", "--date", str(day), *given(tmp_path))

    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["day"] == str(day)
