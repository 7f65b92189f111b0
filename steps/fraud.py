"""Screens an order before any money is asked for, and again once money is held.

The verdict is kept by a write of its own and not by a transactional step, for a step that ends in
a block loses the writes of its transaction, and the blocked orders are the ones worth keeping.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from types import MappingProxyType
from typing import Final

from pydantic import TypeAdapter

from orchestrator.context import Effect, StepContext
from steps.fraud_engine import Finding, FraudContext, FraudEngine, Phase, Rule
from steps.fraud_rules import (
    avs_cvv_rule,
    blocklist_rule,
    country_mismatch_rule,
    high_amount_rule,
    normalised_email,
    normalised_ip,
    velocity_rule,
)
from steps.gateways.errors import FraudBlockedError
from steps.gateways.payment import CardChecks
from steps.money import Money
from steps.payload import CheckoutPayload, Payer
from steps.storage.shop_database import ShopDatabase
from steps.velocity import VelocityTracker
from steps.verdict import Decision, Verdict

RULESET: Final = "2026-11-24"
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

_HOUR: Final = timedelta(hours=1)
_HOUSEHOLD_BITS: Final = 64
"""Of an IPv6 address: what one connection to the Internet is given, to use all of it."""

_CHECKS: Final = TypeAdapter(CardChecks)

Context = StepContext[CheckoutPayload]


def screen_fraud(ctx: Context) -> Effect:
    """Keep the verdict on the order; what goes to review goes on, and a person looks later.

    A challenge goes on too: `authorize_payment` has the payer authenticate. A free order has no
    authorization to do that with, so there a challenge is a block.

    Raises:
        FraudBlockedError: final; names the rules in its details.
    """
    found = ctx.resource(FraudEngine).decide(_context(ctx))
    can_challenge = not ctx.payload.is_free
    return _kept(ctx, found, "the order was blocked before payment", can_challenge=can_challenge)


def screen_authorization(ctx: Context) -> Effect:
    """Keep the verdict on an authorization, from the `card_checks` in that step's result.

    A challenge comes too late here, and going on without it would be an approval: it is a block.

    Raises:
        FraudBlockedError: final; the saga unwinds, and lets go of the hold.
        pydantic.ValidationError: the checks are not of the shape of `CardChecks`.
    """
    held = ctx.results["authorize_payment"]
    told = held.get("card_checks") if isinstance(held, dict) else None
    checks = _CHECKS.validate_python(told or {})
    context = replace(_context(ctx), card_checks=checks, challenged=is_challenged(ctx))
    found = ctx.resource(FraudEngine).decide(context)
    return _kept(ctx, found, "the order was blocked after its authorization", can_challenge=False)


def is_challenged(ctx: Context) -> bool:
    """Return whether the screening before the charge wants the payer to authenticate."""
    screened = ctx.results.get("screen_fraud")
    return isinstance(screened, dict) and screened.get("decision") == Decision.CHALLENGE


def checkout_engine(
    tracker: VelocityTracker,
    *,
    blocklist: Iterable[str],
    attempts_per_hour: int,
) -> FraudEngine:
    """Return the checkout's rules.

    Args:
        tracker: what counts attempts.
        blocklist: whose orders are blocked, as `blocklist_rule` takes it.
        attempts_per_hour: of one customer, mailbox or IP address; more of them are reviewed.

    Raises:
        ValueError: an entry of the blocklist is wrong.
    """
    return FraudEngine(
        (
            blocklist_rule(blocklist),
            *(
                velocity_rule(tracker, limit=attempts_per_hour, window=_HOUR, kind=kind, of=of)
                for kind, of in (
                    ("customer", lambda context: context.customer_id),
                    ("email", _mailbox),
                    ("ip", _connection),
                )
            ),
            country_mismatch_rule(finds=Decision.CHALLENGE),
            high_amount_rule(REVIEW_ABOVE, block_times=BLOCK_TIMES),
            Rule(name="many_units", judge=_many_units),
            avs_cvv_rule(),
            Rule(name="challenge_met", judge=_challenge_met, phase=Phase.AFTER_AUTHORIZATION),
        ),
        ruleset=RULESET,
    )


def _context(ctx: Context) -> FraudContext:
    order = ctx.payload
    payer = order.payer or Payer()
    return FraudContext(
        attempt_id=f"{ctx.definition}/{ctx.saga_key}",
        order_id=order.order_id,
        customer_id=order.customer_id,
        amount=order.price,
        units=order.units,
        email=payer.email,
        ip=payer.ip,
        card_country=payer.card_country,
        ip_country=payer.ip_country,
        billing_country=payer.billing_country,
    )


def _kept(ctx: Context, found: Verdict, message: str, *, can_challenge: bool) -> Effect:
    """Keep the verdict, and stop the order where it says so."""
    order = ctx.payload
    verdict = ctx.resource(ShopDatabase).keep_verdict(
        ctx.idempotency_key, order.order_id, order.customer_id, found
    )
    is_unmet = verdict.decision is Decision.CHALLENGE and not can_challenge
    if verdict.decision is Decision.BLOCK or is_unmet:
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


def _challenge_met(context: FraudContext) -> Finding | None:
    """Not every card can be challenged, and going on without it would be an approval."""
    if not context.challenged or context.card_checks is None:
        return None
    match context.card_checks.authenticated:
        case True:
            return None
        case False:
            return Decision.BLOCK
        case None:
            return Decision.REVIEW


def _mailbox(context: FraudContext) -> str | None:
    return None if context.email is None else normalised_email(context.email)


def _connection(context: FraudContext) -> str | None:
    """Whoever has one address of an IPv6 network of this size has all of it."""
    if context.ip is None:
        return None
    address = normalised_ip(context.ip)
    if address.version == 4:  # noqa: PLR2004 - of the Internet protocol
        return str(address)
    return str(ipaddress.ip_network((address, _HOUSEHOLD_BITS), strict=False))
