"""``amends`` in a wrong world: an order is charged twice, and a card number is in a log."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from recovery.cli import main
from recovery.demo.scenarios import traces, transient_failure
from recovery.demo.scenarios.evidence import OrderEvidence, ended, of_order
from recovery.demo.scenarios.order import PRICE_MINOR
from recovery.demo.scenarios.planted import grouped
from recovery.demo.scenarios.traces import logs
from recovery.demo.stage import Stage
from steps.gateways.payment import CaptureRequest, ChargeRequest
from steps.gateways.sandbox.client import SandboxGateway
from steps.money import Money


def of_order_charged_twice(stage: Stage, saga_id: UUID) -> OrderEvidence:
    ended(stage, saga_id)
    price = Money(minor=PRICE_MINOR, currency="EUR")
    gateway = SandboxGateway(stage.gateway.base_url, timeout=timedelta(seconds=5))
    order = ChargeRequest(amount=price, token="tok_ok", order_reference=transient_failure.KEY)
    held = gateway.authorize(order, key="again", timeout_seconds=5)
    taken = CaptureRequest(reference=held.reference, amount=price)
    gateway.capture(taken, key="again-capture", timeout_seconds=5)
    return of_order(stage, saga_id)


def logs_with_a_card_number(stage: Stage) -> dict[str, str]:
    found = logs(stage)
    return {**found, "worker-1": found["worker-1"] + grouped("a field")}


if __name__ == "__main__":
    vars(transient_failure)["of_order"] = of_order_charged_twice
    vars(traces)["logs"] = logs_with_a_card_number
    main()
