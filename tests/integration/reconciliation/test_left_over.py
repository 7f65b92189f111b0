"""What a run leaves to a later one, and what happens beside it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from orchestrator.storage.database import Database
from recovery.reconciliation.closing import close
from recovery.reconciliation.daily import DailyReconciliation
from recovery.reconciliation.discrepancies import Discrepancy, DiscrepancyType
from recovery.reconciliation.storage.findings import FindingState
from steps.gateways.sandbox.process import SandboxProcess
from tests.integration.engine import Engine
from tests.integration.reconciliation.test_cli_reconcile import gateway, nightly
from tests.integration.reconciliation.test_daily import (
    MIDNIGHT,
    alerts,
    completed,
    findings,
    line,
    right,
    run,
    told,
)
from tests.integration.reconciliation.test_ledger import SHOP

__all__ = ["gateway"]


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = Engine(database, SHOP)
    yield made
    made.close()


@pytest.fixture
def daily(engine: Engine) -> DailyReconciliation:
    return DailyReconciliation(Database(engine.pool), engine.client, name="bank")


def test_what_was_found_on_an_earlier_day_and_never_acted_upon_is_acted_upon(
    engine: Engine, database: str, gateway: SandboxProcess
) -> None:
    """The run was killed when it was kept, or failed to act, and midnight came."""
    completed(engine, "a")
    nightly(engine, database, gateway.base_url, 0)
    nightly(engine, database, gateway.base_url, 0)
    engine.sql("DELETE FROM amends.alert")
    engine.sql("INSERT INTO reconciliation.run SELECT gateway, day - 2, 1, 0, 0 FROM "
               "reconciliation.run")  # fmt: skip
    engine.sql("UPDATE reconciliation.discrepancy SET day = day - 2, state = 'open', "
               "act_count = 0, acted_at = NULL")  # fmt: skip

    nightly(engine, database, gateway.base_url, 0)

    assert {each.state for each in findings(engine)} == {FindingState.ACTED}
    assert len(alerts(engine)) == 2


def test_what_a_person_closes_while_it_is_acted_upon_leaves_no_alert(
    engine: Engine, daily: DailyReconciliation
) -> None:
    def close_it(_: Discrepancy) -> None:
        [found] = findings(engine)
        close(Database(engine.pool), found, FindingState.ACCEPTED, actor="ada", reason="known")

    daily.on(DiscrepancyType.MISSING_GATEWAY, close_it)
    completed(engine, "a")

    run(daily, [line("a", "authorize")])

    [alert] = alerts(engine)
    assert alert.closed_at is not None
    assert [each.state for each in findings(engine)] == [FindingState.ACCEPTED]


@pytest.mark.parametrize("late", [timedelta(minutes=30), timedelta(hours=5), timedelta(hours=23)])
def test_what_was_written_down_after_midnight_is_looked_for_on_the_whole_day_before(
    engine: Engine, daily: DailyReconciliation, late: timedelta
) -> None:
    """Its answer was lost, and settled hours later: the gateway's day before has it."""
    completed(engine, "a", first=MIDNIGHT + timedelta(seconds=1))
    before = right("a", at=MIDNIGHT - late)

    done = run(daily, right("b"), before=[*before, *right("c", at=MIDNIGHT - late)])

    assert told(engine) == [
        (DiscrepancyType.MISSING_INTERNAL, kind, "p-b") for kind in ("authorize", "capture")
    ]
    assert done.run.matched_count == 0
