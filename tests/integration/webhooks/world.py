"""A shop, its gateway and its webhook inbox; a test plays the post between the last two."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy

from orchestrator.client import SagaClient
from orchestrator.context import Resources
from orchestrator.coordinator import Coordinator
from orchestrator.definitions import Definitions
from orchestrator.doorbell import SilentDoorbell
from orchestrator.entries import Recorded
from orchestrator.keys import forward_key
from orchestrator.state import State
from orchestrator.storage.database import Database, create_engine
from steps.checkout import checkout
from steps.fraud import checkout_engine
from steps.fraud_engine import FraudEngine
from steps.gateways.carrier import Carrier
from steps.gateways.payment import PaymentGateway
from steps.gateways.sandbox.judge import OrderTotals, SandboxJudge
from steps.gateways.sandbox.process import SandboxProcess
from steps.gateways.sandbox.signature import signed
from steps.gateways.webhooks import WebhookVerifier
from steps.storage import stock
from steps.storage.shop_database import ShopDatabase
from steps.storage.velocity import PostgresVelocityTracker
from steps.storage.webhook_inbox import KeptWebhook, WebhookRows
from steps.webhooks.inbox import Receipt, WebhookInbox
from steps.webhooks.looking import Looking
from tests.integration.engine import wait_until
from tests.integration.gateways.receiver import Heard, Receiver
from tests.servers import INSTALLATION
from workers.bootstrap import carrier, payment_gateway
from workers.settings import Settings

PRICE = 2933
SECRET = "whsec_of_these_tests"


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One database, one sandbox, and what the gateway has sent so far in `post`."""

    settings: Settings
    engine: sqlalchemy.Engine
    client: SagaClient
    coordinator: Coordinator
    inbox: WebhookInbox
    judge: SandboxJudge
    post: Receiver

    # -- the saga ----------------------------------------------------------------------------------

    def start(self, order: str, card: str = "tok_ok", *, key: str | None = None) -> UUID:
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
        return self.client.start(checkout, payload, key=key or order).id

    def runs_until(self, saga_id: UUID, state: State) -> None:
        """Work on the saga until it is in that state."""

        def arrived() -> bool:
            if self.state(saga_id) is state:
                return True
            self.works(saga_id)
            return self.state(saga_id) is state

        wait_until(arrived)

    def works(self, saga_id: UUID) -> None:
        """Run what of the saga can be claimed now, and what follows at once."""
        self.coordinator.mover.look(saga_id)
        snapshot = self.coordinator.log.read(saga_id)
        assert snapshot is not None
        for each in snapshot.attempts:
            claim = self.coordinator.claim(each.id)
            while claim is not None:
                claim = self.coordinator.execute(claim, lambda _queue: True)

    def state(self, saga_id: UUID) -> State:
        return self.client.get(saga_id).state

    def log(self, saga_id: UUID) -> list[Recorded]:
        return self.coordinator.log.entries(saga_id)

    def kinds(self, saga_id: UUID) -> list[str]:
        return [type(each.entry).__name__ for each in self.log(saga_id)]

    # -- the post ----------------------------------------------------------------------------------

    def told(self, order: str, kind: str) -> Heard:
        """Wait for the gateway's first webhook of that type about an order."""

        def look() -> Heard | None:
            return next((each for each in self.post.heard if _is(each, order, kind)), None)

        return self.post.until(look)

    def delivers(self, heard: Heard, gateway: str = "sandbox") -> Receipt:
        header = {"sandbox": "Sandbox-Signature", "stripe": "Stripe-Signature"}[gateway]
        return self.inbox.receive(gateway, {header: heard.header}, heard.body)

    def delivers_body(self, body: bytes, *, gateway: str = "sandbox", at: int = 0) -> Receipt:
        """Deliver a body of the test's own making, well signed."""
        header = signed(body, [SECRET], at=at or int(time.time()))
        return self.inbox.receive(gateway, {f"{gateway}-signature": header}, body)

    def rows(self) -> list[KeptWebhook]:
        """Every webhook, the newest first."""
        return WebhookRows(Database(self.engine)).find(processed_too=True, limit=1000)

    def row_of(self, receipt: Receipt) -> KeptWebhook:
        [row] = [each for each in self.rows() if each.event_id == receipt.event_id]
        return row

    def is_due_again(self) -> None:
        """Let every pause be over."""
        self.sql("UPDATE shop.webhook SET due_at = clock_timestamp() WHERE due_at IS NOT NULL")

    def totals(self, order: str) -> OrderTotals:
        totals = self.judge.totals_of(order)
        assert totals is not None
        return totals

    def sql(self, statement: str) -> None:
        with self.engine.begin() as connection:
            connection.exec_driver_sql(statement)


@contextmanager
def world(
    url: str, sandbox: SandboxProcess, judge: SandboxJudge, post: Receiver, **settings: Any
) -> Iterator[World]:
    """A world on a database and a sandbox, told of what moves in its form."""
    engine: sqlalchemy.Engine = create_engine(url, pool_size=20)
    known = Settings.load(
        database_url=url,
        gateway_url=sandbox.base_url,
        carrier_url=sandbox.base_url,
        **settings,
    )
    database = Database(engine)
    definitions = Definitions([checkout])
    client = SagaClient(engine, definitions=definitions)
    endpoint = judge.announce_to(post.url, SECRET, form=known.gateway)
    with (
        closing(_closable(payment_gateway(known))) as gateway,
        closing(_closable(carrier(known))) as ships,
    ):
        parts: dict[type, Callable[[], Any]] = {
            PaymentGateway: lambda: gateway,
            Carrier: lambda: ships,
            ShopDatabase: lambda: ShopDatabase(engine),
            FraudEngine: lambda: checkout_engine(
                PostgresVelocityTracker(engine), blocklist=(), attempts_per_hour=20
            ),
        }
        looking = Looking(database, client, {known.gateway: lambda: gateway})
        yield World(
            settings=known,
            engine=engine,
            client=client,
            coordinator=Coordinator(
                database=database,
                definitions=definitions,
                doorbell=SilentDoorbell(),
                owner=lambda: "this process",
                resources=Resources(factories=parts),
            ),
            inbox=WebhookInbox(
                WebhookRows(database), {known.gateway: WebhookVerifier(SECRET)}, looking
            ),
            judge=judge,
            post=post,
        )
    judge.stop_announcing(endpoint)
    judge.clear_faults()
    engine.dispose()


def key_of(order: str) -> str:
    """The key under which the saga of an order authorizes."""
    return forward_key("checkout", order, "authorize_payment", installation=INSTALLATION)


def _closable(party: object) -> Any:
    """Each keeps connections, of which its protocol says nothing."""
    return party


def _is(heard: Heard, order: str, kind: str) -> bool:
    return heard.told["type"] == kind and order in heard.body.decode()
