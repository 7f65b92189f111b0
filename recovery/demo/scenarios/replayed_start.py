"""The same order is started twice, and once with another price under its key."""

from __future__ import annotations

from typing import Final

from orchestrator.client import Started
from orchestrator.errors import AmendsError, IdempotencyConflictError
from orchestrator.state import State
from recovery.demo.scenarios.evidence import OrderEvidence, of_order
from recovery.demo.scenarios.order import PRICE_MINOR, UNITS, stocked
from recovery.demo.scenarios.table import Fact, in_ledger, in_logs, in_saga_log, in_stock
from recovery.demo.stage import Stage

TITLE: Final = "idempotent replay"
KEY: Final = "S-2"


def play(stage: Stage) -> list[Fact]:
    """Start it twice at once, once more when it has ended, and then at half the price."""
    payload = stocked(stage, KEY)
    starts = [stage.client.start("checkout", payload, key=KEY) for _ in range(2)]
    of_order(stage, starts[0].id)
    starts.append(stage.client.start("checkout", payload, key=KEY))
    refusal: AmendsError | None = None
    try:
        stage.client.start("checkout", payload | {"amount_minor": PRICE_MINOR // 2}, key=KEY)
    except AmendsError as error:
        refusal = error
    return facts(of_order(stage, starts[0].id), starts, refusal)


def facts(found: OrderEvidence, starts: list[Started], refusal: AmendsError | None) -> list[Fact]:
    """Compare what was found with what was promised."""
    return [
        in_saga_log(
            "three starts, one saga",
            seen=(
                [each.created for each in starts],
                len({each.id for each in starts}),
                found.sagas,
            ),
            expected=([True, False, False], 1, 1),
        ),
        in_saga_log("completed", seen=found.state, expected=State.COMPLETED),
        in_saga_log(
            "another price: IdempotencyConflictError",
            seen=type(refusal).__name__,
            expected=IdempotencyConflictError.__name__,
        ),
        in_ledger(
            "one charge of 19.90 EUR, asked for once",
            seen=(found.moved(), found.answers("capture")),
            expected=(
                [("authorize", PRICE_MINOR), ("capture", PRICE_MINOR), ("ship", 0)],
                [200],
            ),
        ),
        in_stock(
            "1 of 10 shipped, none put aside",
            seen=(found.on_hand, found.reserved),
            expected=(UNITS - 1, 0),
        ),
        in_logs(
            "one end, no failure",
            seen=found.events("step.failed", "step.unknown", "saga.completed"),
            expected=["saga.completed"],
        ),
    ]
