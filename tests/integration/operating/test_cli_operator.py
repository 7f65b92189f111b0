"""The operator's verbs as they are typed: options, output, exit codes."""

from __future__ import annotations

import getpass
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from click.testing import CliRunner, Result

from orchestrator.context import Found, NotLanded, Standing
from recovery.cli.failures import ExitCode
from recovery.cli.program import amends
from recovery.operator import authenticating
from tests.integration.engine import Engine
from tests.integration.operating.till import NEWER, TILL, WORLD
from tests.integration.operating.world import (
    LOST,
    PAID,
    audit,
    everything,
    start,
    undone,
    unknown,
)

Run = Callable[..., Result]
WHY = ("--reason", "called the bank")
CONFLICT = ExitCode.CONFLICT


@pytest.fixture
def till(database: str) -> Iterator[Engine]:
    WORLD.__init__()  # type: ignore[misc]  # the module's one world, as new
    made = Engine(database, TILL, NEWER)
    yield made
    made.close()


@pytest.fixture
def run(database: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    for name in ("AMENDS_BROKER_URL", "CELERY_BROKER_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AMENDS_DATABASE_URL", database)
    monkeypatch.setenv("AMENDS_SAGAS", "tests.integration.operating.till")
    return lambda *arguments: CliRunner().invoke(amends, arguments, prog_name="amends")


def objects(answer: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answer.stdout.splitlines()]


def stuck(till: Engine, key: str = "order-1") -> UUID:
    """Stuck under version 1: nobody knows whether `pay` happened, and nothing can arrive."""
    old = Engine(till.pool.url.render_as_string(hide_password=False), TILL)
    saga_id = unknown(old, WORLD, "till", key)
    old.close()
    return saga_id


def test_a_verb_names_who_what_and_what_is_next(till: Engine, run: Run) -> None:
    saga_id = stuck(till)
    answer = run("mark-done", "order-1", "--step", "pay", "--reference", "pay-1", *WHY)
    assert answer.exit_code == 0, answer.stderr
    first, looked_up, following = answer.stdout.splitlines()
    assert looked_up == "  looked up: order order-1, status done"
    assert first == f"till order-1 ({saga_id}): mark-done pay; it is running"
    assert following == "  next ship, attempt 1"
    assert audit(till, saga_id) == [("mark-done", f"cli:{getpass.getuser()}", "called the bank")]


def test_json_has_everything_that_was_written(till: Engine, run: Run) -> None:
    saga_id = stuck(till)
    fits = Standing(order="order-1", status="captured")
    WORLD.under = Found(theirs=fits, ours=fits, effect=PAID)
    arguments = ("--step", "pay", "--reference", "pay-1", "--moved", "capture:1990:eur")
    answer = run("mark-done", "order-1", *arguments, "--actor", "ada", *WHY, "--json")
    [told] = objects(answer)
    assert (told["id"], told["state_before"], told["state"]) == (str(saga_id), "stuck", "running")
    assert [each["kind"] for each in told["writes"]] == [
        *("OperatorActed", "StepSettled", "SagaUnparked")
    ]
    assert told["writes"][0]["actor"] == "ada"
    assert told["writes"][1]["movements"] == [
        {"kind": "capture", "amount_minor": 1990, "currency": "EUR", "reference": "pay-1"}
    ]
    assert [each["step"] for each in told["attempts"]] == ["ship"]
    assert told["dry_run"] is False


def test_a_dry_run_shows_what_would_be_written_the_money_and_the_other_side(
    till: Engine, run: Run
) -> None:
    saga_id = stuck(till)
    WORLD.found = PAID
    before = everything(till)
    denied = run("mark-not-done", "order-1", "--step", "pay", *WHY, "--dry-run")
    assert denied.exit_code == CONFLICT
    assert "the other side has pay-1" in denied.stderr
    WORLD.found = NotLanded("no payment")
    answer = run("mark-not-done", "order-1", "--step", "pay", *WHY, "--dry-run")
    assert answer.exit_code == 0, answer.stderr
    assert everything(till) == before
    lines = answer.stdout.splitlines()
    assert "mark-not-done pay, decided at seq" in lines[1]
    assert "  settled  pay  it did not happen (by " in answer.stdout
    assert "  looked up: found nothing, why no payment" in lines
    assert "and then it would be running" in lines
    assert "  next pay, attempt 2" in lines
    assert "money at risk, by the log: none" in lines
    assert "  pay  it is not there  no payment" in lines
    seq = till.client.get(saga_id).seq
    assert f"--seen {seq}" in lines[-1]


def test_show_prints_the_seq_the_question_and_commands_that_work(till: Engine, run: Run) -> None:
    saga_id = stuck(till)
    shown = run("show", "order-1")
    assert f"seq      {till.client.get(saga_id).seq}" in shown.stdout
    assert "outstanding: pay" in shown.stdout
    [page] = objects(run("show", "order-1", "--json"))
    assert page["question"]["steps"] == ["pay"]
    assert [each["command"].split()[1] for each in page["recommended"]] == [
        *("probe", "retry", "mark-done", "mark-not-done", "mark-not-done", "resolve")
    ]
    for advice in page["recommended"]:
        assert advice["command"] in shown.stdout
        assert run(*shlex.split(advice["command"])[1:], "--dry-run").exit_code == 0
    WORLD.found = PAID
    assert run(*shlex.split(page["recommended"][0]["command"])[1:]).exit_code == 0
    assert till.finish(saga_id) == "completed"


def test_what_was_seen_must_still_be_so(till: Engine, run: Run) -> None:
    saga_id = stuck(till)
    seq = till.client.get(saga_id).seq
    before = everything(till)
    answer = run("retry", "order-1", "--seen", str(seq - 1), *WHY)
    assert answer.exit_code == CONFLICT
    assert f"seq {seq - 1} then, seq {seq} now" in answer.stderr
    assert everything(till) == before
    assert run("retry", "order-1", "--seen", str(seq), *WHY).exit_code == 0


def test_refusals_end_with_a_code_of_their_own_and_one_line(till: Engine, run: Run) -> None:
    stuck(till)
    moving = start(till, "till", "moving")
    till.claim(moving)
    before = everything(till)
    cases: list[tuple[ExitCode, tuple[str, ...]]] = [
        (CONFLICT, ("mark-done", "moving", "--step", "pay", "--reference", "x")),
        (CONFLICT, ("resolve", "moving")),
        (CONFLICT, ("replay", "order-1")),
        (ExitCode.NOT_FOUND, ("skip", "order-1", "--step", "cook")),
        (ExitCode.NOT_FOUND, ("resolve", "nobody")),
        (ExitCode.USAGE, ("mark-done", "order-1", "--step", "pay")),
        (ExitCode.USAGE, ("mark-done", "order-1", "--step", "pay", "--result", "{")),
        (ExitCode.USAGE, ("mark-done", "order-1", "--step", "pay", "--moved", "capture:EUR")),
        (ExitCode.USAGE, ("abandon", "order-1", "--actor", "x" * 501)),
    ]
    for code, arguments in cases:
        answer = run(*arguments, *WHY)
        assert answer.exit_code == code, (arguments, answer.stderr)
        assert answer.stdout == ""
    for verb in ("retry", "resolve", "abandon", "replay"):
        assert run(verb, "order-1", "--reason", " ").exit_code == ExitCode.USAGE
        assert run(verb, "order-1").exit_code == ExitCode.USAGE
    assert everything(till) == before


def test_too_early_says_from_when_on(till: Engine, run: Run) -> None:
    WORLD.pay = WORLD.found = LOST
    saga_id = start(till, "till")
    assert till.finish(saga_id) == "stuck"
    answer = run("mark-not-done", "order-1", "--step", "pay", *WHY)
    assert answer.exit_code == CONFLICT
    assert re.search(r"possible from \d{4}-\d\d-\d\dT[\d:.]+Z on", answer.stderr)


def test_resolve_and_replay(
    till: Engine, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saga_id = stuck(till)
    said = run("resolve", "order-1", *WHY)
    assert "it does not count before another person" in said.stdout
    [confirm] = [each.strip() for each in said.stdout.splitlines() if "amends confirm" in each]
    alone = run(*shlex.split(confirm)[1:])
    assert alone.exit_code == CONFLICT
    assert "the same person" in alone.stderr
    monkeypatch.setattr(authenticating, "_user", lambda: "bob")
    assert "confirm; it is resolved\n" in run(*shlex.split(confirm)[1:]).stdout
    payload = tmp_path / "payload.json"
    payload.write_text('{"amount": 7}')
    seen = run("replay", "order-1", "--payload", str(payload), *WHY, "--dry-run", "--json")
    assert objects(seen)[0]["key"] == "order-1~2"
    assert [each.key for each in till.client.find()] == ["order-1"]
    answer = run(
        "replay", "order-1", "--payload", str(payload), "--set", "gift=true", *WHY, "--json"
    )
    [new] = objects(answer)
    assert (new["key"], new["replay_of"], new["version"]) == ("order-1~2", str(saga_id), 2)
    [page] = objects(run("show", "order-1~2", "--json"))
    assert page["payload"] == {"amount": 7, "gift": True}
    assert page["replay_of"] == str(saga_id)
    assert run("replay", "order-1", "--set", "colour=red", *WHY).exit_code == ExitCode.USAGE


def test_many_are_retried_only_on_purpose(till: Engine, run: Run) -> None:
    ids = [stuck(till, f"order-{n}") for n in range(4)]
    before = everything(till)
    counted = run("retry", "--saga", "till", "--limit", "3", *WHY)
    assert counted.exit_code == ExitCode.USAGE
    assert "4 sagas to retry; the oldest 3 are taken" in counted.stderr
    assert "--yes" in counted.stderr
    listed = run("retry", "--because", "unknown", "--dry-run", *WHY, "--json")
    assert {each["id"] for each in objects(listed)} == {str(each) for each in ids}
    assert everything(till) == before
    done = run("retry", "--step", "pay", "--where", "amount=1", "--limit", "3", "--yes", *WHY)
    assert done.exit_code == 0, done.stderr
    assert "3 done, 0 refused" in done.stderr
    assert [len(audit(till, each)) for each in ids] == [1, 1, 1, 0]
    for wrong in ([], ["order-1", "--saga", "till"], ["--saga", "till", "--seen", "3"]):
        assert run("retry", *wrong, *WHY).exit_code == ExitCode.USAGE


def test_what_is_refused_of_many_is_named_and_the_rest_is_done(till: Engine, run: Run) -> None:
    saga_id = stuck(till)
    answer = run(
        "migrate-saga", "--all", "--saga", "till", "--from", "1", "--to", "9", "--yes", *WHY
    )
    assert answer.exit_code == CONFLICT
    assert "0 done, 1 refused" in answer.stderr
    assert "till v9 is not known here" in answer.stdout
    assert audit(till, saga_id) == []


def test_migrate_saga_and_check_deploy(
    till: Engine, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    saga_id = stuck(till)
    (tmp_path / "only_newer.py").write_text(
        "from tests.integration.operating.till import NEWER as ONLY\n"
    )
    assert run("check-deploy").exit_code == 0
    monkeypatch.setenv("AMENDS_SAGAS", "only_newer")
    monkeypatch.syspath_prepend(tmp_path)
    left = run("check-deploy", "--json")
    assert left.exit_code == ExitCode.LEFT_BEHIND
    assert "1 saga: keep those versions" in left.stderr
    [row] = objects(left)
    assert (row["saga"], row["version"], row["count"], row["parked"]) == ("till", 1, 1, 1)
    assert (row["example"], row["hash"]) == (str(saga_id), TILL.hash)
    monkeypatch.setenv("AMENDS_SAGAS", "tests.integration.operating.till")
    assert run("migrate-saga", "order-1", "--to", "2", *WHY, "--dry-run").exit_code == 0
    moved = run(
        "migrate-saga", "--all", "--saga", "till", "--from", "1", "--to", "2", "--yes", *WHY
    )
    assert moved.exit_code == 0, moved.stderr
    monkeypatch.setenv("AMENDS_SAGAS", "only_newer")
    assert run("check-deploy").exit_code == 0
    for wrong in (
        ["--to", "2"],
        ["order-1", "--all", "--to", "2"],
        ["--all", "--to", "2", "--saga", "till"],
        ["order-1", "--to", "2", "--from", "1"],
    ):
        assert run("migrate-saga", *wrong, *WHY).exit_code == ExitCode.USAGE


def test_what_needs_attention_is_listed_with_money_and_the_next_command(
    till: Engine, run: Run
) -> None:
    old = Engine(till.pool.url.render_as_string(hide_password=False), TILL)
    saga_id = undone(old, WORLD, name="till")
    old.close()
    [row] = objects(run("list", "--needs-attention", "--json"))
    assert (row["id"], row["why"]) == (str(saga_id), "compensation_exhausted")
    assert row["money_at_risk"] == {"EUR": {"held_minor": 0, "captured_minor": 1990}}
    assert row["outstanding"] == ["pay"]
    assert run(*shlex.split(row["next"])[1:]).exit_code == 0
    header, *rest = run("list", "--needs-attention").stdout.splitlines()
    assert header.split("\t") == [
        *("id", "saga", "key", "state", "why", "steps", "for", "at_risk", "next")
    ]
    assert rest == []
    wrong = run("list", "--needs-attention", "--key", "order-1")
    assert wrong.exit_code == ExitCode.USAGE
