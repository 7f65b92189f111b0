"""Asks every rule of a phase about an order, and takes the strictest answer.

There are two phases, because some facts exist only later: what the issuer says of the address and
the security code comes with the authorization. A rule belongs to one phase only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from steps.gateways.payment import CardChecks
from steps.money import Money
from steps.verdict import Decision, Opinion, Verdict

UNVERSIONED: Final = "unversioned"

THRESHOLD_REACHED: Final = "review_threshold"
"""The reason beside the rules' names when their points add up to a review."""


class Phase(StrEnum):
    """When a rule is asked."""

    BEFORE_CHARGE = "before_charge"
    AFTER_AUTHORIZATION = "after_authorization"


@dataclass(frozen=True, slots=True, kw_only=True)
class FraudContext:
    """What the rules may know of one order; None is *not known*.

    Attributes:
        attempt_id: the same for every delivery of the same try to pay, and of no other.
        ip: the payer's address, IPv4 or IPv6, as text.
        card_country, ip_country, billing_country: ISO 3166, two letters.
        challenged: the rules before the charge wanted the payer to authenticate.
        card_checks: there only after the authorization.
    """

    attempt_id: str
    order_id: str
    customer_id: str
    amount: Money
    units: int = 1
    email: str | None = field(default=None, repr=False)
    ip: str | None = field(default=None, repr=False)
    card_country: str | None = None
    ip_country: str | None = None
    billing_country: str | None = None
    challenged: bool = False
    card_checks: CardChecks | None = None

    @property
    def phase(self) -> Phase:
        return Phase.BEFORE_CHARGE if self.card_checks is None else Phase.AFTER_AUTHORIZATION


@dataclass(frozen=True, slots=True)
class Points:
    """A suspicion too weak for a decision; those of all rules are added up."""

    count: int

    def __post_init__(self) -> None:
        if type(self.count) is not int or self.count < 1:
            raise ValueError("points are whole and raise a suspicion; they never lower one")


Finding = Decision | Points


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A question about an order. `judge` answers None where it has no opinion."""

    name: str
    judge: Callable[[FraudContext], Finding | None]
    phase: Phase = Phase.BEFORE_CHARGE


class FraudEngine:
    """A set of rules and how their answers become one verdict.

    Args:
        rules: each with a name of its own.
        review_threshold: so many points of all rules together are a review.
        ruleset: version of the rules, kept with every verdict.

    Raises:
        ValueError: two rules have one name, or the threshold is not positive.
    """

    def __init__(
        self, rules: Sequence[Rule], review_threshold: int = 100, *, ruleset: str = UNVERSIONED
    ) -> None:
        names = [each.name for each in rules]
        if len(set(names)) < len(names) or THRESHOLD_REACHED in names:
            raise ValueError(
                f"every rule needs a name of its own, not {THRESHOLD_REACHED}: {names}"
            )
        if review_threshold < 1:
            raise ValueError("a review_threshold of less than one point would review every order")
        self._rules = tuple(rules)
        self._review_threshold = review_threshold
        self._ruleset = ruleset

    def decide(self, context: FraudContext) -> Verdict:
        """Return the verdict of the context's phase, with the opinion of every rule in it.

        The strictest decision stands: no rule takes back what another one asks for. A rule that
        raises asks for a review. Writes nothing, but a rule may (velocity does).
        """
        asked = [each for each in self._rules if each.phase is context.phase]
        opinions = tuple(_opinion(each, context) for each in asked)
        spoken = [each for each in opinions if each.decision is not None]
        wanted = [each.decision for each in spoken if each.decision is not None]
        reasons = [each.rule for each in spoken]
        if sum(each.points for each in opinions) >= self._review_threshold:
            wanted.append(Decision.REVIEW)
            reasons += [each.rule for each in opinions if each.points]
            reasons.append(THRESHOLD_REACHED)
        return Verdict(
            decision=max(wanted, key=STRICTNESS.index, default=Decision.APPROVE),
            reasons=tuple(reasons),
            ruleset=self._ruleset,
            opinions=opinions,
        )


NO_FINDING: Final = "NoFinding"
"""In place of an error's class: the rule answered with something that is neither."""

STRICTNESS: Final = (Decision.APPROVE, Decision.REVIEW, Decision.CHALLENGE, Decision.BLOCK)


def _opinion(rule: Rule, context: FraudContext) -> Opinion:
    try:
        found: object = rule.judge(context)
    except Exception as error:  # noqa: BLE001 - whatever it is, not knowing is not approving
        return Opinion(rule=rule.name, decision=Decision.REVIEW, error=type(error).__name__)
    match found:
        case None:
            return Opinion(rule=rule.name)
        case Decision():
            return Opinion(rule=rule.name, decision=found)
        case Points(count=points):
            return Opinion(rule=rule.name, points=points)
        case _:  # a bool, most often; no type checker looked at somebody's own rule
            return Opinion(rule=rule.name, decision=Decision.REVIEW, error=NO_FINDING)
