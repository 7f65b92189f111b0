"""The checkout's steps against a real database, a real gateway process and the real coordinator."""

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from time import monotonic
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy
from sqlalchemy import select, text

from orchestrator.client import SagaClient
from orchestrator.context import (
    CannotTell,
    Effect,
    Found,
    Lease,
    NothingThere,
    NotLanded,
    Resources,
    StepContext,
)
from orchestrator.coordinator import Coordinator
from orchestrator.definition import Retry, SagaDefinition
from orchestrator.definitions import Definitions
from orchestrator.doorbell import SilentDoorbell
from orchestrator.entries import (
    StepFailed,
    StepProbed,
    StepSettled,
    StepStarted,
    StepSucceeded,
    StepWaiting,
    UndoSkipped,
)
from orchestrator.errors import OutcomeUnknown, Retriable, Terminal, Wait
from orchestrator.keys import forward_key, undo_key
from orchestrator.state import RecordedEffect, State
from orchestrator.storage import migrate
from orchestrator.storage.database import Database, create_engine
from steps.checkout import CheckoutPayload, checkout
from steps.fraud import checkout_engine, screen_fraud
from steps.fraud_engine import FraudEngine
from steps.gateways.carrier import Carrier, ShipmentRequest
from steps.gateways.errors import (
    AuthenticationRequiredError,
    CardDeclinedError,
    FraudBlockedError,
    GatewayServerError,
    GatewayTimeoutError,
    PaymentStateError,
    ShipmentRefusedError,
)
from steps.gateways.payment import CaptureRequest, ChargeRequest, PaymentGateway, RefundRequest
from steps.gateways.sandbox.client import (
    SANDBOX_CAPABILITIES,
    SandboxCarrier,
    SandboxGateway,
)
from steps.gateways.sandbox.judge import OrderTotals, SandboxJudge
from steps.gateways.sandbox.process import SandboxProcess
from steps.inventory import release_inventory, reserve_inventory
from steps.money import Money
from steps.payment import (
    AUTHENTICATED,
    authorize_payment,
    capture_payment,
    differing_from_the_order,
    refund_payment,
    void_payment,
)
from steps.payment_lookups import look_up_authorization
from steps.payment_probes import probe_authorization
from steps.shipment import create_shipment, look_up_shipment
from steps.storage import stock
from steps.storage.schema import SHOP_SCHEMA
from steps.storage.shop_database import ShopDatabase
from steps.storage.stock import (
    OutOfStockError,
    ReservationConflictError,
    ReservationState,
    StockLevel,
)
from steps.storage.tables import metadata, reservation, shipment, verdict
from steps.storage.velocity import PostgresVelocityTracker
from steps.verdict import Decision, Verdict
from tests.servers import INSTALLATION, Databases
from workers.local_servers.running_servers import RunningServers

PRICE = 2933
LONG = timedelta(seconds=30)
_serial = count(1)


@pytest.fixture(scope="module")
def engine(databases: Databases) -> Iterator[sqlalchemy.Engine]:
    url = databases.create()
    engine: sqlalchemy.Engine = create_engine(url, pool_size=30)
    yield engine
    engine.dispose()
    databases.drop(url)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    with SandboxProcess.start(tmp_path_factory.mktemp("gateway") / "ledger.db") as process:
        yield process


@pytest.fixture
def judge(sandbox: SandboxProcess) -> Iterator[SandboxJudge]:
    with SandboxJudge(sandbox.base_url) as judge:
        yield judge
        judge.clear_faults()


@pytest.fixture(scope="module")
def gateway(sandbox: SandboxProcess) -> Iterator[SandboxGateway]:
    gateway = SandboxGateway(sandbox.base_url, timeout=LONG)
    yield gateway
    gateway.close()


@pytest.fixture(scope="module")
def carrier(sandbox: SandboxProcess) -> Iterator[SandboxCarrier]:
    carrier = SandboxCarrier(sandbox.base_url, timeout=LONG)
    yield carrier
    carrier.close()


@pytest.fixture(scope="module")
def resources(
    engine: sqlalchemy.Engine, gateway: SandboxGateway, carrier: SandboxCarrier
) -> Resources:
    return Resources(
        factories={
            PaymentGateway: lambda: gateway,
            Carrier: lambda: carrier,
            ShopDatabase: lambda: ShopDatabase(engine),
            FraudEngine: lambda: checkout_engine(
                PostgresVelocityTracker(engine), blocklist=(), attempts_per_hour=20
            ),
        }
    )


@dataclass(kw_only=True)
class Order:
    """One order, and its steps called as the coordinator would call them."""

    number: int
    engine: sqlalchemy.Engine
    resources: Resources
    judge: SandboxJudge

    @property
    def id(self) -> str:
        return f"order-{self.number}"

    @property
    def sku(self) -> str:
        return f"sku-{self.number}"

    def payload(self, **changes: Any) -> dict[str, Any]:
        return {
            "order_id": self.id,
            "customer_id": f"customer-{self.number}",
            "sku": self.sku,
            "units": 2,
            "amount_minor": PRICE,
            "currency": "EUR",
            "payment_method": "tok_ok",
            **changes,
        }

    def context(
        self,
        step: str,
        *,
        undo: bool = False,
        effect: Effect | None = None,
        results: Mapping[str, Any] | None = None,
        connection: sqlalchemy.Connection | None = None,
        **changes: Any,
    ) -> StepContext[CheckoutPayload]:
        key = forward_key("checkout", self.id, step, installation=INSTALLATION)
        return StepContext(
            saga_id=UUID(int=self.number),
            definition="checkout",
            saga_key=self.id,
            step=step,
            direction="compensate" if undo else "forward",
            attempt=1,
            idempotency_key=undo_key(key, effect.reference if effect else None) if undo else key,
            step_key=key,
            now=datetime.now(UTC),
            payload=CheckoutPayload.model_validate(self.payload(**changes)),
            results=results or {},
            effect=None
            if effect is None
            else RecordedEffect(seq=1, attempt=1, reference=effect.reference, result=effect.value),
            signal=None,
            resources=self.resources,
            lease=Lease(valid_until=monotonic() + 60, ends_at=monotonic() + 60),
            connection=connection,
        )

    def reserve(self, **changes: Any) -> Effect:
        with self.engine.begin() as connection:
            return reserve_inventory(
                self.context("reserve_inventory", connection=connection, **changes)
            )

    def release(self, effect: Effect | None) -> Effect | NothingThere:
        with self.engine.begin() as connection:
            return release_inventory(
                self.context("reserve_inventory", undo=True, effect=effect, connection=connection)
            )

    def screen(self, **changes: Any) -> Effect:
        return screen_fraud(self.context("screen_fraud", **changes))

    def authorize(self, **changes: Any) -> Effect:
        return authorize_payment(self.context("authorize_payment", **changes))

    def capture(self, held: Effect) -> Effect:
        results = {"authorize_payment": held.value}
        return capture_payment(self.context("capture_payment", results=results))

    def void(
        self, effect: Effect | None = None, **changes: Any
    ) -> Effect | NothingThere | NotLanded:
        ctx = self.context("authorize_payment", undo=True, effect=effect, **changes)
        return void_payment(ctx)

    def refund(
        self, effect: Effect | None = None, *, held: Effect | None = None
    ) -> Effect | NothingThere | NotLanded:
        results = {"authorize_payment": held.value} if held else {}
        return refund_payment(
            self.context("capture_payment", undo=True, effect=effect, results=results)
        )

    def ship(self, reserved: Effect) -> Effect:
        results = {"reserve_inventory": reserved.value}
        return create_shipment(self.context("create_shipment", results=results))

    def level(self) -> StockLevel:
        with self.engine.connect() as connection:
            (level,) = [each for each in stock.levels(connection) if each.sku == self.sku]
        return level

    def totals(self) -> OrderTotals:
        totals = self.judge.totals_of(self.id)
        assert totals is not None
        return totals

    def goes_wrong(self, fault: str, operation: str, **options: Any) -> None:
        self.judge.script(fault, operation=operation, order_reference=self.id, **options)


@pytest.fixture
def order(engine: sqlalchemy.Engine, resources: Resources, judge: SandboxJudge) -> Order:
    order = Order(number=next(_serial), engine=engine, resources=resources, judge=judge)
    stock.restock(engine, order.sku, 10)
    return order


def kinds(done: Effect | NothingThere | NotLanded) -> list[tuple[str, int]]:
    assert isinstance(done, Effect)
    return [(each.kind, each.amount_minor) for each in done.movements]


# Stock.


def test_concurrent_reservations_never_oversell(engine: sqlalchemy.Engine, order: Order) -> None:
    barrier = threading.Barrier(20)

    def reserve(number: int) -> bool:
        barrier.wait(timeout=10)
        try:
            with engine.begin() as connection:
                stock.reserve(connection, key=f"{order.id}-{number}", sku=order.sku, units=3)
        except OutOfStockError:
            return False
        return True

    with ThreadPoolExecutor(20) as pool:
        reserved = sum(pool.map(reserve, range(20)))

    assert reserved == 3
    assert (order.level().reserved, order.level().available) == (9, 1)
    with engine.connect() as connection:
        rows = connection.execute(select(reservation).where(reservation.c.sku == order.sku)).all()
    assert len(rows) == 3


def test_concurrent_attempts_under_one_key_reserve_once(
    engine: sqlalchemy.Engine, order: Order
) -> None:
    def reserve(_: int) -> None:
        with engine.begin() as connection:
            stock.reserve(connection, key=order.id, sku=order.sku, units=2)

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(reserve, range(10)))

    assert order.level().reserved == 2


def test_too_little_stock_is_final_and_leaves_nothing(order: Order) -> None:
    with pytest.raises(OutOfStockError) as caught:
        order.reserve(units=11)

    assert caught.value.code == "out_of_stock"
    assert order.level().reserved == 0
    order.reserve(units=10)  # the key is free: the refused reservation was rolled back


def test_an_unknown_article_is_out_of_stock(order: Order) -> None:
    with pytest.raises(OutOfStockError):
        order.reserve(sku="never-sold")


def test_a_repeated_reservation_changes_nothing(order: Order) -> None:
    assert order.reserve() == order.reserve()
    assert order.level().reserved == 2


def test_a_key_is_not_used_for_anything_else(order: Order) -> None:
    reserved = order.reserve()

    with pytest.raises(ReservationConflictError):
        order.reserve(units=3)
    order.release(reserved)
    with pytest.raises(ReservationConflictError):
        order.reserve()
    assert order.level().reserved == 0


def test_releasing_twice_gives_the_units_back_once(order: Order) -> None:
    reserved = order.reserve()

    assert isinstance(order.release(reserved), Effect)
    assert isinstance(order.release(reserved), Effect)
    assert order.level() == StockLevel(sku=order.sku, on_hand=10, reserved=0)


def test_there_is_nothing_to_release_where_nothing_was_reserved(order: Order) -> None:
    assert order.release(None) == NothingThere()
    assert order.release(Effect(reference="no-such-key")) == NothingThere()


def test_restocking_adds_and_never_takes(engine: sqlalchemy.Engine, order: Order) -> None:
    assert stock.restock(engine, order.sku, 5).on_hand == 15
    with pytest.raises(ValueError, match="adds units"):
        stock.restock(engine, order.sku, -1)


def test_the_database_itself_refuses_to_oversell(engine: sqlalchemy.Engine, order: Order) -> None:
    with pytest.raises(sqlalchemy.exc.IntegrityError), engine.begin() as connection:
        connection.execute(
            text("UPDATE shop.stock SET reserved = 11 WHERE sku = :sku"), {"sku": order.sku}
        )


# Screening.


def test_a_blocked_order_leaves_its_verdict(engine: sqlalchemy.Engine, order: Order) -> None:
    with pytest.raises(FraudBlockedError) as caught:
        order.screen(amount_minor=10_000_000)

    assert caught.value.code == "fraud_blocked"
    with engine.connect() as connection:
        row = connection.execute(select(verdict).where(verdict.c.order_id == order.id)).one()
    assert (row.decision, row.reasons) == ("block", ["high_amount"])


def test_the_first_verdict_under_a_key_stands(engine: sqlalchemy.Engine, order: Order) -> None:
    first = Verdict(decision=Decision.REVIEW, reasons=("an_older_rule",), ruleset="2026-01")
    key = forward_key("checkout", order.id, "screen_fraud", installation=INSTALLATION)
    ShopDatabase(engine).keep_verdict(key, order.id, "customer", first)

    assert order.screen().value == {
        "decision": "review",
        "reasons": ["an_older_rule"],
        "ruleset": "2026-01",
    }


# Holding and taking.


def test_money_is_held_then_taken(order: Order) -> None:
    held = order.authorize()
    taken = order.capture(held)

    assert kinds(held) == [("authorize", PRICE)]
    assert kinds(taken) == [("capture", PRICE)]
    assert order.totals().kept_minor == PRICE


def test_doing_it_again_moves_nothing_more(order: Order) -> None:
    held = order.authorize()

    assert order.authorize() == held
    assert order.capture(held) == order.capture(held)
    assert (order.totals().authorizations_count, order.totals().captures_count) == (1, 1)


def test_a_declined_card_is_final_and_decisive(order: Order) -> None:
    with pytest.raises(CardDeclinedError) as caught:
        order.authorize(payment_method="tok_declined")

    assert caught.value.decisive
    assert order.void(payment_method="tok_declined") == NothingThere()


def challenged(order: Order) -> str:
    """Authorize with a card that wants a challenge; return the payment's reference."""
    with pytest.raises(Wait) as caught:
        order.authorize(payment_method="tok_challenge")
    assert caught.value.signal == AUTHENTICATED
    cause = caught.value.__cause__
    assert isinstance(cause, AuthenticationRequiredError)
    return str(cause.reference)


def test_a_challenge_is_waited_for_and_can_be_called_off(order: Order) -> None:
    reference = challenged(order)

    assert kinds(order.void(payment_method="tok_challenge")) == []

    with pytest.raises(RuntimeError, match="no_open_challenge"):
        order.judge.end_challenge(reference, passed=True)


def test_a_challenge_passed_meanwhile_is_voided(order: Order) -> None:
    order.judge.end_challenge(challenged(order), passed=True)

    assert kinds(order.void(payment_method="tok_challenge")) == [("void", PRICE)]
    assert order.totals().is_clean


def test_a_kept_failure_of_a_hold_that_landed_is_settled_by_looking(order: Order) -> None:
    order.goes_wrong("stored_500", "authorize", lands=True)

    with pytest.raises(GatewayServerError):
        order.authorize()  # the next attempt is told that this answer will never change

    assert kinds(order.authorize()) == [("authorize", PRICE)]
    assert order.totals().authorizations_count == 1


def test_a_kept_failure_of_a_hold_that_is_not_seen_stays_unknown(order: Order) -> None:
    order.goes_wrong("stored_500", "authorize", lands=False)

    for _ in range(2):
        with pytest.raises(OutcomeUnknown):
            order.authorize()


def test_a_lookup_without_an_answer_leaves_the_outcome_unknown(order: Order) -> None:
    order.goes_wrong("stored_500", "authorize", lands=True)
    with pytest.raises(OutcomeUnknown):
        order.authorize()
    key = forward_key("checkout", order.id, "authorize_payment", installation=INSTALLATION)
    order.judge.script("drop_before", operation="find", key=key)

    with pytest.raises(GatewayServerError):
        order.authorize()


def test_a_kept_failure_of_a_capture_that_landed_is_settled_by_looking(order: Order) -> None:
    held = order.authorize()
    order.goes_wrong("stored_500", "capture", lands=True)
    with pytest.raises(OutcomeUnknown):
        order.capture(held)

    assert kinds(order.capture(held)) == [("capture", PRICE)]


def test_a_payment_refunded_by_hand_is_not_taken_for_captured(
    order: Order, gateway: SandboxGateway
) -> None:
    held = order.authorize()
    refund_by_hand(gateway, capture_by_hand(gateway, held), PRICE)

    with pytest.raises(PaymentStateError) as caught:
        order.capture(held)

    assert caught.value.code == "already_captured"


def test_a_kept_failure_of_a_capture_that_was_refunded_by_hand_stays_unknown(
    order: Order, gateway: SandboxGateway
) -> None:
    held = order.authorize()
    order.goes_wrong("stored_500", "capture", lands=True)
    with pytest.raises(OutcomeUnknown):
        order.capture(held)
    refund_by_hand(gateway, held, PRICE)

    with pytest.raises(OutcomeUnknown):
        order.capture(held)


# What bears our key, and is not ours.

NOT_OURS: dict[str, dict[str, Any]] = {
    "order": {"order_reference": "another-order"},
    "amount": {"amount": Money(minor=PRICE + 1, currency="EUR")},
    "currency": {"amount": Money(minor=PRICE, currency="USD")},
    "payment method": {"token": "tok_untold"},
}


@pytest.mark.parametrize("differing", NOT_OURS)
def test_a_payment_under_our_key_that_is_not_this_orders_is_not_adopted(
    order: Order, gateway: SandboxGateway, differing: str
) -> None:
    """As by a gateway that forgot whose key it was: the same key, something else asked for."""
    request = ChargeRequest(
        amount=Money(minor=PRICE, currency="EUR"), token="tok_ok", order_reference=order.id
    )
    key = forward_key("checkout", order.id, "authorize_payment", installation=INSTALLATION)
    held = gateway.authorize(replace(request, **NOT_OURS[differing]), key=key, timeout_seconds=5)

    with pytest.raises(OutcomeUnknown):
        order.authorize()
    asked = probe_authorization(order.context("authorize_payment"))
    with pytest.raises(Terminal) as refused:
        order.void()

    assert isinstance(asked, CannotTell)
    assert {"currency": "amount"}.get(differing, differing) in (asked.why or "")
    assert refused.value.code == "not_ours"
    [found] = gateway.find(reference=held.reference, timeout_seconds=5)
    assert found.status == "authorized"


def test_a_payment_of_another_installation_is_not_adopted(
    order: Order, gateway: SandboxGateway
) -> None:
    """Nothing but a gateway's own mistake shows one under our key; then it is not ours."""
    paid = order.authorize()
    [payment] = gateway.find(reference=paid.reference or "", timeout_seconds=5)
    ctx = order.context("authorize_payment")
    assert differing_from_the_order(ctx, payment) == ""
    theirs = replace(payment, key=payment.key.replace(INSTALLATION, "us-shop", 1))
    assert "installation us-shop" in differing_from_the_order(ctx, theirs)


@pytest.mark.parametrize(
    "theirs",
    [
        {"installation": "us-shop"},
        {"installation": None},
        {"saga_key": "another-saga"},
        {"definition": "subscription"},
    ],
)
def test_a_payment_that_another_saga_opened_is_no_evidence(
    order: Order, gateway: SandboxGateway, theirs: dict[str, Any]
) -> None:
    """Order, amount and currency fit: two shops on one account number their orders alike."""
    named = {"definition": "checkout", "saga_key": order.id, "installation": INSTALLATION, **theirs}
    key = forward_key(**named, step="authorize_payment")
    request = ChargeRequest(
        amount=Money(minor=PRICE, currency="EUR"), token="tok_ok", order_reference=order.id
    )
    held = gateway.authorize(request, key=key, timeout_seconds=5)

    found = look_up_authorization(order.context("authorize_payment"), held.reference)

    assert isinstance(found, CannotTell)


def test_a_parcel_that_another_saga_handed_over_is_no_evidence(
    order: Order, resources: Resources
) -> None:
    key = forward_key("checkout", order.id, "create_shipment", installation="us-shop")
    sent = resources.get(Carrier).create_shipment(  # type: ignore[type-abstract]
        ShipmentRequest(order_reference=order.id), key=key, timeout_seconds=5
    )

    found = look_up_shipment(order.context("create_shipment"), sent.reference)

    assert isinstance(found, CannotTell)


def test_a_parcel_by_hand_is_no_evidence_beside_one_under_our_key(
    order: Order, resources: Resources
) -> None:
    carrier, ctx = resources.get(Carrier), order.context("create_shipment")  # type: ignore[type-abstract]
    sent = [
        carrier.create_shipment(
            ShipmentRequest(order_reference=order.id), key=key, timeout_seconds=5
        )
        for key in (ctx.step_key, f"by-hand-{order.id}")
    ]

    assert isinstance(look_up_shipment(ctx, sent[1].reference), CannotTell)


@pytest.mark.parametrize("token", ["tok_ok", "tok_challenge"])
def test_a_payment_by_hand_is_no_evidence_beside_one_under_our_key(
    order: Order, gateway: SandboxGateway, token: str
) -> None:
    """Else the one whose answer was lost would be taken for settled, and held for ever."""
    request = ChargeRequest(
        amount=Money(minor=PRICE, currency="EUR"), token=token, order_reference=order.id
    )
    ctx = order.context("authorize_payment")
    with suppress(AuthenticationRequiredError):
        gateway.authorize(request, key=ctx.step_key, timeout_seconds=5)
    by_hand = gateway.authorize(
        replace(request, token="tok_ok"), key=f"by-hand-{order.id}", timeout_seconds=5
    )

    found = look_up_authorization(ctx, by_hand.reference)

    assert isinstance(found, CannotTell)
    assert "our own key opened" in (found.why or "")


def test_a_payment_that_a_person_opened_for_the_order_is_evidence(
    order: Order, gateway: SandboxGateway
) -> None:
    request = ChargeRequest(
        amount=Money(minor=PRICE, currency="EUR"), token="tok_ok", order_reference=order.id
    )
    held = gateway.authorize(request, key=f"by-hand-{order.id}", timeout_seconds=5)

    found = look_up_authorization(order.context("authorize_payment"), held.reference)

    assert isinstance(found, Found)
    assert found.fits


# Letting go.


def test_a_hold_is_voided_once_and_the_second_time_is_the_same_answer(order: Order) -> None:
    held = order.authorize()

    assert kinds(order.void(held)) == [("void", PRICE)]
    assert kinds(order.void(held)) == [("void", PRICE)]
    assert order.totals().is_clean
    assert order.totals().voided_minor == PRICE


def test_no_payment_to_void_may_be_one_that_is_not_shown_yet(order: Order) -> None:
    answer = order.void()

    assert isinstance(answer, NotLanded)
    assert answer.lag == SANDBOX_CAPABILITIES.lookup_lag


@pytest.mark.parametrize("fault", ["drop_before", "rate_limited"])
def test_a_lookup_without_an_answer_is_no_denial(order: Order, fault: str) -> None:
    key = forward_key("checkout", order.id, "authorize_payment", installation=INSTALLATION)
    order.judge.script(fault, operation="find", key=key, retry_after_seconds=0)

    with pytest.raises(Retriable):
        order.void()


def test_a_hold_nobody_heard_of_is_found_and_voided(order: Order) -> None:
    order.goes_wrong("drop_after", "authorize")
    with pytest.raises(GatewayTimeoutError):
        order.authorize()

    assert kinds(order.void()) == [("void", PRICE)]
    assert order.totals().is_clean


def test_a_void_that_meets_captured_money_does_not_lie(order: Order) -> None:
    held = order.authorize()
    order.capture(held)

    for effect in (held, None):
        with pytest.raises(Terminal) as caught:
            order.void(effect)
        assert caught.value.code == "captured"
        assert caught.value.details["at_risk_minor"] == PRICE


def test_a_void_after_the_whole_refund_is_done_already(order: Order) -> None:
    held = order.authorize()
    order.refund(order.capture(held))

    assert order.void(held) == Effect(value={"status": "refunded"}, reference=held.reference)
    assert order.void() == NothingThere()


def test_a_kept_failure_of_a_void_that_landed_is_settled_by_looking(order: Order) -> None:
    held = order.authorize()
    order.goes_wrong("stored_500", "void", lands=True)
    with pytest.raises(OutcomeUnknown):
        order.void(held)

    assert kinds(order.void(held)) == [("void", PRICE)]


# Giving back.


def test_everything_taken_is_given_back_once(order: Order) -> None:
    taken = order.capture(order.authorize())

    first, second = order.refund(taken), order.refund(taken)

    assert first == second
    assert kinds(first) == [("refund", PRICE)]
    assert order.totals().is_clean
    assert order.totals().refunded_minor == PRICE


def test_there_is_nothing_to_refund_where_nothing_was_taken(order: Order) -> None:
    assert order.refund() == NothingThere()
    assert order.refund(held=order.authorize()) == NothingThere()


def test_an_unseen_payment_is_not_taken_for_one_without_a_capture(order: Order) -> None:
    held = order.authorize()
    order.capture(held)
    order.judge.script("not_found", operation="find", reference=held.reference)

    assert isinstance(order.refund(held=held), NotLanded)
    assert kinds(order.refund(held=held)) == [("refund", PRICE)]


def test_a_capture_nobody_heard_of_is_found_and_refunded(order: Order) -> None:
    held = order.authorize()
    order.goes_wrong("drop_after", "capture")
    with pytest.raises(GatewayTimeoutError):
        order.capture(held)

    assert kinds(order.refund(held=held)) == [("refund", PRICE)]
    assert order.refund(held=held) == NothingThere()
    assert order.totals().is_clean


def test_an_accepted_refund_says_that_it_is_pending(order: Order) -> None:
    taken = order.capture(order.authorize())
    order.goes_wrong("refund_pending", "refund")

    refunded = order.refund(taken)

    assert isinstance(refunded, Effect)
    assert refunded.value["status"] == "pending"
    assert refunded.reference == refunded.value["reference"]


def test_a_refund_by_others_of_everything_is_done_already(
    order: Order, gateway: SandboxGateway
) -> None:
    taken = order.capture(order.authorize())
    refund_by_hand(gateway, taken, 1000)
    refund_by_hand(gateway, taken, PRICE - 1000)

    refunded = order.refund(taken)

    assert kinds(refunded) == [("refund", 1000), ("refund", PRICE - 1000)]
    assert order.totals().is_clean


def test_a_refund_by_others_of_a_part_needs_a_person(order: Order, gateway: SandboxGateway) -> None:
    taken = order.capture(order.authorize())
    refund_by_hand(gateway, taken, 1000)

    with pytest.raises(PaymentStateError) as caught:
        order.refund(taken)

    assert caught.value.code == "exceeds_captured"
    assert order.totals().refunded_minor == 1000


def capture_by_hand(gateway: SandboxGateway, held: Effect) -> Effect:
    assert held.reference is not None
    request = CaptureRequest(reference=held.reference, amount=Money(minor=PRICE, currency="EUR"))
    gateway.capture(request, key=f"by-hand-{held.reference}", timeout_seconds=10)
    return held


def refund_by_hand(gateway: SandboxGateway, taken: Effect, minor: int) -> None:
    assert taken.reference is not None
    request = RefundRequest(reference=taken.reference, amount=Money(minor=minor, currency="EUR"))
    gateway.refund(request, key=f"by-hand-{taken.reference}-{minor}", timeout_seconds=10)


# Shipping.


def test_a_parcel_leaves_once_and_its_units_with_it(
    engine: sqlalchemy.Engine, order: Order
) -> None:
    reserved = order.reserve()

    assert order.ship(reserved) == order.ship(reserved)

    assert order.totals().shipments_count == 1
    assert order.level() == StockLevel(sku=order.sku, on_hand=8, reserved=0)
    with engine.connect() as connection:
        row = connection.execute(select(shipment).where(shipment.c.order_id == order.id)).one()
        state = connection.scalar(
            select(reservation.c.state).where(reservation.c.key == row.reservation_key)
        )
    assert state == ReservationState.SHIPPED


def test_units_that_left_are_not_released(order: Order) -> None:
    reserved = order.reserve()
    order.ship(reserved)

    with pytest.raises(Terminal) as caught:
        order.release(reserved)

    assert caught.value.code == "already_shipped"
    assert order.level().on_hand == 8


def test_a_parcel_the_carrier_will_not_take_is_final(order: Order) -> None:
    reserved = order.reserve()
    order.goes_wrong("refuse", "ship")

    with pytest.raises(ShipmentRefusedError) as caught:
        order.ship(reserved)

    assert caught.value.decisive
    assert order.level().reserved == 2


def test_a_kept_failure_of_a_parcel_that_left_is_settled_by_looking(order: Order) -> None:
    reserved = order.reserve()
    order.goes_wrong("stored_500", "ship", lands=True)
    with pytest.raises(OutcomeUnknown):
        order.ship(reserved)

    assert order.ship(reserved).value["tracking_number"]
    assert order.totals().shipments_count == 1


# The schema.


def test_the_migrated_shop_is_the_declared_one(
    engine: sqlalchemy.Engine, servers: RunningServers
) -> None:
    declared = create_engine(servers.postgres.create_database("declared_shop"))
    try:
        with declared.begin() as connection:
            connection.execute(text("CREATE SCHEMA shop"))
            metadata.create_all(connection)
        assert catalogue(engine) == catalogue(declared)
    finally:
        declared.dispose()


def test_migrating_again_finds_nothing_to_do(engine: sqlalchemy.Engine) -> None:
    head = migrate.head(SHOP_SCHEMA)

    assert migrate.upgrade(engine, SHOP_SCHEMA) == (head, head)
    assert "CREATE TABLE shop.stock" in migrate.sql(SHOP_SCHEMA)


def catalogue(engine: sqlalchemy.Engine) -> list[list[Any]]:
    """Everything Postgres knows of the shop's tables, without the migration's own table."""
    queries = (
        """SELECT relname, attnum, attname, format_type(atttypid, atttypmod), attnotnull,
                  pg_get_expr(adbin, adrelid), reloptions
             FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
             LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
            WHERE relnamespace = 'shop'::regnamespace AND relkind = 'r' AND attnum > 0
              AND relname <> 'schema_version' ORDER BY 1, 2""",
        """SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
             FROM pg_constraint WHERE connamespace = 'shop'::regnamespace
              AND conrelid::regclass::text <> 'shop.schema_version' ORDER BY 1, 2""",
        """SELECT indexdef FROM pg_indexes WHERE schemaname = 'shop'
              AND tablename <> 'schema_version' ORDER BY 1""",
    )
    with engine.connect() as connection:
        return [[tuple(row) for row in connection.execute(text(query))] for query in queries]


# Whole sagas.


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """A client and one worker in this process; every look finds what is due, as a sweep does."""

    definition: SagaDefinition[Any]
    client: SagaClient
    coordinator: Coordinator

    def run(self, order: Order, *, until: State | None = None, **changes: Any) -> UUID:
        """Start the order's checkout and return its id once it has ended, or is in that state."""
        saga_id = self.client.start(self.definition, order.payload(**changes), key=order.id).id
        self.ends(saga_id, until=until)
        return saga_id

    def ends(self, saga_id: UUID, *, until: State | None = None, after: int = -1) -> None:
        """Work until the saga has ended, or is in that state after so many waits."""
        deadline, pause = monotonic() + 30, threading.Event()
        while not (summary := self.client.get(saga_id)).is_terminal:
            if summary.state == until and len(self.entries(saga_id, StepWaiting)) > after:
                return
            assert monotonic() < deadline, f"still {summary.state} at {summary.step}"
            assert not summary.is_parked, summary
            snapshot = self.coordinator.log.read(saga_id)
            assert snapshot is not None
            for each in snapshot.attempts:
                claim = self.coordinator.claim(each.id)
                while claim is not None:
                    claim = self.coordinator.execute(claim, lambda _queue: True)
            pause.wait(0.02)

    def state(self, saga_id: UUID) -> State:
        return self.client.get(saga_id).state

    def ran(self, saga_id: UUID) -> list[str]:
        """The attempts of the saga in order; an undo with a minus before its step's name."""
        return [
            ("-" if each.entry.direction == "compensate" else "") + each.entry.step
            for each in self.coordinator.log.entries(saga_id)
            if isinstance(each.entry, StepStarted)
        ]

    def entries(self, saga_id: UUID, kind: type[Any]) -> list[Any]:
        log = self.coordinator.log.entries(saga_id)
        return [each.entry for each in log if isinstance(each.entry, kind)]


@pytest.fixture
def shop(engine: sqlalchemy.Engine, resources: Resources) -> Shop:
    return selling(checkout, engine, resources)


def selling(
    definition: SagaDefinition[Any], engine: sqlalchemy.Engine, resources: Resources
) -> Shop:
    return Shop(
        definition=definition,
        client=SagaClient(engine, definitions=Definitions([definition])),
        coordinator=Coordinator(
            database=Database(engine),
            definitions=Definitions([definition]),
            doorbell=SilentDoorbell(),
            owner=lambda: "this process",
            resources=resources,
        ),
    )


def is_untouched(order: Order) -> bool:
    """Nothing is reserved, kept or held."""
    totals = order.judge.totals_of(order.id)
    level = order.level()
    return (level.on_hand, level.reserved) == (10, 0) and (totals is None or totals.is_clean)


def test_an_order_is_paid_and_shipped(shop: Shop, order: Order) -> None:
    saga_id = shop.run(order)

    assert shop.state(saga_id) is State.COMPLETED
    assert shop.ran(saga_id) == [each.name for each in checkout.steps]
    assert order.totals().kept_minor == PRICE
    assert order.totals().open_holds_count == 0
    assert order.totals().shipments_count == 1
    assert order.level() == StockLevel(sku=order.sku, on_hand=8, reserved=0)


def test_the_log_knows_what_money_moved(shop: Shop, order: Order) -> None:
    saga_id = shop.run(order)

    moved = [
        (each["kind"], each["amount_minor"], each["currency"])
        for entry in shop.entries(saga_id, StepSucceeded)
        for each in entry.movements or ()
    ]
    assert moved == [("authorize", PRICE, "EUR"), ("capture", PRICE, "EUR")]


def test_a_declined_order_is_taken_back_in_reverse(shop: Shop, order: Order) -> None:
    saga_id = shop.run(order, payment_method="tok_declined")

    assert shop.state(saga_id) is State.COMPENSATED
    assert shop.ran(saga_id) == [
        "reserve_inventory",
        "screen_fraud",
        "authorize_payment",
        "-authorize_payment",
        "-reserve_inventory",
    ]
    assert is_untouched(order)


def test_a_refused_parcel_gives_the_money_back_without_a_void(shop: Shop, order: Order) -> None:
    order.goes_wrong("refuse", "ship")

    saga_id = shop.run(order)

    assert shop.state(saga_id) is State.COMPENSATED
    assert shop.ran(saga_id)[-2:] == ["-capture_payment", "-reserve_inventory"]
    assert [each.step for each in shop.entries(saga_id, UndoSkipped)] == ["authorize_payment"]
    assert order.totals().refunded_minor == PRICE
    assert is_untouched(order)


def open_challenge(order: Order) -> str:
    """The reference of the order's payment that waits for its payer."""
    gateway = order.resources.get(PaymentGateway)  # type: ignore[type-abstract]
    key = forward_key("checkout", order.id, "authorize_payment", installation=INSTALLATION)
    [payment] = gateway.find(key=key, timeout_seconds=5)
    return payment.reference


def test_a_challenge_that_is_passed_goes_on_where_it_waited(shop: Shop, order: Order) -> None:
    saga_id = shop.run(order, until=State.WAITING, payment_method="tok_challenge")
    order.judge.end_challenge(open_challenge(order), passed=True)
    shop.client.signal(saga_id, AUTHENTICATED, dedup_id="webhook-1")

    shop.ends(saga_id)

    assert shop.state(saga_id) is State.COMPLETED
    assert order.totals().authorizations_count == 1


def test_a_challenge_that_is_not_passed_is_a_decline(shop: Shop, order: Order) -> None:
    saga_id = shop.run(order, until=State.WAITING, payment_method="tok_challenge")
    order.judge.end_challenge(open_challenge(order), passed=False)
    shop.client.signal(saga_id, AUTHENTICATED, dedup_id="webhook-1")

    shop.ends(saga_id)

    assert shop.state(saga_id) is State.COMPENSATED
    (failed,) = shop.entries(saga_id, StepFailed)
    assert failed.error["code"] == "authentication_failed"
    assert is_untouched(order)


def test_a_signal_of_something_else_is_no_answer(shop: Shop, order: Order) -> None:
    saga_id = shop.run(order, until=State.WAITING, payment_method="tok_challenge")
    shop.client.signal(saga_id, AUTHENTICATED, dedup_id="forged")

    shop.ends(saga_id, until=State.WAITING, after=len(shop.entries(saga_id, StepWaiting)))

    assert shop.state(saga_id) is State.WAITING


def test_a_cancelled_challenge_is_called_off_though_a_lookup_lags(shop: Shop, order: Order) -> None:
    saga_id = shop.run(order, until=State.WAITING, payment_method="tok_challenge")
    reference = open_challenge(order)
    key = forward_key("checkout", order.id, "authorize_payment", installation=INSTALLATION)
    order.judge.script("not_found", operation="find", key=key)

    shop.client.cancel(saga_id, reason="changed my mind")
    shop.ends(saga_id)

    assert shop.state(saga_id) is State.COMPENSATED
    with pytest.raises(RuntimeError, match="no_open_challenge"):
        order.judge.end_challenge(reference, passed=True)
    assert is_untouched(order)


def never_found_by_its_key(order: Order) -> None:
    key = forward_key("checkout", order.id, "authorize_payment", installation=INSTALLATION)
    order.judge.script("not_found", operation="find", key=key, times=None)


def test_a_challenge_is_looked_up_by_its_reference(shop: Shop, order: Order) -> None:
    saga_id = shop.run(order, until=State.WAITING, payment_method="tok_challenge")
    order.judge.end_challenge(open_challenge(order), passed=True)
    never_found_by_its_key(order)
    shop.client.signal(saga_id, AUTHENTICATED, dedup_id="webhook-1")

    shop.ends(saga_id)

    assert shop.state(saga_id) is State.COMPLETED
    assert order.totals().authorizations_count == 1


@pytest.mark.parametrize("passed", [None, True, False])
def test_a_challenge_that_no_lookup_shows_is_voided_all_the_same(
    shop: Shop, order: Order, passed: bool | None
) -> None:
    saga_id = shop.run(order, until=State.WAITING, payment_method="tok_challenge")
    reference = open_challenge(order)
    if passed is not None:
        order.judge.end_challenge(reference, passed=passed)
    order.judge.script("not_found", operation="find", times=None)

    shop.client.cancel(saga_id, reason="changed my mind")
    shop.ends(saga_id)

    assert shop.state(saga_id) is State.COMPENSATED
    assert is_untouched(order)
    with pytest.raises(RuntimeError, match="no_open_challenge"):
        order.judge.end_challenge(reference, passed=True)


def test_a_free_order_is_shipped_without_a_payment(shop: Shop, order: Order) -> None:
    saga_id = shop.run(order, amount_minor=0, payment_method=None)

    assert shop.state(saga_id) is State.COMPLETED
    assert shop.ran(saga_id) == ["reserve_inventory", "screen_fraud", "create_shipment"]
    assert order.totals().authorizations_count == 0
    assert order.totals().shipments_count == 1


def test_a_free_order_is_taken_back_without_a_payment(shop: Shop, order: Order) -> None:
    order.goes_wrong("refuse", "ship")

    saga_id = shop.run(order, amount_minor=0, payment_method=None)

    assert shop.state(saga_id) is State.COMPENSATED
    assert shop.ran(saga_id)[-1:] == ["-reserve_inventory"]
    assert is_untouched(order)


def test_an_order_without_stock_asks_for_no_money(shop: Shop, order: Order) -> None:
    saga_id = shop.run(order, units=11)

    assert shop.state(saga_id) is State.COMPENSATED
    assert shop.ran(saga_id) == ["reserve_inventory"]
    assert order.judge.totals_of(order.id) is None
    assert is_untouched(order)


def test_a_blocked_order_asks_for_no_money_and_gives_the_units_back(
    shop: Shop, order: Order
) -> None:
    saga_id = shop.run(order, amount_minor=10_000_000)

    assert shop.state(saga_id) is State.COMPENSATED
    assert shop.ran(saga_id)[-1] == "-reserve_inventory"
    assert order.judge.totals_of(order.id) is None
    assert is_untouched(order)


@pytest.mark.parametrize("operation", ["authorize", "capture", "ship"])
@pytest.mark.parametrize("fault", ["drop_before", "drop_after", "error_after", "rate_limited"])
def test_a_lost_answer_costs_time_and_nothing_else(
    shop: Shop, order: Order, operation: str, fault: str
) -> None:
    order.goes_wrong(fault, operation, retry_after_seconds=0)

    saga_id = shop.run(order)

    assert shop.state(saga_id) is State.COMPLETED
    assert order.totals().kept_minor == PRICE
    assert (order.totals().authorizations_count, order.totals().shipments_count) == (1, 1)


@pytest.mark.parametrize("fault", ["drop_before", "drop_after"])
def test_a_refund_whose_answer_was_lost_is_given_once(shop: Shop, order: Order, fault: str) -> None:
    order.goes_wrong("refuse", "ship")
    order.goes_wrong(fault, "refund")

    saga_id = shop.run(order)

    assert shop.state(saga_id) is State.COMPENSATED
    assert order.totals().refunded_minor == PRICE
    assert is_untouched(order)


def test_twenty_orders_of_ten_units_sell_ten(
    engine: sqlalchemy.Engine, resources: Resources, judge: SandboxJudge, shop: Shop
) -> None:
    numbers = [next(_serial) for _ in range(20)]
    sku = f"hot-{numbers[0]}"
    stock.restock(engine, sku, 10)
    orders = [
        Order(number=number, engine=engine, resources=resources, judge=judge) for number in numbers
    ]

    def buy(order: Order) -> State:
        return shop.state(shop.run(order, sku=sku, units=1))

    with ThreadPoolExecutor(8) as pool:
        states = list(pool.map(buy, orders))

    assert sorted(states) == [State.COMPENSATED] * 10 + [State.COMPLETED] * 10
    with engine.connect() as connection:
        (level,) = [each for each in stock.levels(connection) if each.sku == sku]
    assert (level.on_hand, level.reserved) == (0, 0)


# Undos of unknown outcome, in a checkout that is as patient as a test can be.

QUICK = Retry(max_attempts=4, base=timedelta(milliseconds=10), cap=timedelta(milliseconds=40))


@pytest.fixture
def hasty(engine: sqlalchemy.Engine, resources: Resources, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setattr("steps.payment.CALL", timedelta(seconds=0.5))
    steps = [
        replace(
            each,
            timeout=timedelta(seconds=1.2),
            lag=timedelta(seconds=0.1),
            undo_retry=QUICK,
            probe_retry=replace(QUICK, max_attempts=20),
        )
        if each.probe
        else each
        for each in checkout.steps
    ]
    return selling(replace(checkout, version=9, steps=steps), engine, resources)


def taken_back(shop: Shop, order: Order, operation: str) -> UUID:
    """Run an order whose money is taken back, by that operation."""
    if operation == "refund":
        order.goes_wrong("refuse", "ship")
    card = "tok_ok" if operation == "refund" else "tok_cvv_mismatch"
    return shop.run(order, payment_method=card)


@pytest.mark.parametrize("lands", [False, True], ids=["nothing was done", "it was done"])
@pytest.mark.parametrize("operation", ["void", "refund"])
def test_an_undo_whose_failure_the_gateway_keeps_is_settled_without_a_person(
    hasty: Shop, order: Order, operation: str, lands: bool
) -> None:
    order.goes_wrong("stored_500", operation, lands=lands)
    saga_id = taken_back(hasty, order, operation)

    assert hasty.state(saga_id) is State.COMPENSATED
    assert is_untouched(order)
    settled = [each.direction for each in hasty.entries(saga_id, StepSettled)]
    asked = hasty.entries(saga_id, StepProbed)
    assert settled == ([] if lands else ["compensate"])
    assert bool(asked) is not lands  # what was done is found by the undo itself
    begun = [e for e in hasty.entries(saga_id, StepStarted) if e.direction == "compensate"]
    assert len([e for e in begun if e.step != "reserve_inventory"]) == (2 if lands else 3)


@pytest.mark.parametrize("operation", ["void", "refund"])
def test_an_undo_that_was_done_while_its_answers_are_lost_is_found(
    hasty: Shop, order: Order, operation: str
) -> None:
    order.goes_wrong("drop_after", operation, times=None)
    saga_id = taken_back(hasty, order, operation)

    assert hasty.state(saga_id) is State.COMPENSATED
    assert is_untouched(order)
    [found] = hasty.entries(saga_id, StepProbed)
    assert (found.direction, found.landed) == ("probe_undo", True)
    assert [each["kind"] for each in found.movements] == [operation]
