"""What else a nightly prune lets go: closed alerts, and records of idempotent calls."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID, uuid4

import psycopg
import pytest

from orchestrator.storage.alerts import Alerts
from orchestrator.storage.database import Database
from orchestrator.storage.idempotency import PostgresIdempotencyStore
from orchestrator.storage.retention import Retention
from tests.ended_sagas import NINETY_DAYS, ORDER, SHOP, prune
from tests.integration.engine import Engine
from tests.integration.test_retention_rights import as_role, refused

ALERT = """
INSERT INTO amends.alert (id, kind, about, saga_id, data, due_at, closed_at, closed_by)
VALUES (:id, 'saga_parked', :about, :saga, '{}',
    CASE WHEN :closed THEN NULL ELSE clock_timestamp() END,
    CASE WHEN :closed THEN clock_timestamp() - make_interval(days => :days) END, 'ada')
"""

RECORD = """
INSERT INTO amends.idempotency_record (scope, key, fingerprint, state, repeatable, token, owner,
    keep_for, result, claimed_at, ended_at, expires_at)
VALUES ('charge', :key, 'f', :state, false, gen_random_uuid(), 'w', interval '1 day',
    CASE WHEN :state = 'succeeded' THEN '1'::json END, clock_timestamp(), clock_timestamp(),
    CASE WHEN :state = 'succeeded' THEN clock_timestamp() + make_interval(days => :days) END)
"""


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = Engine(database, SHOP)
    yield made
    made.close()


@pytest.fixture
def retention(engine: Engine) -> Retention:
    return Retention(Database(engine.pool))


def alert(
    engine: Engine,
    about: str,
    *,
    saga: UUID | None = None,
    days: int = 100,
    closed: bool = True,
) -> None:
    engine.sql(ALERT, id=uuid4(), about=about, saga=saga, days=days, closed=closed)


def left(engine: Engine) -> set[str]:
    return {about for (about,) in engine.sql("SELECT about FROM amends.alert")}


def keys(engine: Engine) -> set[str]:
    return {key for (key,) in engine.sql("SELECT key FROM amends.idempotency_record")}


def test_alerts_go_that_were_closed_long_ago(engine: Engine, retention: Retention) -> None:
    alert(engine, "old", saga=uuid4())
    alert(engine, "sweepers until yesterday")
    alert(engine, "young", days=80)
    alert(engine, "open", closed=False)

    assert prune(retention, dry_run=True).alerts == 0
    assert prune(retention).alerts == 2

    assert left(engine) == {"young", "open"}


def test_one_that_still_keeps_another_from_being_raised_stays(
    engine: Engine, retention: Retention
) -> None:
    running = engine.client.start(SHOP, ORDER, key="running").id
    alert(engine, "running", saga=running)
    alert(engine, "sagas")  # acknowledged, and not over
    alert(engine, "sweepers")
    assert prune(retention).alerts == 0

    assert engine.finish(running) == "completed"
    assert prune(retention).alerts == 1
    assert left(engine) == {"sagas", "sweepers"}


def test_what_was_acknowledged_of_a_saga_that_is_parked_is_not_raised_again(
    engine: Engine, retention: Retention
) -> None:
    saga_id = engine.client.start(SHOP, ORDER, key="parked").id
    engine.sql(
        "INSERT INTO amends.saga_log (saga_id, seq, kind, data) "
        "VALUES (:id, 2, 'SagaParked', '{}')",
        id=saga_id,
    )
    engine.sql("UPDATE amends.saga SET state = 'stuck', seq = 2 WHERE id = :id", id=saga_id)
    alerts = Alerts(Database(engine.pool))
    [raised] = alerts.raise_parked()
    alerts.acknowledge(raised.id, actor="ada", reason="the bank is slow")
    engine.sql("UPDATE amends.alert SET closed_at = closed_at - interval '100 days'")

    prune(retention)

    assert alerts.raise_parked() == []


def test_expired_records_go_and_unknown_ones_never(engine: Engine, retention: Retention) -> None:
    for key, state, days in (
        ("expired", "succeeded", -1),
        ("kept", "succeeded", 1),
        ("unknown", "unknown", 0),
    ):
        engine.sql(RECORD, key=key, state=state, days=days)

    assert prune(retention, dry_run=True).records == 0
    assert prune(retention).records == 1

    assert keys(engine) == {"kept", "unknown"}


def test_the_janitor_lets_go_only_what_may(engine: Engine) -> None:
    alert(engine, "old")
    engine.sql(RECORD, key="expired", state="succeeded", days=-1)
    engine.sql(RECORD, key="unknown", state="unknown", days=0)
    pool = as_role(engine, "amends_janitor")
    with pool.connect() as connection:
        assert refused(connection, "DELETE FROM amends.alert")
        assert refused(connection, "DELETE FROM amends.idempotency_record")
    report = prune(Retention(Database(pool)))
    pool.dispose()
    assert (report.alerts, report.records) == (1, 1)
    assert keys(engine) == {"unknown"}


@pytest.mark.parametrize("role", ["amends_client", "amends_worker", "amends_reader"])
def test_nobody_else_deletes_an_alert_or_an_unknown(engine: Engine, role: str) -> None:
    engine.sql(RECORD, key="unknown", state="unknown", days=0)
    pool = as_role(engine, role)
    with pool.connect() as connection:
        assert refused(connection, "SELECT amends.prune_alerts(interval '90 days', 1)")
        assert refused(connection, "DELETE FROM amends.alert")
        assert refused(connection, "DELETE FROM amends.idempotency_record")
    if role == "amends_worker":
        assert PostgresIdempotencyStore(pool).prune() == 0
    pool.dispose()
    assert keys(engine) == {"unknown"}


@pytest.mark.parametrize("days", [None, timedelta(0), timedelta(hours=23)])
def test_no_alert_goes_on_the_day_it_was_closed(
    engine: Engine, retention: Retention, days: timedelta | None
) -> None:
    alert(engine, "young", days=0)
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        retention.prune_alerts(days, 1)  # type: ignore[arg-type]
    assert retention.prune_alerts(timedelta(days=1), 1) == 0
    assert retention.prune_alerts(NINETY_DAYS, 1) == 0
