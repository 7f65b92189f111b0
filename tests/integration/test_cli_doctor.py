"""The check-up against real servers, healthy and not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner, Result

from orchestrator.guarding import Verdict
from orchestrator.storage.database import Database, create_engine
from orchestrator.storage.processes import Process, Processes
from recovery.cli.program import amends
from recovery.sweep_loop import KIND
from steps.checkout import CARRIER, GATEWAY
from tests.integration.shared_guards import request
from workers.resilience.circuit import Circuit
from workers.resilience.shared_server import SharedServer

Doctor = Callable[..., tuple[Result, dict[str, dict[str, str]]]]


@pytest.fixture
def doctor(
    database: str, broker_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Doctor:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AMENDS_DATABASE_URL", database)
    monkeypatch.setenv("AMENDS_BROKER_URL", broker_url)
    monkeypatch.setenv("AMENDS_GATEWAY_URL", "http://127.0.0.1:1")

    def look(*arguments: str) -> tuple[Result, dict[str, dict[str, str]]]:
        answer = CliRunner().invoke(amends, ["doctor", "--json", *arguments], prog_name="amends")
        findings = map(json.loads, answer.stdout.splitlines())
        return answer, {each["check"]: each for each in findings}

    return look


@pytest.fixture
def processes(database: str) -> Iterator[Processes]:
    engine = create_engine(database)
    yield Processes(Database(engine))
    engine.dispose()


def alive(kind: str, *hashes: str) -> Process:
    return Process(
        owner=f"host/nonce/{kind}",
        kind=kind,
        queues=["amends"],
        definition_hashes=hashes,
        amends_version="1",
    )


def test_a_healthy_deployment_has_warnings_at_most(doctor: Doctor) -> None:
    answer, findings = doctor()
    assert answer.exit_code == 0, answer.stdout
    fine = ("python", "packages", "names", "settings", "broker", "eviction", "database")
    also = ("synchronous_commit", "clocks", "schema amends", "schema shop", "parked sagas")
    for check in (*fine, *also):
        assert findings[check]["verdict"] == "ok", findings[check]
    assert findings["workers"]["verdict"] == "warn"
    assert findings["sweeper"]["verdict"] == "warn"
    assert all(each["hint"] for each in findings.values() if each["verdict"] == "warn")


def test_a_check_from_elsewhere_may_take_warnings_for_failures(doctor: Doctor) -> None:
    answer, findings = doctor("--strict")
    assert findings["workers"]["verdict"] == "warn"
    assert answer.exit_code == 1


def test_processes_that_gave_a_sign_of_life_are_seen(doctor: Doctor, processes: Processes) -> None:
    processes.seen(alive("worker-threads"))
    processes.seen(alive(KIND))
    _, findings = doctor()
    assert findings["workers"]["verdict"] == "ok"
    assert findings["sweeper"]["verdict"] == "ok"
    assert "checkout" in findings["definitions"]["found"]


def test_a_broker_that_would_throw_messages_away_is_a_warning(
    doctor: Doctor, broker_url: str
) -> None:
    with redis.Redis.from_url(broker_url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            answer, findings = doctor()
        finally:
            client.config_set("maxmemory-policy", "noeviction")
    assert answer.exit_code == 0
    assert findings["eviction"]["verdict"] == "warn"


def test_an_open_circuit_is_a_warning_that_says_when_it_is_tried(
    doctor: Doctor, broker_url: str
) -> None:
    server, breaker = SharedServer(broker_url, prefix="amends:"), GATEWAY.breaker
    assert breaker is not None
    circuit = Circuit(server, GATEWAY.name, breaker)
    for number in range(breaker.failures):
        circuit.leave(circuit.enter(request(f"saga-{number}")), Verdict.OUTAGE)

    _, findings = doctor()
    server.close()

    gateway = findings[f"circuit {GATEWAY.name}"]
    assert gateway["verdict"] == "warn"
    assert re.search(r"tried again in [1-5] s$", gateway["hint"])
    assert findings[f"circuit {CARRIER.name}"]["verdict"] == "ok"


def test_a_missing_schema_fails_and_leaves_the_rest_out(doctor: Doctor, servers: object) -> None:
    empty = servers.postgres.create_database("never_migrated")  # type: ignore[attr-defined]
    answer, findings = doctor("--database-url", empty)
    assert answer.exit_code == 1
    assert findings["schema amends"]["verdict"] == "fail"
    assert "amends migrate" in findings["schema amends"]["hint"]
    assert findings["sagas"]["verdict"] == "skipped"


def test_servers_that_do_not_answer_fail_and_end_nothing(doctor: Doctor) -> None:
    answer, findings = doctor(
        *("--database-url", "postgresql://nobody@127.0.0.1:1/nothing"),
        *("--broker-url", "redis://127.0.0.1:1/0"),
    )
    assert answer.exit_code == 1
    assert findings["broker"]["verdict"] == "fail"
    assert findings["database"]["verdict"] == "fail"
    assert findings["schema"]["verdict"] == "skipped"
