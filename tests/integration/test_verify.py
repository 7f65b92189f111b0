"""``amends verify``: honest databases have no violation, and each planted one is found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from click.testing import CliRunner, Result

from orchestrator.definitions import Definitions
from orchestrator.storage import verification
from orchestrator.storage.database import Database
from orchestrator.storage.verification import ReplicaError
from recovery.cli.program import amends
from recovery.verification import Verification
from steps.checkout import checkout
from tests.histories import doing, saga
from tests.integration.engine import Engine

SHOP = saga(doing("reserve"), doing("pay"))
DAY = timedelta(days=1)


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = Engine(database, SHOP)
    yield made
    made.close()


@pytest.fixture
def run(database: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AMENDS_DATABASE_URL", database)
    monkeypatch.setenv("AMENDS_SAGAS", __name__)
    return lambda *words: CliRunner().invoke(amends, ["verify", *words], prog_name="amends")


def found(engine: Engine) -> list[str]:
    verifying = Verification(Database(engine.pool), Definitions([SHOP, checkout]))
    return sorted({each.invariant for each in verifying.run(DAY)})


def some_sagas(engine: Engine) -> None:
    """One of each: completed, running, scheduled, waiting for its pause, cancelled."""
    done = start(engine, "done")
    assert engine.finish(done) == "completed"
    cancelled = start(engine, "cancelled")
    engine.client.cancel(cancelled, reason="a test")
    assert engine.finish(cancelled) == "compensated"
    engine.claim(start(engine, "claimed"))
    start(engine, "scheduled")


def start(engine: Engine, key: str) -> UUID:
    return engine.client.start("shop", {"amount": 1}, key=key).id


def test_an_honest_database_has_no_violation(engine: Engine, run: Callable[..., Result]) -> None:
    some_sagas(engine)
    assert found(engine) == []
    answer = run()
    assert (answer.exit_code, answer.stdout) == (0, "")
    assert "no violation; 4 sagas judged" in answer.stderr


PLANTED = {
    "log is gapless": "UPDATE amends.saga SET seq = seq + 1 WHERE key = 'done'",
    "fold equals stored state": "UPDATE amends.saga SET state = 'compensated' WHERE key = 'done'",
    "an end has its time": "UPDATE amends.saga SET ended_at = NULL WHERE key = 'done'",
    "an open attempt is claimed": "DELETE FROM amends.attempt WHERE token IS NOT NULL",
    "a claimed attempt is open": "UPDATE amends.attempt SET number = 7 WHERE token IS NOT NULL",
    "a lost lease is taken over": "UPDATE amends.attempt SET "
    "lease_until = clock_timestamp() - interval '1 hour' WHERE token IS NOT NULL",
    "a due saga is looked at": "UPDATE amends.saga SET "
    "due_at = clock_timestamp() - interval '1 hour' WHERE key = 'scheduled'",
    "a saga comes due in time": "UPDATE amends.saga SET "
    "due_at = clock_timestamp() + interval '1 year' WHERE key = 'scheduled'",
    "what is wanted is scheduled": "DELETE FROM amends.attempt WHERE token IS NULL",
    "a due attempt is rung for": "UPDATE amends.attempt SET "
    "ring_at = clock_timestamp() - interval '1 hour', "
    "due_at = clock_timestamp() - interval '1 hour' WHERE token IS NULL",
    "history folds": "INSERT INTO amends.saga_log (saga_id, seq, kind, data) "
    "SELECT id, seq + 1, 'SagaStarted', jsonb_build_object('payload', 1) FROM amends.saga "
    "WHERE key = 'done'",
}


@pytest.mark.parametrize("invariant", PLANTED)
def test_a_planted_violation_is_found(
    engine: Engine, run: Callable[..., Result], invariant: str
) -> None:
    some_sagas(engine)
    engine.sql(PLANTED[invariant])
    assert invariant in found(engine)
    answer = run("--json")
    assert answer.exit_code == 9
    assert invariant in [json.loads(each)["invariant"] for each in answer.stdout.splitlines()]


def test_a_checkpoint_that_is_not_the_fold_is_found(engine: Engine) -> None:
    started = engine.client.start("shop", {"amount": 1}, key="one")
    engine.coordinator.execute(engine.claim(started.id))
    snapshot = engine.coordinator.log.read(started.id)
    assert snapshot is not None
    state: Any = engine.coordinator.mover._folded(snapshot)
    assert engine.coordinator.log.keep_checkpoint(started.id, state)
    assert found(engine) == []
    engine.sql(
        "UPDATE amends.checkpoint SET state = jsonb_set(state::jsonb, '{payload}', '2')::json"
    )
    assert found(engine) == ["a checkpoint is the fold"]


def test_only_what_moved_lately_and_what_has_not_ended_is_judged(engine: Engine) -> None:
    some_sagas(engine)
    engine.sql("UPDATE amends.saga SET updated_at = clock_timestamp() - interval '3 days'")
    engine.sql(PLANTED["an end has its time"])
    assert found(engine) == []
    verifying = Verification(Database(engine.pool), Definitions([SHOP]))
    assert [each.invariant for each in verifying.run(4 * DAY)] == ["an end has its time"]
    assert verifying.verified.sagas == 4


def test_nothing_is_written_and_what_moves_meanwhile_is_no_violation(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "ROWS", 1)
    monkeypatch.setattr(verification, "ENTRIES_AT_ONCE", 1)
    some_sagas(engine)
    with (
        verification.moment(Database(engine.pool)) as at,
        pytest.raises(Exception, match="read-only"),
    ):
        at._run("DELETE FROM amends.attempt RETURNING saga_id", {})
    verifying = Verification(Database(engine.pool), Definitions([SHOP]))
    violations = verifying.run(DAY)
    with verification.moment(Database(engine.pool)) as at:
        read = at.sagas(at.now - DAY)
        first = next(read)
        engine.work()
        rest = list(read)
    assert {each.history.key for each in (first, *rest)} == {
        "done",
        "claimed",
        "scheduled",
        "cancelled",
    }
    assert list(violations) == []


def test_a_standby_is_refused(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "MOMENT", "SELECT clock_timestamp(), true")
    with pytest.raises(ReplicaError, match="verify on the primary"):
        found(engine)
