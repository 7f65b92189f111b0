"""What the issuer said of the address and the security code, and challenges that we ask for."""

from dataclasses import replace

import pytest

from steps.gateways.errors import AuthenticationRequiredError, KeyConflictError
from steps.gateways.payment import CardChecks, ChargeStatus, CheckResult
from steps.gateways.sandbox.judge import SandboxJudge
from tests.contract.gateways import Order

MATCH, NOT_CHECKED = CheckResult.MATCH, CheckResult.NOT_CHECKED
FINE = CardChecks(avs=MATCH, cvv=MATCH, authenticated=False)


@pytest.mark.parametrize(
    ("card", "checks"),
    [
        ("ok", FINE),
        ("cvv_mismatch", replace(FINE, cvv=CheckResult.MISMATCH)),
        ("avs_mismatch", replace(FINE, avs=CheckResult.MISMATCH)),
        ("avs_partial", replace(FINE, avs=CheckResult.PARTIAL)),
        ("avs_unchecked", replace(FINE, avs=NOT_CHECKED)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_authorization_tells_what_the_issuer_checked(
    order: Order, card: str, checks: CardChecks
) -> None:
    held = order.authorize(card)

    assert held.card_checks == checks
    assert order.authorize(card).card_checks == checks
    assert order.found(held).card_checks == checks
    assert order.capture(held).card_checks == checks


def test_checks_are_told_once_the_challenge_is_passed(order: Order, judge: SandboxJudge) -> None:
    with pytest.raises(AuthenticationRequiredError) as waiting:
        order.authorize("challenge")
    assert order.found().card_checks == CardChecks()

    judge.end_challenge(waiting.value.reference, passed=True)

    assert order.found().card_checks == replace(FINE, authenticated=True)


def test_a_payer_can_be_asked_to_authenticate(order: Order, judge: SandboxJudge) -> None:
    with pytest.raises(AuthenticationRequiredError) as waiting:
        order.authorize("cvv_mismatch", challenge=True)
    with pytest.raises(KeyConflictError):  # the same charge without it is another request
        order.authorize("cvv_mismatch")

    judge.end_challenge(waiting.value.reference, passed=True)

    passed = order.found()
    assert passed.status is ChargeStatus.AUTHORIZED
    assert passed.card_checks == replace(FINE, cvv=CheckResult.MISMATCH, authenticated=True)


def test_a_card_that_cannot_be_challenged_is_charged_and_says_so(order: Order) -> None:
    held = order.authorize("unenrolled", challenge=True)

    assert held.status is ChargeStatus.AUTHORIZED
    assert held.card_checks == FINE
