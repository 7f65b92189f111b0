"""Screens an order before any money is asked for, and again once money is held.

The verdict is kept by a write of its own and not by a transactional step, for a step that ends in
a block loses the writes of its transaction, and the blocked orders are the ones worth keeping.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from pydantic import TypeAdapter

from orchestrator.context import Effect, StepContext
from steps.fraud_engine import CardChecks, Finding, FraudContext, FraudEngine, Rule
from steps.fraud_rules import avs_cvv_rule, high_amount_rule
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
    return _kept(ctx, screen(ctx.payload), "the order was blocked before payment")


def screen_authorization(ctx: StepContext[CheckoutPayload]) -> Effect:
    """Keep the verdict on an authorization, from the `card_checks` in that step's result.

    Goes between `authorize_payment` and `capture_payment`, needs no compensation, and runs `when`
    the order costs money. A result without checks is one that was not checked.

    Raises:
        FraudBlockedError: final; the saga unwinds, and lets go of the hold.
        pydantic.ValidationError: the checks are not of the shape of `CardChecks`.
    """
    held = ctx.results["authorize_payment"]
    told = held.get("card_checks") if isinstance(held, dict) else None
    checks = CardChecks() if told is None else TypeAdapter(CardChecks).validate_python(told)
    found = ENGINE.decide(_context(ctx.payload, checks))
    return _kept(ctx, found, "the order was blocked after its authorization")


def screen(order: CheckoutPayload) -> Verdict:
    """The strictest decision that any rule asks for, with the names of the rules that spoke."""
    return ENGINE.decide(_context(order))


def _context(order: CheckoutPayload, checks: CardChecks | None = None) -> FraudContext:
    return FraudContext(
        attempt_id=order.order_id,
        order_id=order.order_id,
        customer_id=order.customer_id,
        amount=order.price,
        units=order.units,
        card_checks=checks,
    )


def _kept(ctx: StepContext[CheckoutPayload], found: Verdict, message: str) -> Effect:
    """Keep the verdict, and stop the order where it says so.

    A challenge stops it too: no step here can ask for one, and going on would be an approval.
    """
    order = ctx.payload
    verdict = ctx.resource(ShopDatabase).keep_verdict(
        ctx.idempotency_key, order.order_id, order.customer_id, found
    )
    if verdict.decision in {Decision.BLOCK, Decision.CHALLENGE}:
        raise FraudBlockedError(
            message,
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


def _many_units(context: FraudContext) -> Finding | None:
    """Nobody buys this many CDs for themselves; a reseller may, so a person looks."""
    return Decision.REVIEW if context.units > REVIEW_UNITS_ABOVE else None


RULES: Final = (
    high_amount_rule(REVIEW_ABOVE, block_times=BLOCK_TIMES),
    Rule(name="many_units", judge=_many_units),
    avs_cvv_rule(),
)

ENGINE: Final = FraudEngine(RULES, ruleset=RULESET)
