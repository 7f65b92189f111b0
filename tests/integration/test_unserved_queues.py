"""A queue that nobody serves is told of: by an alert, by the list and by the doctor."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from click.testing import CliRunner

from orchestrator.context import Effect, Movement
from orchestrator.storage.alerts import Alert, AlertKind, Alerts
from orchestrator.storage.database import Database
from orchestrator.storage.processes import Process, Processes
from orchestrator.storage.unclaimed import unclaimed_queues
from recovery.alerts.message import alert_values
from recovery.alerts.notifier import Notifier
from recovery.cli.program import amends
from tests.histories import doing, saga
from tests.integration.engine import Engine

AGE = 60.0


def hold(_: Any) -> Effect:
    return Effect(
        reference="p1", movements=[Movement(kind="authorize", amount_minor=1990, currency="EUR")]
    )


SHOP = saga(doing("pay", run=hold), doing("ship", queue="parcels"))


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = Engine(database, SHOP, lease=timedelta(seconds=15))
    yield made
    made.close()


def held(engine: Engine, key: str = "order-1", *, waits: float = AGE + 40) -> UUID:
    """A saga that holds money, and whose next attempt has been due for so many seconds."""
    saga_id = engine.client.start(SHOP, {"amount": 1}, key=key).id
    assert engine.coordinator.execute(engine.claim(saga_id), lambda _: False) is None
    engine.sql(
        "UPDATE amends.attempt SET due_at = due_at - make_interval(secs => :s) WHERE saga_id = :id",
        s=waits,
        id=saga_id,
    )
    return saga_id


def worker(engine: Engine, *, queues: list[str], hashes: list[str] | None = None) -> None:
    Processes(Database(engine.pool)).seen(
        Process(
            owner="host/nonce/1",
            kind="worker-threads",
            queues=queues,
            definition_hashes=engine.coordinator.definitions.hashes if hashes is None else hashes,
            amends_version="1",
        )
    )


class Watch:
    """A notifier that has watched for long enough to judge, and looks whenever it is asked."""

    def __init__(self, engine: Engine) -> None:
        database = Database(engine.pool)
        self._alerts = Alerts(database)
        self._notifier = Notifier(
            database, (), patience_seconds=30, unknown_seconds=900, unclaimed_seconds=AGE
        )
        self._notifier.run_once()
        self._notifier._watches_since -= 30

    def look(self) -> list[Alert]:
        """The open alerts after a run."""
        self._notifier._unclaimed._next_look = 0.0
        self._notifier.run_once()
        found = self._alerts.find(closed_too=False, limit=100)
        return [each for each in found if each.kind is AlertKind.QUEUE_UNSERVED]


def test_a_queue_without_a_worker_is_an_alert_with_count_age_and_money(engine: Engine) -> None:
    held(engine, "order-1")
    held(engine, "order-2")
    worker(engine, queues=["amends"])
    [alert] = Watch(engine).look()
    told = alert_values(alert, None)
    assert alert.data["queue"] == "parcels"
    assert (alert.data["attempts"], alert.data["served_by"]) == (2, 0)
    assert told["money_at_risk"] == {"EUR": {"held_minor": 3980, "captured_minor": 0}}
    assert "2 attempts wait in queue parcels" in str(told["question"])
    assert "no worker serves it" in str(told["question"])
    assert told["next"] == "amends worker -Q parcels"


def test_one_alert_tells_of_a_queue_until_it_is_taken_and_the_next_time_another(
    engine: Engine,
) -> None:
    saga_id, watch = held(engine), Watch(engine)
    [first] = watch.look()
    [again] = watch.look()
    assert again.id == first.id
    claim = engine.claim(saga_id)
    assert watch.look() == []
    engine.coordinator.execute(claim, lambda _: False)
    held(engine, "order-2")
    [later] = watch.look()
    assert later.id != first.id


def test_what_waits_for_its_time_or_for_a_moment_is_no_alert(engine: Engine) -> None:
    held(engine, "new", waits=AGE / 2)
    held(engine, "timer", waits=-7200)
    engine.sql("UPDATE amends.attempt SET ring_at = due_at")
    assert Watch(engine).look() == []


def test_a_process_that_has_just_begun_to_watch_does_not_judge(engine: Engine) -> None:
    held(engine)
    notifier = Notifier(
        Database(engine.pool), (), patience_seconds=30, unknown_seconds=900, unclaimed_seconds=AGE
    )
    assert notifier.run_once().raised == 0


def test_an_acknowledged_alert_is_not_raised_again(engine: Engine) -> None:
    saga_id, watch = held(engine), Watch(engine)
    [alert] = watch.look()
    Alerts(Database(engine.pool)).acknowledge(alert.id, actor="ada", reason="starting one")
    assert watch.look() == []
    engine.claim(saga_id)
    watch.look()
    held(engine, "order-2")
    assert len(watch.look()) == 1


def test_what_serves_a_queue_and_what_hangs_in_it_is_told(engine: Engine) -> None:
    running = held(engine, "order-1")
    engine.claim(running)
    held(engine, "order-2")
    worker(engine, queues=["parcels"])
    [found] = unclaimed_queues(Database(engine.pool), AGE)
    assert (found.served_by, found.running, found.attempts) == (1, 1, 1)
    assert found.running_since is not None
    [alert] = Watch(engine).look()
    assert "served by 1, running 1" in str(alert.data["question"])
    assert alert.data["next"] == "amends doctor"


def test_a_worker_without_the_definition_serves_nothing(engine: Engine) -> None:
    held(engine)
    worker(engine, queues=["parcels"], hashes=["another"])
    [found] = unclaimed_queues(Database(engine.pool), AGE)
    assert found.served_by == 0


@pytest.fixture
def told(database: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("AMENDS_DATABASE_URL", database)

    def run(*arguments: str) -> list[dict[str, Any]]:
        answer = CliRunner().invoke(amends, [*arguments, "--json"], prog_name="amends")
        return [json.loads(line) for line in answer.stdout.splitlines()]

    return run


def test_the_doctor_and_the_list_name_the_queue_and_the_oldest_saga(
    engine: Engine, told: Any
) -> None:
    [before] = [each for each in told("doctor") if each["check"] == "queues"]
    assert before["verdict"] == "ok"
    held(engine, "younger")
    saga_id = held(engine, "older", waits=AGE + 600)
    [finding] = [each for each in told("doctor") if each["check"] == "queues"]
    assert finding["verdict"] == "warn"
    assert "2 attempts wait in queue parcels" in finding["found"]
    assert "EUR 3980 held" in finding["found"]
    assert "amends worker -Q parcels" in finding["hint"]
    [row] = told("list", "--needs-attention")
    assert (row["id"], row["why"], row["next"]) == (str(saga_id), "unclaimed", "amends doctor")
