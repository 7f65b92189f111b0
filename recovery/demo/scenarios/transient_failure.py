"""The gateway is down, then busy, before it does anything: the order is charged once."""

from __future__ import annotations

from typing import Final

from orchestrator.state import State
from recovery.demo.scenarios.evidence import OrderEvidence, of_order
from recovery.demo.scenarios.order import PRICE_MINOR, UNITS, stocked
from recovery.demo.scenarios.table import Expectation, in_ledger, in_logs, in_saga_log, in_stock
from recovery.demo.stage import Stage

TITLE: Final = "success after a transient failure"
KEY: Final = "S-1"


def play(stage: Stage) -> list[Expectation]:
    """Answer the first hold with 503 and the first capture with 429."""
    payload = stocked(stage, KEY)
    stage.judge.script("error_before", operation="authorize", order_reference=KEY, vouches=True)
    stage.judge.script("rate_limited", operation="capture", order_reference=KEY)
    started = stage.client.start("checkout", payload, key=KEY)
    return expectations(of_order(stage, started.id))


def expectations(found: OrderEvidence) -> list[Expectation]:
    """Compare what was found with what was promised."""
    return [
        in_saga_log("completed", seen=found.state, expected=State.COMPLETED),
        in_saga_log(
            "hold: refused with 503, then done",
            seen=found.outcomes("authorize_payment"),
            expected=["GatewayUnavailableError", "succeeded"],
        ),
        in_saga_log(
            "capture: refused with 429, then done",
            seen=found.outcomes("capture_payment"),
            expected=["RateLimitedError", "succeeded"],
        ),
        in_ledger(
            "one hold and one charge of 19.90 EUR",
            seen=found.moved(),
            expected=[("authorize", PRICE_MINOR), ("capture", PRICE_MINOR), ("ship", 0)],
        ),
        in_ledger(
            "each was asked for twice, under one key",
            seen={
                each: (found.answers(each), found.keys(each)) for each in ("authorize", "capture")
            },
            expected={"authorize": ([503, 201], 1), "capture": ([429, 200], 1)},
        ),
        in_stock(
            "1 of 10 shipped, none put aside",
            seen=(found.on_hand, found.reserved),
            expected=(UNITS - 1, 0),
        ),
        in_logs(
            "both failures and the end",
            seen=found.events("step.failed", "step.unknown", "saga.completed"),
            expected=["step.failed", "step.failed", "saga.completed"],
        ),
    ]
