"""The command line on a real database: starting, looking, waiting, cancelling, migrating."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from orchestrator.client import SagaClient
from orchestrator.state import State
from orchestrator.storage.database import Database, create_engine
from orchestrator.storage.reads import Reads
from recovery.cli.failures import ExitCode
from recovery.cli.program import amends
from tests.worker_processes import until

ORDER = ["--set", "customer_id=C-1", "--set", "units=1", "--set", "currency=EUR"]
PAID = [*ORDER, "--set", "amount_minor=1990", "--set", "payment_method=tok_ok"]

Run = Callable[..., Result]


@pytest.fixture
def run(database: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs the command line without a broker: nothing moves unless a sweep says so."""
    for name in ("AMENDS_BROKER_URL", "CELERY_BROKER_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AMENDS_DATABASE_URL", database)
    return lambda *arguments: CliRunner().invoke(amends, arguments, prog_name="amends")


def start(run: Run, key: str, *more: str) -> Result:
    return run("start", "checkout", "--key", key, "--set", f"order_id={key}", *PAID, *more)


def objects(answer: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answer.stdout.splitlines()]


def orders(path: Path, count: int, *bad: str) -> Path:
    """A zipped file of orders; every third one is free."""
    header = "order_id,customer_id,units,amount_minor,currency,payment_method,colour\n"
    good = (
        f"F-{n},C-{n % 7},1,{'0' if n % 3 == 0 else 990 + n},EUR,"
        f"{'' if n % 3 == 0 else 'tok_ok'},red\n"
        for n in range(count)
    )
    path.write_bytes(gzip.compress((header + "".join([*good, *bad])).encode()))
    return path


def test_a_start_is_idempotent_and_says_so(run: Run) -> None:
    first, second = start(run, "A-1", "--json"), start(run, "A-1", "--json")
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert objects(first)[0]["created"] is True
    assert objects(second)[0] == {**objects(first)[0], "created": False}


def test_the_same_key_with_another_payload_is_a_conflict(run: Run) -> None:
    start(run, "A-1")
    answer = start(run, "A-1", "--set", "units=2")
    assert answer.exit_code == ExitCode.CONFLICT
    assert "A-1" in answer.stderr


def test_a_bad_payload_is_a_usage_error_that_names_the_field(run: Run) -> None:
    answer = start(run, "A-1", "--set", "units=many")
    assert answer.exit_code == ExitCode.USAGE
    assert "units" in answer.stderr


def test_a_file_is_started_with_its_bad_rows_named_and_one_warning(
    run: Run, tmp_path: Path
) -> None:
    bad = ("X-1,C-1,none,990,EUR,tok_ok,red\n", "X-2,C-1\n", ",C-1,1,990,EUR,tok_ok,red\n")
    path = orders(tmp_path / "orders.csv.gz", 30, *bad)
    answer = run("start", "checkout", "--from", str(path), "--key", "order_id", "--json")
    report = objects(answer)[0]
    assert answer.exit_code == ExitCode.FAILURE
    assert (report["created"], report["existing"], report["refused"]) == (30, 0, 3)
    assert sorted(each["row"] for each in report["refusals"]) == [32, 33, 34]
    assert answer.stderr.count("colour") == 1

    again = objects(run("start", "checkout", "--from", str(path), "--key", "order_id", "--json"))
    assert (again[0]["created"], again[0]["existing"], again[0]["refused"]) == (0, 30, 3)


def test_free_orders_of_a_file_skip_their_payment(run: Run, tmp_path: Path) -> None:
    path = orders(tmp_path / "orders.csv.gz", 3)
    run("start", "checkout", "--from", str(path), "--key", "order_id")
    page = objects(run("show", "F-0", "--json"))[0]
    assert page["payload"]["payment_method"] is None
    assert "authorize_payment" in page["timeline"][0]["detail"]


def test_limit_starts_the_first_rows_only(run: Run, tmp_path: Path) -> None:
    path = orders(tmp_path / "orders.csv.gz", 30)
    arguments = ("start", "checkout", "--from", str(path), "--key", "order_id", "--limit", "4")
    assert objects(run(*arguments, "--json"))[0]["created"] == 4


def test_json_lines_and_constants_go_together(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "orders.jsonl"
    path.write_text(
        '{"order_id": "J-1", "customer_id": "C-1", "units": 2, "amount_minor": 0}\n'
        '{"order_id": "J-2", "customer_id": "C-1", "units": "2", "amount_minor": 0}\n'
    )
    answer = run(
        *("start", "checkout", "--from", str(path), "--key", "order_id", "--json"),
        *("--set", "currency=EUR"),
    )
    report = objects(answer)[0]
    assert (report["created"], report["refused"]) == (1, 1)
    assert "units" in report["refusals"][0]["error"]


def test_a_killed_bulk_start_is_simply_repeated(run: Run, tmp_path: Path, database: str) -> None:
    total = 6_000
    path = orders(tmp_path / "orders.csv.gz", total)
    arguments = ["start", "checkout", "--from", str(path), "--key", "order_id", "--json"]
    engine = create_engine(database)
    reads = Reads(Database(engine))
    with subprocess.Popen(
        [sys.executable, "-m", "recovery.cli", *arguments],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as first:
        until(lambda: reads.counts().get("checkout"), what="the first batch")
        first.kill()
    before = sum(reads.counts()["checkout"].values())
    assert 0 < before < total

    report = objects(run(*arguments))[0]
    assert (report["created"], report["existing"]) == (total - before, before)
    assert reads.counts() == {"checkout": {State.RUNNING: total}}
    engine.dispose()


def test_list_filters_by_state_saga_key_and_attribute(run: Run) -> None:
    for key in ("A-1", "A-2"):
        start(run, key)
    assert len(objects(run("list", "--json"))) == 2
    assert [each["key"] for each in objects(run("list", "--json", "--key", "A-2"))] == ["A-2"]
    by_order = run("list", "--json", "--where", "order_id=A-1")
    assert [each["key"] for each in objects(by_order)] == ["A-1"]
    assert objects(run("list", "--json", "--state", "completed")) == []
    assert objects(run("list", "--json", "--needs-attention")) == []
    counts = objects(run("list", "--counts", "--json"))
    assert counts == [{"saga": "checkout", "state": "running", "count": 2}]


def test_list_without_a_terminal_is_columns_by_tab(run: Run) -> None:
    start(run, "A-1")
    header, row = run("list").stdout.splitlines()
    assert header.split("\t")[:3] == ["id", "saga", "key"]
    assert row.split("\t")[1:4] == ["checkout", "A-1", "running"]


@pytest.mark.parametrize("named", ["key", "id", "prefix"])
def test_show_finds_a_saga_by_key_id_or_prefix_and_hides_the_card(run: Run, named: str) -> None:
    saga_id = objects(start(run, "A-1", "--json"))[0]["id"]
    names = {"key": "A-1", "id": saga_id, "prefix": saga_id[:8]}
    answer = run("show", names[named], "--json")
    page = objects(answer)[0]
    assert page["id"] == saga_id
    assert page["payload"]["payment_method"] == "***"
    assert "tok_ok" not in answer.stdout + run("show", "A-1").stdout
    assert [each["step"] for each in page["attempts"]] == ["reserve_inventory"]


def test_show_tells_of_signals_that_an_ended_saga_will_not_hear(run: Run, database: str) -> None:
    start(run, "A-1")
    engine = create_engine(database)
    client = SagaClient(engine)
    client.signal(("checkout", "A-1"), "paid", dedup_id="in time")
    assert objects(run("show", "A-1", "--json"))[0]["inbox"] == []
    run("abandon", "A-1", "--reason", "a test order")

    client.signal(("checkout", "A-1"), "paid", "by whom?", dedup_id="too late")

    engine.dispose()
    [unheard] = objects(run("show", "A-1", "--json"))[0]["inbox"]
    assert (unheard["name"], unheard["dedup_id"]) == ("paid", "too late")
    shown = run("show", "A-1").stdout
    assert "signals that it has not heard, and it has ended" in shown
    assert "too late" in shown


def test_list_and_show_name_the_same_things_alike(run: Run) -> None:
    start(run, "A-1")
    listed = objects(run("list", "--json"))[0]
    shown = objects(run("show", "A-1", "--json"))[0]
    assert listed.pop("age")
    assert shown["saga"] == "checkout"
    assert listed.items() <= shown.items()
    assert shown.keys() - listed.keys() == {
        *(
            "inbox",
            "assertions",
            "payload",
            "timeline",
            "attempts",
            "assertions",
            "question",
            "money_at_risk",
            "recommended",
            "replay_of",
        )
    }


def test_one_refused_row_is_a_row(run: Run, tmp_path: Path) -> None:
    path = orders(tmp_path / "orders.csv.gz", 1, "F-9,C-9,none,990,EUR,tok_ok,red\n")
    answer = run("start", "checkout", "--from", str(path), "--key", "order_id")
    assert answer.stderr.endswith("amends: 1 row was refused\n")


def test_what_is_not_there_is_exit_code_3(run: Run) -> None:
    for arguments in (("show", "nothing"), ("wait", "nothing"), ("cancel", "x", "--reason", "r")):
        assert run(*arguments).exit_code == ExitCode.NOT_FOUND


def test_wait_gives_up_after_its_timeout(run: Run) -> None:
    start(run, "A-1")
    answer = run("wait", "A-1", "--timeout", "0.1")
    assert answer.exit_code == ExitCode.FAILURE
    assert "A-1" in answer.stderr


def test_a_cancelled_saga_ends_and_to_cancel_it_again_changes_nothing(
    run: Run, broker_url: str
) -> None:
    sweep = ("sweep", "--once", "--broker-url", broker_url)
    start(run, "A-1")
    assert run("cancel", "A-1", "--reason", "changed my mind").exit_code == 0
    until(lambda: run(*sweep).exit_code == 0 and _state(run, "A-1") == "compensated")
    ended = run("wait", "A-1", "--json")
    assert ended.exit_code == 0
    assert objects(ended)[0]["state"] == "compensated"
    again = run("cancel", "A-1", "--reason", "once more")
    assert again.exit_code == 0
    assert "it is compensated" in again.stdout
    timeline = objects(run("show", "A-1", "--json"))[0]["timeline"]
    assert "changed my mind" in str([each["detail"] for each in timeline])
    assert "once more" not in str(timeline)


def test_migrate_check_tells_old_from_new(databases: Any, run: Run, servers: Any) -> None:
    empty = servers.postgres.create_database("an_empty_one")
    assert run("migrate", "--check", "--database-url", empty).exit_code == ExitCode.FAILURE
    assert "amends migrate" in run("list", "--database-url", empty).stderr
    assert run("migrate", "--checkout", "--database-url", empty).exit_code == 0
    assert run("migrate", "--check", "--checkout", "--database-url", empty).exit_code == 0
    databases.drop(empty)


def test_the_printed_sql_makes_the_same_schema(databases: Any, run: Run, servers: Any) -> None:
    empty = servers.postgres.create_database("made_by_hand")
    sql = run("migrate", "--sql", "--checkout").stdout
    with psycopg.connect(empty.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(sql.encode())
    assert run("migrate", "--check", "--checkout", "--database-url", empty).exit_code == 0
    databases.drop(empty)


def test_restock_adds(run: Run) -> None:
    run("restock", "--sku", "cd", "--units", "3")
    level = objects(run("restock", "--sku", "cd", "--units", "2", "--json"))[0]
    assert level == {"sku": "cd", "on_hand": 5, "reserved": 0, "available": 5}


def _state(run: Run, key: str) -> str:
    return str(objects(run("list", "--json", "--key", key))[0]["state"])
