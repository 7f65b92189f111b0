"""Two shops on one gateway account, both with the same order: each is paid for its own."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from orchestrator.keys import installation_of
from orchestrator.state import State
from orchestrator.storage import installation
from orchestrator.storage.database import Database
from recovery.reconciliation.daily import DailyReconciliation, Reports
from recovery.reconciliation.records import row_of
from steps.gateways.payment import MovementKind, ReportLine
from steps.gateways.sandbox.judge import SandboxJudge
from steps.gateways.sandbox.process import SandboxProcess
from steps.money import Money
from tests.integration.gateways.receiver import Receiver
from tests.integration.webhooks.world import PRICE, World, world
from tests.servers import INSTALLATION, Databases


@pytest.fixture
def other(
    databases: Databases, sandbox: SandboxProcess, judge: SandboxJudge, post: Receiver
) -> Iterator[World]:
    """Another shop, on the same account."""
    url = databases.create()
    with world(url, sandbox, judge, post) as made:
        installation.name(made.engine, "us-shop")
        yield made
    databases.drop(url)


def test_the_same_order_in_two_installations_is_two_charges_each_its_own(
    shop: World, other: World, order: str
) -> None:
    for each in (shop, other):
        each.runs_until(each.start(order), State.COMPLETED)

    assert shop.totals(order).captured_minor == 2 * PRICE
    assert shop.totals(order).shipments_count == 2
    captured = [each.key for each in shop.judge.effects(order) if each.operation == "capture"]
    assert {installation_of(each) for each in captured} == {INSTALLATION, "us-shop"}


def test_a_webhook_of_another_installations_payment_moves_nothing_here(
    shop: World, other: World, order: str
) -> None:
    saga_id = shop.start(order, "tok_challenge")
    shop.runs_until(saga_id, State.WAITING)
    before = shop.kinds(saga_id)
    other.runs_until(other.start(order), State.COMPLETED)

    receipt = shop.delivers(shop.told(order, "payment.succeeded"))
    report = shop.inbox.process_due()

    assert (report.told, report.nothing_new) == (0, 1)
    assert "of installation us-shop" in (shop.row_of(receipt).note or "")
    assert shop.kinds(saga_id) == before


def test_another_installations_movements_are_no_discrepancies_here(
    shop: World, other: World, order: str
) -> None:
    other.runs_until(other.start(order), State.COMPLETED)
    daily = DailyReconciliation(Database(shop.engine), shop.client, name="sandbox")
    day = daily.yesterday()
    lines = [
        ReportLine(
            kind=MovementKind(each.operation),
            reference=each.reference or "",
            payment_reference=each.payment_reference or "",
            order_reference=order,
            amount=Money(minor=each.amount_minor, currency="EUR"),
            key=each.key,
            at=each.at - timedelta(days=1),
        )
        for each in shop.judge.effects(order)
        if each.operation != "ship"
    ]
    assert [each.kind for each in lines] == ["authorize", "capture"]

    report = daily.run(day, Reports(day=[row_of(each) for each in lines], before=(), after=()))

    assert not report.found
