"""A report that its gateway breaks: in a line, in a page, in the middle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from orchestrator.storage.database import Database
from recovery.reconciliation.daily import DailyReconciliation
from recovery.reconciliation.discrepancies import DiscrepancyType
from recovery.reconciliation.storage.findings import Finding, Findings, FindingState
from steps.gateways.errors import LookupFailedError
from tests.integration.engine import Engine
from tests.integration.gateways.calls import connected
from tests.integration.reconciliation.test_daily import completed
from tests.integration.reconciliation.test_ledger import SHOP
from tests.paged_peer import LOST, page, paged_peer, told
from tests.yesterday import NOON, YESTERDAY

AT = NOON.isoformat()
CARD = "4242424242424242"


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = Engine(database, SHOP)
    yield made
    made.close()


@contextmanager
def reconciling(engine: Engine, *answers: bytes) -> Iterator[DailyReconciliation]:
    """A gateway that reports by these pages, and nothing of the days around."""
    with paged_peer([*answers, page([])]) as url, connected(url) as gateway:
        yield DailyReconciliation(Database(engine.pool), engine.client, gateway)


def theirs(engine: Engine) -> Sequence[Finding]:
    found = Findings(Database(engine.pool)).find(closed_too=True, limit=100)
    return [each for each in found if each.discrepancy.side != "internal"]


def right(*orders: str) -> list[object]:
    return [
        told(each, AT, operation=operation)
        for each in orders
        for operation in ("authorize", "capture")
    ]


def test_a_broken_line_of_a_page_is_a_discrepancy_that_hides_no_other(engine: Engine) -> None:
    completed(engine, "a", "b")
    torn = told("x", AT, amount_minor="lots", note=f"paid with {CARD}\n\x1b[2J")

    with reconciling(engine, page([*right("a"), torn], 3), page(right("b"))) as daily:
        done = daily.run(YESTERDAY)

    assert done.run.matched_count == 4
    [finding] = theirs(engine)
    found = finding.discrepancy
    assert (found.type, found.name, found.side) == (DiscrepancyType.INVALID_ROW, "row 3", "gateway")
    assert found.why is not None
    assert '"reference": "p-x"' in found.why
    assert CARD not in found.why
    assert found.why.isprintable()
    assert finding.state is FindingState.ACTED


def test_a_broken_line_near_midnight_of_a_neighbour_ends_no_run(engine: Engine) -> None:
    with reconciling(engine, page(right("a")), page(["torn"]), page(["torn"])) as daily:
        done = daily.run(YESTERDAY)

    assert done.found == {"missing_internal": 2}


@pytest.mark.parametrize("broken", [LOST, b"<html>", page({"error": "busy"})])
def test_a_report_that_breaks_in_its_seventh_page_is_none(engine: Engine, broken: bytes) -> None:
    """What was read is not the day: nothing is missing in it, and what was found is not gone."""
    completed(engine, "a")
    with reconciling(engine, page(right("a", "x"))) as daily:
        daily.run(YESTERDAY)
    before = theirs(engine)
    assert [each.discrepancy.type for each in before] == ["missing_internal"] * 2
    pages = [page([told(f"o-{each}", AT)], each) for each in range(1, 7)]

    with reconciling(engine, *pages, broken) as daily, pytest.raises(LookupFailedError):
        daily.run(YESTERDAY)

    assert theirs(engine) == before
    run = Findings(Database(engine.pool)).run_of("sandbox", YESTERDAY)
    assert run is not None
    assert run.run_count == 1


def test_another_broken_line_in_the_place_of_an_accepted_one_is_another_discrepancy(
    engine: Engine,
) -> None:
    def run(line: object) -> FindingState:
        with reconciling(engine, page([line])) as daily:
            daily.run(YESTERDAY)
        [finding] = theirs(engine)
        return finding.state

    assert run("torn") is FindingState.ACTED
    engine.sql(
        "UPDATE reconciliation.discrepancy SET state = 'accepted', closed_at = now(), "
        "closed_by = 'ada', reason = 'known'"
    )
    assert run("torn") is FindingState.ACCEPTED
    assert run("torn otherwise") is FindingState.ACTED
