"""The fraud engine decides from values, and never approves what one rule blocks."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steps.fraud_engine import (
    NO_FINDING,
    Finding,
    FraudContext,
    FraudEngine,
    Points,
    Rule,
)
from steps.fraud_rules import (
    avs_cvv_rule,
    blocklist_rule,
    country_mismatch_rule,
    high_amount_rule,
    normalised_email,
    velocity_rule,
)
from steps.gateways.payment import CardChecks, CheckResult
from steps.money import Money
from steps.verdict import Decision, Opinion


def order(**changes: Any) -> FraudContext:
    known: dict[str, Any] = {
        "attempt_id": "attempt-1",
        "order_id": "order-1",
        "customer_id": "customer-1",
        "amount": Money.of(10, "EUR"),
    }
    return FraudContext(**{**known, **changes})


def says(name: str, found: Finding | None) -> Rule:
    return Rule(name=name, judge=lambda _context: found)


def raises(_context: FraudContext) -> Finding | None:
    raise RuntimeError("the list is not there")


FINDINGS = st.one_of(
    st.none(), st.sampled_from(Decision), st.integers(1, 200).map(Points), st.just("raises")
)


@given(st.lists(FINDINGS, max_size=6), st.data())
def test_no_combination_of_rules_approves_what_one_blocks(
    found: list[Any], data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(found)))
    found.insert(place, Decision.BLOCK)
    rules = [
        Rule(name=f"rule-{number}", judge=raises)
        if each == "raises"
        else says(f"rule-{number}", each)
        for number, each in enumerate(found)
    ]

    verdict = FraudEngine(rules, 100).decide(order())

    assert verdict.decision is Decision.BLOCK
    assert f"rule-{place}" in verdict.reasons


def test_a_rule_that_raises_asks_for_a_review_and_is_named() -> None:
    rules = [Rule(name="broken", judge=raises), says("silent", None)]

    verdict = FraudEngine(rules, 100, ruleset="7").decide(order())

    assert (verdict.decision, verdict.reasons, verdict.ruleset) == (
        Decision.REVIEW,
        ("broken",),
        "7",
    )
    assert verdict.opinions == (
        Opinion(rule="broken", decision=Decision.REVIEW, error="RuntimeError"),
        Opinion(rule="silent"),
    )


@pytest.mark.parametrize("answer", [True, False, "block", 50])
def test_a_rule_that_answers_with_no_finding_asks_for_a_review_too(answer: Any) -> None:
    verdict = FraudEngine([says("careless", answer)], 100).decide(order())

    assert (verdict.decision, verdict.reasons) == (Decision.REVIEW, ("careless",))
    assert verdict.opinions[0].error == NO_FINDING


@pytest.mark.parametrize("count", [0, -5, float("nan"), True])
def test_points_that_would_lower_a_suspicion_are_refused(count: Any) -> None:
    with pytest.raises(ValueError, match="never lower"):
        Points(count)


@pytest.mark.parametrize(("points", "decision"), [(49, "approve"), (50, "review")])
def test_points_add_up_to_a_review(points: int, decision: str) -> None:
    rules = [says("first", Points(50)), says("second", Points(points))]

    assert FraudEngine(rules, 100).decide(order()).decision == decision


def test_two_rules_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="name of its own"):
        FraudEngine([says("one", None), says("one", None)], 100)


LOCAL = st.text("abcXYZ.ßéK", min_size=1, max_size=12)


@given(LOCAL, st.sampled_from(["gmail.com", "GoogleMail.com", "example.org", "Bücher.example"]))
def test_one_mailbox_has_one_spelling(local: str, domain: str) -> None:
    once = normalised_email(f"{local}@{domain}")

    assert normalised_email(once) == once
    assert normalised_email(f" {local.upper()}+tag@{domain.upper()}. ") == once


@pytest.mark.parametrize(
    ("known", "decision"),
    [
        ({"email": "J.Doe+cds@GoogleMail.com"}, "block"),
        ({"email": "any@bad.example"}, "block"),
        ({"email": "any@good.example"}, "approve"),
        ({"email": "no address"}, "review"),
        ({"email": '"j.doe"@gmail.com'}, "block"),
        ({"email": "j\ufe0fd\u034foe@gmail.com"}, "block"),
        ({"email": "any@ba\ufe0fd.example"}, "block"),
        ({"ip": "203.0.113.9"}, "block"),
        ({"ip": "192.0.2.7"}, "block"),
        ({"ip": "192.0.2.8"}, "approve"),
        ({"ip": "::ffff:203.0.113.9"}, "block"),
        ({"ip": "2001:db8::9%eth0"}, "block"),
        ({"ip": "203.0.114.9"}, "approve"),
        ({"ip": "nonsense"}, "review"),
        ({"ip": "nonsense", "email": "jdoe@gmail.com"}, "block"),
        ({"ip": "203.0.113.9", "email": f"any@{'x' * 64}.example"}, "block"),
        ({}, "approve"),
    ],
    ids=str,
)
def test_the_blocklist(known: dict[str, str], decision: str) -> None:
    mapped = "::ffff:192.0.2.0/125"
    listed = ["jdoe@gmail.com", "@BAD.example", "203.0.113.0/24", "2001:db8::/64", mapped]
    rule = blocklist_rule(listed)

    assert FraudEngine([rule], 100).decide(order(**known)).decision == decision


@pytest.mark.parametrize("wrong", ["@", "a@", "203.0.113.9/24", "nonsense"])
def test_a_wrong_entry_of_the_blocklist_is_named_by_its_place(wrong: str) -> None:
    with pytest.raises(ValueError, match="entry 2") as caught:
        blocklist_rule(["jdoe@gmail.com", wrong])

    assert wrong == "@" or wrong not in str(caught.value)


@pytest.mark.parametrize(
    ("checks", "decision"),
    [
        (None, "approve"),
        (CardChecks(avs=CheckResult.MATCH, cvv=CheckResult.MATCH), "approve"),
        (CardChecks(avs=CheckResult.PARTIAL, cvv=CheckResult.MATCH), "review"),
        (CardChecks(avs=CheckResult.MATCH, cvv=CheckResult.MISMATCH), "block"),
        (CardChecks(cvv=CheckResult.NOT_CHECKED), "review"),
        (CardChecks(avs=CheckResult.NOT_CHECKED, cvv=CheckResult.MATCH), "approve"),
        (CardChecks(), "approve"),
    ],
    ids=str,
)
def test_checks_of_the_card_are_judged_after_the_authorization_only(
    checks: CardChecks | None, decision: str
) -> None:
    verdict = FraudEngine([avs_cvv_rule()], 100).decide(order(card_checks=checks))

    assert verdict.decision == decision
    assert len(verdict.opinions) == (checks is not None)


@pytest.mark.parametrize(
    ("amount", "decision"),
    [
        (Money.of(100, "EUR"), "approve"),
        (Money.of("100.01", "EUR"), "review"),
        (Money.of("200.01", "EUR"), "block"),
        (Money.of(1, "KWD"), "review"),
    ],
    ids=str,
)
def test_a_currency_without_a_limit_is_reviewed(amount: Money, decision: str) -> None:
    rule = high_amount_rule({"EUR": Money.of(100, "EUR")}, block_times=2)

    assert FraudEngine([rule], 100).decide(order(amount=amount)).decision == decision


def test_known_countries_that_differ_are_reviewed() -> None:
    engine = FraudEngine([country_mismatch_rule()], 100)

    assert engine.decide(order(card_country="DE", ip_country="fr")).decision == "review"
    assert engine.decide(order(card_country="DE", ip_country="de")).decision == "approve"


def test_a_tracker_that_cannot_count_sends_the_order_to_review() -> None:
    class Down:
        def record(
            self, subject: str, attempt_id: str, window: timedelta, *, up_to: int | None = None
        ) -> int:
            raise ConnectionError(subject, attempt_id, window, up_to)

    rule = velocity_rule(Down(), limit=3, window=timedelta(hours=1))

    assert FraudEngine([rule], 100).decide(order()).reasons == ("velocity_customer",)
