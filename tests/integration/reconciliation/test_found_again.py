"""What is found again, or not any more, before anybody could answer it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator.storage.alerts import Alerts
from orchestrator.storage.database import Database
from recovery.reconciliation.closing import close
from recovery.reconciliation.daily import DailyReconciliation
from recovery.reconciliation.discrepancies import Discrepancy, DiscrepancyType
from recovery.reconciliation.storage.findings import FindingState
from tests.integration.engine import Engine
from tests.integration.reconciliation.test_daily import (
    alerts,
    completed,
    findings,
    line,
    right,
    run,
)
from tests.integration.reconciliation.test_ledger import SHOP
from tests.yesterday import YESTERDAY


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = Engine(database, SHOP)
    yield made
    made.close()


@pytest.fixture
def daily(engine: Engine) -> DailyReconciliation:
    return DailyReconciliation(Database(engine.pool), engine.client, name="bank")


def test_an_alert_of_what_could_never_be_acted_upon_is_over_when_it_is_gone(
    engine: Engine, daily: DailyReconciliation
) -> None:
    def fails(_: Discrepancy) -> None:
        raise RuntimeError("not now")

    daily.on(DiscrepancyType.MISSING_GATEWAY, fails)
    completed(engine, "a")
    run(daily, [line("a", "authorize")])
    daily.retry(YESTERDAY)
    assert [each.closed_at for each in alerts(engine)] == [None]

    run(daily, right("a"))

    assert [each.state for each in findings(engine)] == [FindingState.GONE]
    assert [each.closed_at for each in alerts(engine) if each.closed_at is None] == []


def test_an_answered_alert_does_not_hide_that_the_sides_differ_in_another_way(
    engine: Engine, daily: DailyReconciliation
) -> None:
    completed(engine, "a")
    run(daily, [line("a", "authorize"), line("a", "capture", 99)])
    [first] = alerts(engine)
    Alerts(Database(engine.pool)).acknowledge(first.id, actor="ada", reason="I look into it")

    run(daily, [line("a", "authorize"), line("a", "capture", 5)])
    run(daily, [line("a", "authorize"), line("a", "capture", 5)])

    [again] = [each for each in alerts(engine) if each.closed_at is None]
    assert "5 EUR" in str(again.data["question"])
    assert len(alerts(engine)) == 2


def test_what_a_person_resolved_and_a_later_run_does_not_find_is_not_counted_as_found(
    engine: Engine, daily: DailyReconciliation
) -> None:
    completed(engine, "a")
    run(daily, [line("a", "authorize")])
    [found] = findings(engine)
    close(
        Database(engine.pool), found, FindingState.RESOLVED, actor="ada", reason="they sent it late"
    )

    done = run(daily, right("a"))

    assert done.summary()["missing_gateway"] == 0


def test_no_card_number_of_a_report_is_stored(engine: Engine, daily: DailyReconciliation) -> None:
    number = "4242424242424242"
    run(
        daily,
        [
            line("a", "capture", reference=number),
            line(number, "capture", reference="x", key=f"k {number}", payment_reference=number),
        ],
    )

    rows = engine.sql(
        "SELECT d::text FROM reconciliation.discrepancy d "
        "UNION ALL SELECT a::text FROM amends.alert a"
    )
    assert len(rows) == 4
    assert [each for each in rows if number in each[0]] == []
