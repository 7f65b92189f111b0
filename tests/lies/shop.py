"""Checkouts that stop in front of a person, over a real gateway and its ledger, in one process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy

from orchestrator.client import SagaClient
from orchestrator.context import Resources
from orchestrator.coordinator import Coordinator
from orchestrator.definition import Retry, Step
from orchestrator.definitions import Definitions
from orchestrator.doorbell import SilentDoorbell
from orchestrator.errors import AmendsError
from orchestrator.state import State
from orchestrator.storage.database import Database
from recovery.operator.operator import Operator
from steps.checkout import checkout
from steps.fraud import checkout_engine
from steps.fraud_engine import FraudEngine
from steps.gateways.carrier import Carrier
from steps.gateways.payment import ChargeResult, PaymentGateway
from steps.gateways.sandbox.client import SandboxCarrier, SandboxGateway
from steps.gateways.sandbox.judge import SandboxJudge
from steps.storage import stock
from steps.storage.shop_database import ShopDatabase
from steps.storage.velocity import PostgresVelocityTracker

PRICE = 1990
CALL_SECONDS = 5.0
QUIET_SECONDS = 6.0
IDLE_SECONDS = 1.0
"""Nothing of a saga is due for so long: it waits, and is judged as it stands."""

ONCE = Retry(max_attempts=1, base=timedelta(milliseconds=10), cap=timedelta(milliseconds=10))


def _once(step: Step) -> Step:
    budgets: dict[str, Any] = {"retry": ONCE, "undo_retry": ONCE, "probe_retry": ONCE}
    return replace(
        step, timeout=timedelta(seconds=QUIET_SECONDS), lag=timedelta(seconds=0), **budgets
    )


CHECKOUT = replace(checkout, version=99, steps=[_once(each) for each in checkout.steps])
"""Asks a person after one try, and can be answered for a few seconds later."""


@dataclass(slots=True, kw_only=True)
class Parked:
    """One order: how it was brought about, and what is really true of it.

    Args:
        step: what is asked about; `undo`: whether of its undo.
        landed: whether that is really done at the other side.
        reference: its true name there, if it is done.
    """

    order: str
    saga_id: UUID
    scenario: str
    step: str
    undo: bool
    landed: bool
    reference: str | None = None
    payment: str | None = None
    said: list[str] = field(default_factory=list)


class Shop:
    """A client, a worker and two operator's desks on one database and one gateway."""

    def __init__(self, engine: sqlalchemy.Engine, judge: SandboxJudge, gateway_url: str) -> None:
        longest = timedelta(seconds=30)
        self.engine, self.judge = engine, judge
        self.gateway = SandboxGateway(gateway_url, timeout=longest)
        self._carrier = SandboxCarrier(gateway_url, timeout=longest)
        parts: dict[type, Callable[[], Any]] = {
            PaymentGateway: lambda: self.gateway,
            Carrier: lambda: self._carrier,
            ShopDatabase: lambda: ShopDatabase(engine),
            FraudEngine: lambda: checkout_engine(
                PostgresVelocityTracker(engine), blocklist=(), attempts_per_hour=1_000_000
            ),
        }
        definitions = Definitions([CHECKOUT])
        self.client = SagaClient(engine, definitions=definitions)
        self._coordinator = self._worker(definitions, Resources(factories=parts))
        self.desk = Operator(self._coordinator, self.client)
        self.blind_desk = Operator(self._worker(definitions, Resources()), self.client)
        stock.restock(engine, "cd", 10_000_000)

    def close(self) -> None:
        self.gateway.close()
        self._carrier.close()

    def _worker(self, definitions: Definitions, resources: Resources) -> Coordinator:
        return Coordinator(
            database=Database(self.engine),
            definitions=definitions,
            doorbell=SilentDoorbell(),
            owner=lambda: "lies",
            resources=resources,
        )

    def starts(self, order: str) -> UUID:
        payload = {
            "order_id": order,
            "customer_id": f"C-{order}",
            "sku": "cd",
            "units": 1,
            "amount_minor": PRICE,
            "currency": "EUR",
            "payment_method": "tok_ok",
        }
        return self.client.start(CHECKOUT, payload, key=order).id

    def works(self, saga_id: UUID, *, until: str | None = None) -> None:
        """Run what is due of a saga, up to the end of step `until`, or until nothing is left."""
        idle_since = time.monotonic()
        while time.monotonic() - idle_since < IDLE_SECONDS:
            found = self.client.get(saga_id)
            if found.is_terminal or found.is_parked:
                return
            snapshot = self._coordinator.log.read(saga_id)
            assert snapshot is not None
            if not snapshot.attempts:
                self._coordinator.mover.look(saga_id)
                snapshot = self._coordinator.log.read(saga_id)
                if snapshot is None or not snapshot.attempts:
                    return  # it has ended, or waits for something outside
            for each in snapshot.attempts:
                claim = self._coordinator.claim(each.id) if each.token is None else None
                if claim is not None:
                    idle_since = time.monotonic()
                    self._coordinator.execute(claim)
                    if claim.attempt.step == until:
                        return
            time.sleep(0.01)

    def goes_on(self, saga_id: UUID, honest: Any) -> State:
        """Work to the end in a healthy world, with another try where it parks."""
        for verb in (None, *honest):
            if verb is not None and self.client.get(saga_id).is_parked:
                try:
                    self.desk.act(saga_id, verb[0], verb[1])
                except AmendsError:
                    continue
            self.works(saga_id)
        return self.client.get(saga_id).state

    def payments(self, order: str) -> list[ChargeResult]:
        return list(self.gateway.find(order_reference=order, timeout_seconds=CALL_SECONDS))

    def parcel(self, order: str) -> str | None:
        found = self._carrier.find(order_reference=order, timeout_seconds=CALL_SECONDS)
        return found[0].reference if found else None
