"""Screens an order before any money is asked for.

The verdict is kept by a write of its own and not by a transactional step, for a step that ends in
a block loses the writes of its transaction, and the blocked orders are the ones worth keeping.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from orchestrator.context import Effect, StepContext
from steps.gateways.errors import FraudBlockedError
from steps.money import Money
from steps.payload import CheckoutPayload
from steps.storage.shop_database import ShopDatabase
from steps.verdict import Decision, Verdict

RULESET: Final = "2026-11"
"""Kept with every verdict; raise it with the rules."""

REVIEW_ABOVE: Final[Mapping[str, Money]] = MappingProxyType(
    {
        limit.currency: limit
        for limit in (
            Money.of(5_000, "EUR"),
            Money.of(5_000, "USD"),
            Money.of(5_000, "GBP"),
            Money.of(5_000, "CHF"),
            Money.of(800_000, "JPY"),
        )
    }
)
BLOCK_TIMES: Final = 10
"""An order of this many times the limit is no order of a shop for CDs."""

REVIEW_UNITS_ABOVE: Final = 200


def screen_fraud(ctx: StepContext[CheckoutPayload]) -> Effect:
    """Keep the verdict on the order; what goes to review goes on, and a person looks later.

    Raises:
        FraudBlockedError: final; names the rules in its details.
    """
    order = ctx.payload
    verdict = ctx.resource(ShopDatabase).keep_verdict(
        ctx.idempotency_key, order.order_id, order.customer_id, screen(order)
    )
    if verdict.decision is Decision.BLOCK:
        raise FraudBlockedError(
            "the order was blocked before payment",
            code="fraud_blocked",
            details={"reasons": list(verdict.reasons), "ruleset": verdict.ruleset},
            decisive=True,  # the verdict kept under this step's key says so to every attempt
        )
    return Effect(
        value={
            "decision": verdict.decision,
            "reasons": list(verdict.reasons),
            "ruleset": verdict.ruleset,
        }
    )


def screen(order: CheckoutPayload) -> Verdict:
    """The strictest decision that any rule asks for, with the names of the rules that spoke."""
    spoken = {rule.__name__: found for rule in RULES if (found := rule(order)) is not None}
    decision = max(spoken.values(), key=_STRICTNESS.index, default=Decision.APPROVE)
    return Verdict(decision=decision, reasons=tuple(spoken), ruleset=RULESET)


def high_amount(order: CheckoutPayload) -> Decision | None:
    """A currency without a limit is looked at by a person: not knowing is not approving."""
    if order.is_free:
        return None
    limit = REVIEW_ABOVE.get(order.currency)
    if limit is None:
        return Decision.REVIEW
    if order.price > limit * BLOCK_TIMES:
        return Decision.BLOCK
    return Decision.REVIEW if order.price > limit else None


def many_units(order: CheckoutPayload) -> Decision | None:
    """Nobody buys this many CDs for themselves; a reseller may, so a person looks."""
    return Decision.REVIEW if order.units > REVIEW_UNITS_ABOVE else None


RULES: Final[tuple[Callable[[CheckoutPayload], Decision | None], ...]] = (high_amount, many_units)

_STRICTNESS: Final = (Decision.APPROVE, Decision.REVIEW, Decision.BLOCK)
