"""A listed payer orders: the order is blocked before the gateway hears of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from orchestrator.state import State
from recovery.demo.scenarios.evidence import OrderEvidence, of_order
from recovery.demo.scenarios.order import UNITS, stocked
from recovery.demo.scenarios.storage.rows import KeptVerdict, verdicts
from recovery.demo.scenarios.table import Expectation, in_ledger, in_logs, in_saga_log, in_stock
from recovery.demo.stage import BLOCKED_DOMAIN, Stage
from steps.fraud import RULESET
from steps.verdict import Decision

TITLE: Final = "fraud block"
KEY: Final = "S-4"


def play(stage: Stage) -> list[Expectation]:
    """Order with a mailbox of the blocked domain, in another spelling."""
    payer = {"email": f"Eve+cds@{BLOCKED_DOMAIN.upper()}"}
    payload = stocked(stage, KEY, payer=payer)
    asked_before = sum(1 for _ in stage.judge.requests())
    started = stage.client.start("checkout", payload, key=KEY)
    found = of_order(stage, started.id)
    asked = sum(1 for _ in stage.judge.requests()) - asked_before
    return expectations(found, verdicts(stage.engine, KEY), asked)


def expectations(
    found: OrderEvidence, kept: Sequence[KeptVerdict], asked: int
) -> list[Expectation]:
    """Compare what was found with what was promised.

    Args:
        found: what the order left.
        kept: the verdicts on it.
        asked: how many requests of any kind the gateway had meanwhile; nothing else runs then.
    """
    return [
        in_saga_log("compensated", seen=found.state, expected=State.COMPENSATED),
        in_saga_log(
            "blocked by the screening: FraudBlockedError",
            seen=found.outcomes("screen_fraud"),
            expected=["FraudBlockedError"],
        ),
        in_saga_log(
            f"the verdict is kept: block, by the blocklist, rules {RULESET}",
            seen=[(each.decision, each.reasons, each.ruleset) for each in kept],
            expected=[(Decision.BLOCK, ("blocklist",), RULESET)],
        ),
        in_ledger("the gateway was not called at all", seen=asked, expected=0),
        in_ledger("nothing moved", seen=found.moved(), expected=[]),
        in_stock(
            "all 10 back on the shelf", seen=(found.on_hand, found.reserved), expected=(UNITS, 0)
        ),
        in_logs(
            "the block, the way back, the end",
            seen=found.events(
                "step.failed", "step.unknown", "saga.unwinding_started", "saga.compensated"
            ),
            expected=["step.failed", "saga.unwinding_started", "saga.compensated"],
        ),
    ]
