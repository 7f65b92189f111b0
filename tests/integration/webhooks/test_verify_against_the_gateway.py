"""``amends verify --gateway``: the sandbox's own report against the log."""

from __future__ import annotations

from datetime import timedelta

import pytest

from orchestrator.definitions import Definitions
from orchestrator.state import State
from orchestrator.storage.database import Database
from recovery import verification
from recovery.verification import Verification
from steps.checkout import checkout
from steps.gateways.payment import ChargeRequest
from steps.money import Money
from tests.integration.webhooks.world import PRICE, World, key_of
from workers.bootstrap import lent_gateway

DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a test would wait until log and gateway have had their time to agree."""
    monkeypatch.setattr(verification, "MARGIN", timedelta(0))


def found(shop: World, order: str) -> list[str]:
    """What is found of an order; the gateway knows those of other tests too."""
    with lent_gateway(shop.settings) as gateway:
        verifying = Verification(Database(shop.engine), Definitions([checkout]), gateway)
        return [each.invariant for each in verifying.run(DAY) if order in each.subject]


def test_an_honest_checkout_agrees_with_the_gateway(shop: World, order: str) -> None:
    shop.runs_until(shop.start(order), State.COMPLETED)
    shop.runs_until(shop.start(f"{order}-declined", "tok_declined"), State.COMPENSATED)
    assert found(shop, order) == []


def test_a_charge_of_ours_that_no_log_tells_of_is_found(shop: World, order: str) -> None:
    shop.runs_until(shop.start(order), State.COMPLETED)
    shop.judge.script("forget_key", order_reference=order, operation="authorize")
    with lent_gateway(shop.settings) as gateway:
        gateway.authorize(
            ChargeRequest(
                amount=Money(minor=PRICE, currency="EUR"), token="tok_ok", order_reference=order
            ),
            key=key_of(order),
            timeout_seconds=5,
        )
    assert found(shop, order) == ["every effect is in its log"]
