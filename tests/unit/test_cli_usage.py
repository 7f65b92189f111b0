"""What the command line says before it touches any server."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import UUID

import click
import pytest
from click.testing import CliRunner, Result

from orchestrator.errors import (
    IdempotencyConflictError,
    LogUnavailableError,
    PayloadError,
    SagaNotFoundError,
    StateConflictError,
)
from recovery.cli.failures import ExitCode, failure_of
from recovery.cli.output import counted
from recovery.cli.program import VERBS, amends

ROOT = Path(__file__).parents[2]
NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in ("DATABASE_URL", "CELERY_BROKER_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f"AMENDS_{name}", raising=False)
    monkeypatch.delenv("AMENDS_BROKER_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    yield
    sys.path[:] = before


def run(*arguments: str) -> Result:
    return CliRunner().invoke(amends, arguments, prog_name="amends")


def test_help_names_every_verb_and_every_exit_code() -> None:
    answer = run("--help")
    assert answer.exit_code == 0
    for verb in VERBS:
        assert f"\n  {verb}" in answer.stdout
    assert not re.search(r"\w\.\.\.\n", answer.stdout), "a sentence is cut off"
    for code in ExitCode:
        assert f" {code.value}  {code.meaning}\n" in answer.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_json(verb: str) -> None:
    answer = run(verb, "--help")
    assert answer.exit_code == 0
    assert "--json" in answer.stdout
    assert "--database-url" in answer.stdout
    assert "\\b" not in answer.stdout
    assert "\b" not in answer.stdout


def test_help_of_start_keeps_its_examples_as_lines_to_copy() -> None:
    answer = run("start", "--help")
    assert "\n    amends start checkout --key A-1 " in answer.stdout
    assert "--set units=1 \\\n" in answer.stdout


def test_what_only_a_worker_calls_is_not_in_the_help() -> None:
    assert "--beside" not in run("sweep", "--help").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["start"],
        ["start", "checkout"],
        ["start", "checkout", "--key", "K", "--set", "units"],
        ["start", "checkout", "--key", "K", "--set", "colour=red"],
        ["start", "checkout", "--key", "K", "--limit", "3"],
        ["list", "--state", "tired"],
        ["list", "--counts", "--key", "K"],
        ["list", "--limit", "0"],
        ["wait"],
        ["cancel", "K"],
        ["cancel", "K", "--reason", "  "],
        ["sweep"],
        ["sweep", "--once"],
        ["sweep", "--once", "--interval", "3"],
        ["sweep", "--once", "--beside"],
        ["sweep", "--interval", "0"],
        ["migrate", "--sql", "--check"],
        ["restock", "--sku", "cd"],
        ["restock", "--sku", "cd", "--units", "-1"],
        ["worker"],
        ["list"],
    ],
    ids=" ".join,
)
def test_a_usage_error_is_one_line_and_exit_code_2(arguments: list[str]) -> None:
    answer = run(*arguments)
    assert answer.exit_code == ExitCode.USAGE
    assert answer.stdout == ""
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("arguments", [[], ["--once"], ["--interval", "3"]], ids=" ".join)
def test_a_sweeper_without_a_broker_is_refused(arguments: list[str]) -> None:
    answer = run("sweep", "--database-url", NOWHERE, *arguments)
    assert answer.exit_code == ExitCode.USAGE
    assert "AMENDS_BROKER_URL" in answer.stderr


def test_a_mistyped_verb_is_answered_with_the_verbs() -> None:
    assert "migrate, worker" in run("lits").stderr


def test_a_missing_database_setting_names_the_variable() -> None:
    assert "AMENDS_DATABASE_URL" in run("list").stderr


def test_an_unknown_saga_is_not_found_and_the_known_ones_are_named() -> None:
    answer = run("--database-url", NOWHERE, "start", "chekout", "--key", "K")
    assert answer.exit_code == ExitCode.NOT_FOUND
    assert "checkout" in answer.stderr


def test_serving_without_the_extra_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "fastapi.py").write_text("raise ModuleNotFoundError('no', name='fastapi')")
    answer = subprocess.run(
        [sys.executable, "-m", "recovery.cli", "--database-url", NOWHERE, "serve"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert answer.returncode == ExitCode.FAILURE
    assert answer.stderr == 'amends: fastapi is missing: pip install "amends[http]"\n'


def test_a_place_that_is_taken_is_one_line() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        answer = run("--database-url", NOWHERE, "serve", "--port", port)
    assert answer.exit_code == ExitCode.FAILURE
    assert "in use" in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1


def test_options_of_the_program_may_stand_after_the_verb() -> None:
    before = run("--database-url", NOWHERE, "show", "K")
    after = run("show", "K", "--database-url", NOWHERE)
    assert before.exit_code == after.exit_code == ExitCode.UNREACHABLE
    assert before.stderr == after.stderr


def test_an_unreachable_database_is_exit_code_6_in_one_line() -> None:
    answer = run("show", "K", "--database-url", NOWHERE)
    assert answer.exit_code == ExitCode.UNREACHABLE
    assert len(answer.stderr.strip().splitlines()) == 1
    assert answer.stderr.startswith("amends: ")


def test_debug_shows_the_traceback() -> None:
    answer = run("--debug", "show", "K", "--database-url", NOWHERE)
    assert isinstance(answer.exception, LogUnavailableError)


def test_the_current_directory_comes_last_on_the_path() -> None:
    here = str(Path.cwd())
    run("list")
    assert sys.path[-1] == here


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SagaNotFoundError("no"), ExitCode.NOT_FOUND),
        (IdempotencyConflictError("no"), ExitCode.CONFLICT),
        (StateConflictError("no", saga_id=UUID(int=1), state="completed"), ExitCode.CONFLICT),
        (PayloadError("no"), ExitCode.USAGE),
        (LogUnavailableError("no"), ExitCode.UNREACHABLE),
        (PermissionError(13, "no"), ExitCode.NOT_ALLOWED),
        (RuntimeError("no"), ExitCode.FAILURE),
    ],
)
def test_each_error_ends_with_its_exit_code(error: Exception, code: ExitCode) -> None:
    try:
        raise error
    except type(error) as raised:
        failure = failure_of(raised)
    assert isinstance(failure, click.ClickException)
    assert failure.exit_code == code


def test_migrate_prints_sql_without_any_database() -> None:
    answer = run("migrate", "--sql", "--checkout")
    assert answer.exit_code == 0
    assert "CREATE TABLE amends.saga" in answer.stdout
    assert "CREATE TABLE shop.stock" in answer.stdout


def test_doctor_without_settings_fails_with_a_hint_per_finding() -> None:
    answer = run("doctor", "--json")
    findings = [json.loads(line) for line in answer.stdout.splitlines()]
    assert answer.exit_code == ExitCode.FAILURE
    failed = [each for each in findings if each["verdict"] == "fail"]
    assert [each["check"] for each in failed] == ["settings"]
    assert all(each["hint"] for each in failed)
    assert answer.stderr == "amends: 1 check failed\n"


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 checks"), (1, "1 check"), (2, "2 checks"), (1000, "1,000 checks")]
)
def test_one_is_no_plural(number: int, text: str) -> None:
    assert counted(number, "check") == text


def test_a_stranger_with_the_name_of_a_package_is_noticed(tmp_path: Path) -> None:
    stranger = tmp_path / "workers"
    stranger.mkdir()
    (stranger / "__init__.py").write_text("")
    answer = subprocess.run(
        [sys.executable, "-m", "recovery.cli", "doctor"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT / "docs",
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    )
    assert answer.returncode == ExitCode.FAILURE
    assert "'workers' is taken from" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_stranger_beside_the_caller_changes_nothing(tmp_path: Path) -> None:
    stranger = tmp_path / "workers"
    stranger.mkdir()
    (stranger / "__init__.py").write_text("raise RuntimeError('imported')")
    program = "from recovery.cli import main; main()"
    answer = subprocess.run(
        [sys.executable, "-P", "-c", program, "migrate", "--sql"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert answer.returncode == ExitCode.OK, answer.stderr
