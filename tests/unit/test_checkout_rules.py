"""What the checkout's own rules say of an order."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from typing import Any

import pytest

from steps.fraud import RULESET, checkout_engine
from steps.fraud_engine import FraudContext, FraudEngine
from steps.gateways.payment import CardChecks, CheckResult
from steps.money import Money
from steps.verdict import Decision

LIMIT = 3


class Counted:
    """A tracker of one process, whose window never ends."""

    def __init__(self) -> None:
        self.attempts: defaultdict[str, set[str]] = defaultdict(set)

    def record(
        self, subject: str, attempt_id: str, window: timedelta, *, up_to: int | None = None
    ) -> int:
        assert (window, up_to) == (timedelta(hours=1), LIMIT + 1)
        self.attempts[subject].add(attempt_id)
        return len(self.attempts[subject])


def engine(tracker: Counted | None = None) -> FraudEngine:
    blocked = ("mallory@example.org", "@bad.example", "203.0.113.0/24")
    return checkout_engine(tracker or Counted(), blocklist=blocked, attempts_per_hour=LIMIT)


def order(number: int = 1, **changes: Any) -> FraudContext:
    known: dict[str, Any] = {
        "attempt_id": f"checkout/order-{number}",
        "order_id": f"order-{number}",
        "customer_id": f"customer-{number}",
        "amount": Money(minor=2933, currency="EUR"),
        "units": 2,
    }
    return FraudContext(**{**known, **changes})


def euros(minor: int) -> dict[str, Any]:
    return {"amount": Money(minor=minor, currency="EUR")}


def challenged(*, authenticated: bool | None) -> dict[str, Any]:
    return {"challenged": True, "card_checks": CardChecks(authenticated=authenticated)}


@pytest.mark.parametrize(
    ("changes", "decision", "reasons"),
    [
        ({}, Decision.APPROVE, ()),
        (euros(500_000), Decision.APPROVE, ()),
        (euros(500_001), Decision.REVIEW, ("high_amount",)),
        (euros(5_000_001), Decision.BLOCK, ("high_amount",)),
        ({"amount": Money(minor=800_000, currency="JPY")}, Decision.APPROVE, ()),
        ({"amount": Money(minor=1, currency="KWD")}, Decision.REVIEW, ("high_amount",)),
        ({"amount": Money(minor=0, currency="KWD")}, Decision.APPROVE, ()),
        ({"units": 201}, Decision.REVIEW, ("many_units",)),
        (
            {"units": 201, **euros(5_000_001)},
            Decision.BLOCK,
            ("high_amount", "many_units"),
        ),
        ({"email": "Mallory+cds@EXAMPLE.org"}, Decision.BLOCK, ("blocklist",)),
        ({"email": "anybody@bad.example"}, Decision.BLOCK, ("blocklist",)),
        ({"ip": "203.0.113.77"}, Decision.BLOCK, ("blocklist",)),
        (
            {"card_country": "DE", "ip_country": "BR"},
            Decision.CHALLENGE,
            ("country_mismatch",),
        ),
        ({"card_country": "DE", "ip_country": "DE"}, Decision.APPROVE, ()),
        ({"card_checks": CardChecks()}, Decision.APPROVE, ()),
        ({"card_checks": CardChecks(cvv=CheckResult.MISMATCH)}, Decision.BLOCK, ("avs_cvv",)),
        ({"card_checks": CardChecks(avs=CheckResult.MISMATCH)}, Decision.REVIEW, ("avs_cvv",)),
        ({"card_checks": CardChecks(authenticated=False)}, Decision.APPROVE, ()),
        (challenged(authenticated=True), Decision.APPROVE, ()),
        (challenged(authenticated=False), Decision.BLOCK, ("challenge_met",)),
        (challenged(authenticated=None), Decision.REVIEW, ("challenge_met",)),
    ],
    ids=str,
)
def test_the_strictest_rule_decides_and_all_that_spoke_are_named(
    changes: dict[str, Any], decision: Decision, reasons: tuple[str, ...]
) -> None:
    verdict = engine().decide(order(**changes))

    assert (verdict.decision, verdict.reasons) == (decision, reasons)
    assert verdict.ruleset == RULESET


def test_rules_without_an_opinion_are_kept_too() -> None:
    verdict = engine().decide(order())

    assert [each.rule for each in verdict.opinions] == [
        "blocklist",
        "velocity_customer",
        "velocity_email",
        "velocity_ip",
        "country_mismatch",
        "high_amount",
        "many_units",
    ]
    assert {each.decision for each in verdict.opinions} == {None}


@pytest.mark.parametrize(
    ("same", "reason"),
    [
        (lambda _: {"customer_id": "one"}, "velocity_customer"),
        (lambda n: {"email": f"O.ne+{n}@gmail.com"}, "velocity_email"),
        (lambda _: {"ip": "198.51.100.7"}, "velocity_ip"),
        (lambda n: {"ip": f"2001:db8:1:2:{n}::1"}, "velocity_ip"),
        (lambda n: {"ip": f"2001:db8:1:2::1%{n}"}, "velocity_ip"),
    ],
)
def test_one_attempt_too_many_of_one_payer_is_reviewed(same: Any, reason: str) -> None:
    rules = engine()
    verdicts = [rules.decide(order(number, **same(number))) for number in range(LIMIT + 1)]

    assert [each.decision for each in verdicts] == [Decision.APPROVE] * LIMIT + [Decision.REVIEW]
    assert verdicts[-1].reasons == (reason,)


def test_networks_beside_each_other_are_not_one_payer() -> None:
    rules = engine()
    found = [rules.decide(order(number, ip=f"2001:db8:1:{number}::1")) for number in range(9)]

    assert {each.decision for each in found} == {Decision.APPROVE}


def test_what_names_a_person_is_counted_as_a_digest() -> None:
    tracker = Counted()
    engine(tracker).decide(order(email="ada@example.org", ip="198.51.100.7"))

    kinds = {subject.partition(":")[0] for subject in tracker.attempts}
    assert kinds == {"customer", "email", "ip"}
    assert not [each for each in tracker.attempts if "ada" in each or "198.51" in each]


def test_checks_of_the_card_ask_no_other_rule_and_count_nothing() -> None:
    tracker = Counted()
    verdict = engine(tracker).decide(order(card_checks=CardChecks()))

    assert [each.rule for each in verdict.opinions] == ["avs_cvv", "challenge_met"]
    assert not tracker.attempts
