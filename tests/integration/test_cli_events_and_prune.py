"""`amends events` and `amends prune` as their users type them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from click.testing import CliRunner, Result

from orchestrator.subscription import Subscription
from recovery.cli.failures import ExitCode
from recovery.cli.program import amends
from tests.ended_sagas import ORDER, SHOP, plant, rows
from tests.integration.engine import Engine
from tests.quiet_postgres import quiet  # noqa: F401 - a fixture
from tests.worker_processes import until

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("quiet")

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
    return lambda *arguments: CliRunner().invoke(amends, arguments, prog_name="amends")


def objects(answer: Result) -> list[dict[str, Any]]:
    assert answer.exit_code == 0, answer.stderr
    return [json.loads(line) for line in answer.stdout.splitlines()]


def process(database: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "recovery.cli", *arguments],
        cwd=ROOT,
        env={**os.environ, "AMENDS_DATABASE_URL": database},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start(engine: Engine, *keys: str) -> None:
    for key in keys:
        engine.client.start(SHOP, ORDER, key=key)


# -- events ----------------------------------------------------------------------------------------


def test_events_are_printed_once_acknowledged_and_again_if_not(engine: Engine, run: Run) -> None:
    start(engine, "order-1")
    assert engine.finish(engine.client.find(key="order-1")[0].id) == "completed"
    start(engine, "order-2")
    peeked = objects(run("events", "ledger", "--no-acknowledge"))
    printed = objects(run("events", "ledger", "--json"))

    assert printed == peeked
    assert [(each["key"], each["kind"]) for each in printed] == [
        ("order-1", "SagaStarted"),
        ("order-1", "SagaCompleted"),
        ("order-2", "SagaStarted"),
    ]
    first = printed[0]
    assert first["id"] == f"{first['saga_id']}:1"
    assert (first["saga"], first["version"], first["attributes"]) == ("shop", 1, {"amount": 1})
    assert "payload" not in first["data"]
    assert run("events", "ledger").stdout == ""


def test_a_limit_and_a_position_acknowledge_by_and_by(engine: Engine, run: Run) -> None:
    start(engine, *(f"order-{n}" for n in range(5)))
    assert len(objects(run("events", "ledger", "--limit", "2"))) == 2
    rest = objects(run("events", "ledger", "--no-acknowledge"))
    assert len(rest) == 3

    assert run("events", "ledger", "--acknowledge", rest[1]["position"]).exit_code == 0

    assert objects(run("events", "ledger")) == rest[2:]
    assert run("events", "ledger", "--acknowledge", "here").exit_code == ExitCode.USAGE
    assert run("events", "ledger", "--lag", "--forget").exit_code == ExitCode.USAGE


def test_a_reader_can_be_measured_and_forgotten(engine: Engine, run: Run) -> None:
    start(engine, "order-1")
    [lag] = objects(run("events", "ledger", "--lag", "--json"))
    assert lag["unread_seconds"] > 0
    assert lag["held_seconds"] is None
    run("events", "ledger")
    [forgotten] = objects(run("events", "ledger", "--forget", "--json"))
    assert forgotten == {"name": "ledger", "forgotten": True}
    assert len(objects(run("events", "ledger"))) == 1


def test_what_could_not_be_written_is_not_acknowledged(engine: Engine, database: str) -> None:
    """Whoever wanted to read is gone."""
    start(engine, "order-1")
    with process(database, "events", "ledger") as reader:
        assert reader.stdout is not None
        reader.stdout.close()
        assert reader.wait(timeout=30) == 1
    assert len(Subscription(engine.pool, "ledger").read()) == 1


def test_following_prints_what_happens_and_ends_on_sigterm(engine: Engine, database: str) -> None:
    start(engine, "order-1")
    with process(database, "events", "ledger", "--follow") as reader:
        assert reader.stdout is not None
        assert json.loads(reader.stdout.readline())["key"] == "order-1"
        start(engine, "order-2")
        assert json.loads(reader.stdout.readline())["key"] == "order-2"
        until(lambda: not Subscription(engine.pool, "ledger").read(), what="acknowledgement")
        reader.send_signal(signal.SIGTERM)
        assert reader.wait(timeout=20) == 0


def test_the_doctor_tells_of_a_reader_that_is_far_behind(engine: Engine, run: Run) -> None:
    def readers() -> dict[str, str] | None:
        found = map(json.loads, run("doctor", "--json").stdout.splitlines())
        return next((each for each in found if each["check"] == "event readers"), None)

    plant(engine, 2)
    assert readers() is None
    ledger = Subscription(engine.pool, "ledger")
    ledger.acknowledge(ledger.read()[0])
    behind = readers()
    assert behind is not None
    assert (behind["verdict"], "100 days" in behind["found"]) == ("warn", True)
    list(ledger.events())
    caught_up = readers()
    assert caught_up is not None
    assert caught_up["verdict"] == "ok"


# -- prune -----------------------------------------------------------------------------------------


def test_prune_archives_and_counts(engine: Engine, run: Run, tmp_path: Path) -> None:
    plant(engine, 12)
    engine.sql(
        "INSERT INTO amends.semantic_lock (saga_id, name) SELECT id, 'x' FROM amends.saga "
        "WHERE key = 'order-1'"
    )
    [dry] = objects(run("prune", "--dry-run", "--archive", "a.jsonl", "--json"))
    assert (dry["pruned"], dry["dry_run"], dry["archived"]) == (11, True, 0)
    assert list(tmp_path.iterdir()) == []

    [report] = objects(
        run("prune", "--older-than", "90d", "--archive", "a.jsonl", "--batch", "4", "--json")
    )

    assert report["by_state"] == {"completed": 11}
    assert report["kept"] == {"holds_lock": 1}
    assert (report["archived"], report["waiting"]) == (11, 0)
    assert rows(engine) == (1, 6)
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 11
    assert "kept 1 (holds_lock 1)" in run("prune").stdout


def test_prune_drops_attempts_to_pay_after_a_week(engine: Engine, run: Run) -> None:
    engine.sql(
        "INSERT INTO shop.fraud_attempt SELECT 'ip:1', n, clock_timestamp() - n * interval '1 day' "
        "FROM generate_series(0, 9) n"
    )
    [dry] = objects(run("prune", "--dry-run", "--json"))
    assert dry["attempts_to_pay"] == 0

    assert "dropped 3 old attempts to pay" in run("prune").stdout
    assert engine.sql("SELECT count(*) FROM shop.fraud_attempt") == [(7,)]
    engine.sql("DROP SCHEMA shop CASCADE")
    assert objects(run("prune", "--json"))[0]["attempts_to_pay"] == 0


def test_prune_asks_only_for_states_and_as_many_as_it_is_told(engine: Engine, run: Run) -> None:
    plant(engine, 5)
    [none] = objects(run("prune", "--state", "resolved", "--state", "compensated", "--json"))
    assert none["pruned"] == 0
    [two] = objects(run("prune", "--state", "completed", "--limit", "2", "--json"))
    assert two["pruned"] == 2


def test_nothing_younger_than_the_setting_is_pruned_unless_that_is_lowered(
    engine: Engine, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(engine, 2, days=60)
    assert objects(run("prune", "--json"))[0]["pruned"] == 0
    early = run("prune", "--older-than", "30d")
    assert early.exit_code == ExitCode.USAGE
    assert "AMENDS_KEEP_DAYS" in early.stderr
    assert rows(engine)[0] == 2

    monkeypatch.setenv("AMENDS_KEEP_DAYS", "30")
    assert objects(run("prune", "--older-than", "45d", "--json"))[0]["pruned"] == 2
    monkeypatch.setenv("AMENDS_KEEP_DAYS", "0")
    assert run("prune").exit_code == ExitCode.USAGE


@pytest.mark.parametrize(
    "arguments",
    [("--older-than", "soon"), ("--archive", "sagas.csv"), ("--archive", "there.jsonl")],
)
def test_what_makes_no_sense_is_refused_before_anything_is_pruned(
    engine: Engine, run: Run, tmp_path: Path, arguments: tuple[str, str]
) -> None:
    plant(engine, 1)
    (tmp_path / "there.jsonl").touch()
    assert run("prune", *arguments).exit_code == ExitCode.USAGE
    assert rows(engine)[0] == 1


def test_prune_needs_a_role_that_may(engine: Engine, run: Run, database: str) -> None:
    plant(engine, 1)
    url = sqlalchemy.make_url(database)
    with engine.pool.begin() as connection:
        for name, role in (("sweeper_by_night", "amends_janitor"), ("a_worker", "amends_worker")):
            connection.exec_driver_sql(f"CREATE ROLE {name} LOGIN PASSWORD 'x' IN ROLE {role}")
    try:
        for name, code in (("a_worker", ExitCode.NOT_ALLOWED), ("sweeper_by_night", ExitCode.OK)):
            theirs = url.set(username=name, password="x").render_as_string(hide_password=False)
            assert run("prune", "--database-url", theirs).exit_code == code
        assert rows(engine) == (0, 0)
    finally:
        with engine.pool.begin() as connection:
            connection.exec_driver_sql("DROP ROLE sweeper_by_night, a_worker")


def test_a_transaction_that_began_before_is_told_of(
    engine: Engine, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recovery.pruner.PATIENCE_SECONDS", 0.2)
    plant(engine, 3)
    with engine.pool.connect().execution_options(isolation_level="REPEATABLE READ") as report:
        report.exec_driver_sql("SELECT count(*) FROM amends.saga")
        answer = run("prune", "--json")
        assert json.loads(answer.stdout)["waiting"] == 3
        assert "3 sagas will go with the next run" in answer.stderr
    assert objects(run("prune", "--json"))[0]["pruned"] == 3
