"""The carrier refuses the parcel when the money is taken: it is refunded, not voided."""

from __future__ import annotations

from typing import Final

from orchestrator.entries import Direction, UndoSkipped
from orchestrator.state import State
from recovery.demo.scenarios.evidence import OrderEvidence, of_order
from recovery.demo.scenarios.order import PRICE_MINOR, UNITS, stocked
from recovery.demo.scenarios.table import Expectation, in_ledger, in_logs, in_saga_log, in_stock
from recovery.demo.stage import Stage

TITLE: Final = "compensation: the shipment fails after the capture"
KEY: Final = "S-3"


def play(stage: Stage) -> list[Expectation]:
    """Have the carrier refuse the parcel."""
    payload = stocked(stage, KEY)
    stage.judge.script("refuse", operation="ship", order_reference=KEY)
    started = stage.client.start("checkout", payload, key=KEY)
    return expectations(of_order(stage, started.id))


def expectations(found: OrderEvidence) -> list[Expectation]:
    """Compare what was found with what was promised."""
    return [
        in_saga_log("compensated", seen=found.state, expected=State.COMPENSATED),
        in_saga_log(
            "the capture is undone by a refund, and the units by their release",
            seen={
                each: found.outcomes(each, Direction.COMPENSATE)
                for each in ("capture_payment", "authorize_payment", "reserve_inventory")
            },
            expected={
                "capture_payment": ["succeeded"],
                "authorize_payment": [],
                "reserve_inventory": ["succeeded"],
            },
        ),
        in_saga_log(
            "the hold needs no void: the refund stands for it",
            seen=[
                (each.step, each.undone_by)
                for each in found.entries
                if isinstance(each, UndoSkipped)
            ],
            expected=[("authorize_payment", "capture_payment")],
        ),
        in_ledger(
            "captured 19.90 EUR, refunded 19.90 EUR, kept 0",
            seen=found.moved(),
            expected=[
                ("authorize", PRICE_MINOR),
                ("capture", PRICE_MINOR),
                ("refund", PRICE_MINOR),
            ],
        ),
        in_ledger("no void was asked for", seen=found.answers("void"), expected=[]),
        in_stock(
            "all 10 back on the shelf",
            seen=(found.on_hand, found.reserved),
            expected=(UNITS, 0),
        ),
        in_logs(
            "the refusal, the way back, the end",
            seen=found.events(
                "step.failed", "step.unknown", "saga.unwinding_started", "saga.compensated"
            ),
            expected=["step.failed", "saga.unwinding_started", "saga.compensated"],
        ),
    ]
