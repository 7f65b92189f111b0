"""Whole checkouts under their fraud rules, wired as a worker wires them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, cast
from uuid import UUID

import pytest
import sqlalchemy

from orchestrator.client import SagaClient
from orchestrator.coordinator import Coordinator
from orchestrator.definitions import Definitions
from orchestrator.doorbell import SilentDoorbell
from orchestrator.entries import SagaStarted, StepFailed, StepStarted
from orchestrator.keys import forward_key
from orchestrator.state import State
from orchestrator.storage.database import Database, create_engine
from steps.checkout import checkout
from steps.fraud import RULESET
from steps.gateways.carrier import Carrier
from steps.gateways.payment import PaymentGateway
from steps.gateways.sandbox.judge import SandboxJudge
from steps.gateways.sandbox.process import SandboxProcess
from steps.payment import AUTHENTICATED
from steps.storage import stock
from tests.integration.engine import answer_lost, events, wait_until
from tests.servers import INSTALLATION, Databases
from workers.bootstrap import build_coordinator
from workers.settings import Settings

PRICE = 2933
LIMIT = 3
_serial = count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """A client and one worker in this process."""

    engine: sqlalchemy.Engine
    client: SagaClient
    coordinator: Coordinator
    judge: SandboxJudge

    def sells(self, order: str, *, until: State | None = None, **changes: Any) -> UUID:
        """Run the order's checkout to its end, or until it is in that state."""
        stock.restock(self.engine, order, 10)
        payload = {
            "order_id": order,
            "customer_id": f"c-{order}",
            "sku": order,
            "units": 2,
            "amount_minor": PRICE,
            "currency": "EUR",
            "payment_method": "tok_ok",
            **changes,
        }
        saga_id = self.client.start(checkout, payload, key=order).id
        self.ends(saga_id, until=until)
        return saga_id

    def ends(self, saga_id: UUID, *, until: State | None = None) -> None:
        wait_until(lambda: self._is_there(saga_id, until))

    def _is_there(self, saga_id: UUID, until: State | None) -> bool:
        found = self.client.get(saga_id)
        if found.is_terminal or found.is_parked or found.state == until:
            return True
        snapshot = self.coordinator.log.read(saga_id)
        assert snapshot is not None
        for each in snapshot.attempts:
            claim = self.coordinator.claim(each.id)
            while claim is not None:
                claim = self.coordinator.execute(claim, lambda _queue: True)
        return False

    def state(self, saga_id: UUID) -> State:
        return self.client.get(saga_id).state

    def ran(self, saga_id: UUID) -> list[str]:
        """The attempts of the saga in order; an undo with a minus before its step's name."""
        return [
            ("-" if each.entry.direction == "compensate" else "") + each.entry.step
            for each in self.coordinator.log.entries(saga_id)
            if isinstance(each.entry, StepStarted)
        ]

    def verdicts(self, order: str) -> list[Any]:
        return self._rows(
            "SELECT decision, reasons, ruleset, opinions FROM shop.verdict "
            "WHERE order_id = :order ORDER BY decided_at",
            order=order,
        )

    def attempts(self, order: str) -> list[Any]:
        return self._rows(
            "SELECT subject FROM shop.fraud_attempt WHERE attempt_id = :attempt ORDER BY 1",
            attempt=f"checkout/{order}",
        )

    def _rows(self, query: str, **values: str) -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.execute(sqlalchemy.text(query), values))


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    with SandboxProcess.start(tmp_path_factory.mktemp("sandbox") / "ledger.db") as process:
        yield process


@pytest.fixture(scope="module")
def shop(databases: Databases, sandbox: SandboxProcess) -> Iterator[Shop]:
    url = databases.create()
    engine: sqlalchemy.Engine = create_engine(url, pool_size=5)
    settings = Settings.load(
        database_url=url,
        gateway_url=sandbox.base_url,
        fraud_blocklist="mallory@example.org, @bad.example\n203.0.113.0/24",
        fraud_attempts_per_hour=LIMIT,
    )
    definitions = Definitions([checkout])
    coordinator = build_coordinator(
        settings,
        database=Database(engine),
        doorbell=SilentDoorbell(),
        definitions=definitions,
        owner=lambda: "this process",
    )
    with SandboxJudge(sandbox.base_url) as judge:
        yield Shop(
            engine=engine,
            judge=judge,
            client=SagaClient(engine, definitions=definitions),
            coordinator=coordinator,
        )
    for part in (PaymentGateway, Carrier):
        cast("Any", coordinator._resources.get(part)).close()
    engine.dispose()
    databases.drop(url)


@pytest.fixture
def order() -> str:
    return f"order-{next(_serial)}"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"payer": {"email": "M.allory+1@EXAMPLE.org"}}, None),
        ({"payer": {"email": "Mallory+1@EXAMPLE.org"}}, "blocklist"),
        ({"payer": {"email": "any@bad.example"}}, "blocklist"),
        ({"payer": {"ip": "203.0.113.7"}}, "blocklist"),
        ({"amount_minor": 5_000_001}, "high_amount"),
    ],
    ids=str,
)
def test_a_blocked_order_is_never_heard_of_at_the_gateway(
    shop: Shop, order: str, changes: dict[str, Any], reason: str | None
) -> None:
    before = len(list(shop.judge.requests()))

    saga_id = shop.sells(order, **changes)

    asked = len(list(shop.judge.requests())) - before
    if reason is None:  # another mailbox; and the sandbox does list what it is asked
        assert (shop.state(saga_id), asked) == (State.COMPLETED, 3)
        return
    assert (shop.state(saga_id), asked) == (State.COMPENSATED, 0)
    assert shop.ran(saga_id) == ["reserve_inventory", "screen_fraud", "-reserve_inventory"]
    [(decision, reasons, ruleset, _)] = shop.verdicts(order)
    assert (decision, reasons, ruleset) == ("block", [reason], RULESET)


def test_a_plain_order_is_approved_twice_and_every_rule_is_on_record(
    shop: Shop, order: str
) -> None:
    assert shop.state(shop.sells(order)) is State.COMPLETED

    first, second = shop.verdicts(order)
    assert (first.decision, second.decision) == ("approve", "approve")
    assert [each["rule"] for each in second.opinions] == ["avs_cvv", "challenge_met"]
    assert len(first.opinions) > 5
    assert {each["decision"] for each in (*first.opinions, *second.opinions)} == {None}


@pytest.mark.parametrize(
    ("card", "decision"),
    [
        ("tok_avs_mismatch", "review"),
        ("tok_avs_partial", "review"),
        ("tok_unchecked", "review"),
        ("tok_avs_unchecked", "approve"),
        ("tok_untold", "approve"),
    ],
)
def test_what_the_issuer_says_is_judged_and_the_order_goes_on(
    shop: Shop, order: str, card: str, decision: str
) -> None:
    assert shop.state(shop.sells(order, payment_method=card)) is State.COMPLETED

    assert shop.verdicts(order)[1].decision == decision


def test_a_wrong_security_code_lets_go_of_the_hold_and_nothing_is_taken(
    shop: Shop, order: str
) -> None:
    saga_id = shop.sells(order, payment_method="tok_cvv_mismatch")

    assert shop.state(saga_id) is State.COMPENSATED
    assert shop.ran(saga_id)[2:] == [
        "authorize_payment",
        "screen_authorization",
        "-authorize_payment",
        "-reserve_inventory",
    ]
    moved = [each.operation for each in shop.judge.effects(order)]
    assert moved == ["authorize", "void"]
    approved, blocked = shop.verdicts(order)
    assert (approved.decision, blocked.decision, blocked.reasons) == (
        "approve",
        "block",
        ["avs_cvv"],
    )


ABROAD = {"card_country": "DE", "ip_country": "BR"}


def challenged(shop: Shop, order: str, **changes: Any) -> tuple[UUID, str]:
    """An order that waits for its payer, and the reference of its payment."""
    saga_id = shop.sells(order, until=State.WAITING, payer=ABROAD, **changes)
    assert shop.state(saga_id) is State.WAITING
    key = forward_key("checkout", order, "authorize_payment", installation=INSTALLATION)
    [opened] = [each for each in shop.judge.movements() if each.key == key]
    assert opened.reference is not None
    return saga_id, opened.reference


@pytest.mark.parametrize(
    ("card", "passed", "state", "moved"),
    [
        ("tok_ok", True, State.COMPLETED, ["authorize", "capture", "ship"]),
        ("tok_ok", False, State.COMPENSATED, []),
        ("tok_cvv_mismatch", True, State.COMPENSATED, ["authorize", "void"]),
    ],
)
def test_a_payer_from_elsewhere_authenticates_before_anything_is_held(
    shop: Shop, order: str, card: str, passed: bool, state: State, moved: list[str]
) -> None:
    saga_id, reference = challenged(shop, order, payment_method=card)
    assert [each.operation for each in shop.judge.effects(order)] == []

    shop.judge.end_challenge(reference, passed=passed)
    shop.client.signal(saga_id, AUTHENTICATED, dedup_id="webhook-1")
    shop.ends(saga_id)

    assert shop.state(saga_id) is state
    assert [each.operation for each in shop.judge.effects(order)] == moved
    assert shop.verdicts(order)[0].decision == "challenge"


def test_a_card_that_cannot_be_challenged_is_let_go_of(shop: Shop, order: str) -> None:
    saga_id = shop.sells(order, payer=ABROAD, payment_method="tok_unenrolled")

    assert shop.state(saga_id) is State.COMPENSATED
    assert [each.operation for each in shop.judge.effects(order)] == ["authorize", "void"]
    assert shop.verdicts(order)[1].reasons == ["challenge_met"]


def test_a_free_order_cannot_be_challenged_and_is_blocked(shop: Shop, order: str) -> None:
    saga_id = shop.sells(order, payer=ABROAD, amount_minor=0, payment_method=None)

    assert shop.state(saga_id) is State.COMPENSATED
    assert shop.judge.effects(order) == []


def test_one_order_too_many_of_a_customer_is_reviewed_and_goes_on(shop: Shop, order: str) -> None:
    orders = [f"{order}-{number}" for number in range(LIMIT + 1)]
    for each in orders:
        assert shop.state(shop.sells(each, customer_id=order)) is State.COMPLETED

    decisions = [shop.verdicts(each)[0].decision for each in orders]
    assert decisions == ["approve"] * LIMIT + ["review"]
    assert shop.verdicts(orders[-1])[0].reasons == ["velocity_customer"]


@pytest.mark.parametrize("applied", [True, False])
def test_an_attempt_counts_once_however_often_the_screening_runs(
    shop: Shop, order: str, applied: bool
) -> None:
    payer = {"email": f"{order}@example.com", "ip": f"198.51.100.{next(_serial)}"}
    with answer_lost("shop.keep_verdict", applied=applied, times=2) as lost:
        saga_id = shop.sells(order, payer=payer)

    assert lost == ["shop.keep_verdict"] * 2
    assert shop.state(saga_id) is State.COMPLETED
    assert shop.ran(saga_id).count("screen_fraud") == 3
    assert [each.subject.partition(":")[0] for each in shop.attempts(order)] == [
        "customer",
        "email",
        "ip",
    ]
    assert [each.decision for each in shop.verdicts(order)] == ["approve", "approve"]


def test_an_attempt_that_cannot_be_counted_is_reviewed(shop: Shop, order: str) -> None:
    with answer_lost("shop.record_attempt", applied=False):
        saga_id = shop.sells(order)

    assert shop.state(saga_id) is State.COMPLETED
    [first, _] = shop.verdicts(order)
    assert (first.decision, first.reasons) == ("review", ["velocity_customer"])
    [opinion] = [each for each in first.opinions if each["rule"] == "velocity_customer"]
    assert opinion["error"] == "LogUnavailableError"


def test_who_pays_is_in_the_payload_and_nowhere_else(
    shop: Shop, order: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    payer = {"email": "ada.lovelace@bad.example", "ip": "203.0.113.77"}
    with events() as heard:
        saga_id = shop.sells(order, payer=payer)

    entries = [each.entry for each in shop.coordinator.log.entries(saga_id)]
    assert [each for each in entries if isinstance(each, StepFailed)]
    rest = [each for each in entries if not isinstance(each, SagaStarted)]
    kept = shop.verdicts(order), shop.attempts(order)
    told = repr((rest, heard, kept)) + caplog.text + json.dumps(shop.verdicts(order)[0].opinions)
    assert "lovelace" not in told
    assert "203.0.113" not in told
