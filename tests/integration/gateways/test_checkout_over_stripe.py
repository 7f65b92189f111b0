"""Whole checkouts that are paid through Stripe, built as a deployment builds them."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy
import stripe

from orchestrator.client import SagaClient
from orchestrator.context import CannotTell, Found, NotLanded, Resources
from orchestrator.coordinator import Coordinator
from orchestrator.definition import Retry, SagaDefinition
from orchestrator.definitions import Definitions
from orchestrator.doorbell import SilentDoorbell
from orchestrator.entries import Direction
from orchestrator.folding import replay
from orchestrator.state import RecordedEffect, State
from orchestrator.storage.database import Database, create_engine
from steps.checkout import checkout
from steps.fraud import checkout_engine
from steps.fraud_engine import FraudEngine
from steps.gateways.carrier import Carrier
from steps.gateways.payment import PaymentGateway, RefundRequest
from steps.gateways.sandbox.client import SandboxCarrier
from steps.gateways.sandbox.judge import OrderTotals, SandboxJudge
from steps.gateways.sandbox.process import SandboxProcess
from steps.gateways.stripe.client import StripeGateway
from steps.money import Money
from steps.storage import stock
from steps.storage.shop_database import ShopDatabase
from steps.storage.velocity import PostgresVelocityTracker
from tests.integration.engine import wait_until
from tests.servers import Databases
from workers.bootstrap import carrier, payment_gateway
from workers.settings import Settings

PRICE = 2933
QUICK = Retry(max_attempts=20, base=timedelta(milliseconds=10), cap=timedelta(milliseconds=40))
HASTY = replace(
    checkout,
    version=9,
    steps=[
        replace(
            each,
            timeout=timedelta(seconds=2.2),
            lag=timedelta(seconds=0.1),
            undo_retry=QUICK,
            probe_retry=QUICK,
        )
        if each.undo_probe
        else each
        for each in checkout.steps
    ],
)
"""As patient as a test can be; its calls have to be short."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """A client and one worker in this process, whose gateway is Stripe."""

    engine: sqlalchemy.Engine
    client: SagaClient
    coordinator: Coordinator
    gateway: StripeGateway

    def sells(
        self, order: str, card: str = "pm_card_visa", definition: SagaDefinition[Any] = checkout
    ) -> State:
        """Run the order's checkout to its end."""
        stock.restock(self.engine, order, 10)
        payload = {
            "order_id": order,
            "customer_id": "C-7",
            "sku": order,
            "units": 2,
            "amount_minor": PRICE,
            "currency": "EUR",
            "payment_method": card,
        }
        saga_id = self.client.start(definition, payload, key=order).id
        wait_until(lambda: self._has_ended(saga_id))
        return self.client.get(saga_id).state

    def effects_of(self, order: str) -> dict[str, RecordedEffect]:
        """What the log knows the order's steps to have done."""
        snapshot = self.coordinator.log.read(self._saga(order))
        assert snapshot is not None
        steps = replay(snapshot.entries).steps
        return {name: each.effect for name, each in steps.items() if each.effect}

    def looks_up(
        self,
        order: str,
        step: str,
        direction: Direction,
        reference: str | None,
        effect: RecordedEffect | None = None,
    ) -> Found | NotLanded | CannotTell:
        snapshot = self.coordinator.log.read(self._saga(order))
        assert snapshot is not None
        return self.coordinator.look_up(snapshot, step, direction, reference, effect)

    def gives_back(self, payment: str, minor: int) -> str:
        """Somebody refunds a part by hand."""
        request = RefundRequest(reference=payment, amount=Money(minor=minor, currency="EUR"))
        key = f"by hand {payment} {minor}"
        return self.gateway.refund(request, key=key, timeout_seconds=5.0).reference

    def _saga(self, order: str) -> UUID:
        [found] = self.client.find(key=order)
        return found.id

    def _has_ended(self, saga_id: UUID) -> bool:
        found = self.client.get(saga_id)
        if found.is_terminal or found.is_parked:
            return True
        snapshot = self.coordinator.log.read(saga_id)
        assert snapshot is not None
        for each in snapshot.attempts:
            claim = self.coordinator.claim(each.id)
            while claim is not None:
                claim = self.coordinator.execute(claim, lambda _queue: True)
        return False


@pytest.fixture(scope="module")
def shop(databases: Databases, sandbox: SandboxProcess) -> Iterator[Shop]:
    url = databases.create()
    engine: sqlalchemy.Engine = create_engine(url, pool_size=5)
    settings = Settings.load(
        gateway="stripe",
        stripe_key="sk_test_not_a_real_key",
        gateway_url=sandbox.base_url,
        carrier_url=sandbox.base_url,
    )
    definitions = Definitions([checkout, HASTY])
    gateway, ships = payment_gateway(settings), carrier(settings)
    assert isinstance(gateway, StripeGateway)
    assert isinstance(ships, SandboxCarrier)
    with closing(gateway), closing(ships):
        parts: dict[type, Callable[[], Any]] = {
            PaymentGateway: lambda: gateway,
            Carrier: lambda: ships,
            ShopDatabase: lambda: ShopDatabase(engine),
            FraudEngine: lambda: checkout_engine(
                PostgresVelocityTracker(engine), blocklist=(), attempts_per_hour=20
            ),
        }
        yield Shop(
            engine=engine,
            client=SagaClient(engine, definitions=definitions),
            coordinator=Coordinator(
                database=Database(engine),
                definitions=definitions,
                doorbell=SilentDoorbell(),
                owner=lambda: "this process",
                resources=Resources(factories=parts),
            ),
            gateway=gateway,
        )
    engine.dispose()
    databases.drop(url)


def totals_of(judge: SandboxJudge, order: str) -> OrderTotals:
    totals = judge.totals_of(order)
    assert totals is not None
    return totals


def test_an_order_is_paid_through_stripe_and_shipped(
    shop: Shop, judge: SandboxJudge, order: str
) -> None:
    assert shop.sells(order) is State.COMPLETED

    totals = totals_of(judge, order)
    assert (totals.kept_minor, totals.open_holds_count, totals.shipments_count) == (PRICE, 0, 1)


def test_a_declined_order_is_taken_back(shop: Shop, judge: SandboxJudge, order: str) -> None:
    assert shop.sells(order, "pm_card_chargeDeclined") is State.COMPENSATED

    assert judge.totals_of(order) is None


def test_a_declined_payment_is_closed_to_the_payers_other_cards(
    shop: Shop, sandbox: SandboxProcess, order: str
) -> None:
    shop.sells(order, "pm_card_chargeDeclined")

    v1: Any = stripe.StripeClient(
        "sk_test_not_a_real_key", base_addresses={"api": sandbox.base_url}
    ).v1
    query = f"metadata['order_reference']:'{order}'"
    [payment] = v1.payment_intents.search({"query": query}).data
    with pytest.raises(stripe.InvalidRequestError):
        v1.payment_intents.confirm(payment.id, {"payment_method": "pm_card_visa"})


def test_a_refused_parcel_gives_the_money_back(shop: Shop, judge: SandboxJudge, order: str) -> None:
    judge.script("refuse", order_reference=order, operation="ship")

    assert shop.sells(order) is State.COMPENSATED
    totals = totals_of(judge, order)
    assert totals.is_clean
    assert (totals.captured_minor, totals.refunded_minor) == (PRICE, PRICE)


def test_a_wrong_security_code_lets_go_of_the_hold(
    shop: Shop, judge: SandboxJudge, order: str
) -> None:
    assert shop.sells(order, "pm_card_cvcCheckFail") is State.COMPENSATED

    totals = totals_of(judge, order)
    assert (totals.voided_minor, totals.captures_count, totals.open_holds_count) == (PRICE, 0, 0)


@pytest.mark.parametrize("operation", ["refund", "void"])
def test_an_undo_whose_failure_stripe_keeps_is_made_under_a_new_key(
    shop: Shop,
    judge: SandboxJudge,
    order: str,
    operation: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("steps.payment.CALL", timedelta(seconds=1))
    judge.script("stored_500", order_reference=order, operation=operation)
    if operation == "refund":
        judge.script("refuse", order_reference=order, operation="ship")
    card = "pm_card_visa" if operation == "refund" else "pm_card_cvcCheckFail"

    assert shop.sells(order, card, HASTY) is State.COMPENSATED
    assert totals_of(judge, order).is_clean


@pytest.mark.parametrize("operation", ["authorize", "capture"])
@pytest.mark.parametrize(
    ("fault", "options"),
    [
        ("drop_after", {}),
        ("error_after", {}),
        ("error_before", {}),
        ("rate_limited", {}),
        ("stored_500", {"lands": True}),
    ],
)
def test_whatever_happens_to_an_answer_the_payer_is_charged_once(
    shop: Shop,
    judge: SandboxJudge,
    order: str,
    operation: str,
    fault: str,
    options: dict[str, bool],
) -> None:
    judge.script(fault, order_reference=order, operation=operation, **options)

    assert shop.sells(order) is State.COMPLETED

    totals = totals_of(judge, order)
    assert (totals.authorizations_count, totals.captures_count) == (1, 1)
    assert (totals.kept_minor, totals.open_holds_count) == (PRICE, 0)


def test_what_an_operator_says_is_looked_up_at_stripe(shop: Shop, order: str) -> None:
    assert shop.sells(order) is State.COMPLETED
    assert shop.sells(f"{order}-b") is State.COMPLETED
    ours, theirs = shop.effects_of(order), shop.effects_of(f"{order}-b")

    for step in ("authorize_payment", "capture_payment", "create_shipment"):
        found = shop.looks_up(order, step, Direction.FORWARD, ours[step].reference)
        assert isinstance(found, Found)
        assert found.fits, (found.theirs, found.ours)
        assert found.effect.reference == ours[step].reference
        other = shop.looks_up(order, step, Direction.FORWARD, theirs[step].reference)
        assert not (isinstance(other, Found) and other.fits)
        nothing = shop.looks_up(order, step, Direction.FORWARD, "pi_0000")
        assert isinstance(nothing, NotLanded)


def test_what_an_operator_says_of_an_undo_is_looked_up_at_stripe(shop: Shop, order: str) -> None:
    assert shop.sells(order) is State.COMPLETED
    taken = shop.effects_of(order)["capture_payment"]

    def refund(reference: str | None) -> Found:
        found = shop.looks_up(
            order, "capture_payment", Direction.COMPENSATE, reference, effect=taken
        )
        assert isinstance(found, Found)
        return found

    assert refund(taken.reference).untouched
    assert not refund(taken.reference).fits
    assert taken.reference is not None
    given = [shop.gives_back(taken.reference, minor) for minor in (500, PRICE - 500)]
    for name in (*given, taken.reference):
        assert refund(name).fits, name
    moved = refund(given[-1]).effect.movements
    assert sorted(each.amount_minor for each in moved) == [500, PRICE - 500]
