"""Gateway errors carry data, and come back from a row as the class they were, with it."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from orchestrator.errors import OutcomeUnknown, Retriable, Terminal
from orchestrator.kept_errors import kept, rebuilt
from steps.gateways import errors
from steps.gateways.errors import PaymentError
from steps.gateways.payment import ChargeResult, ChargeStatus
from steps.money import Money

PRICE = Money.of("49.90", "EUR")

PAYMENT = ChargeResult(
    reference="pay_1",
    order_reference="o",
    amount=PRICE,
    captured=PRICE,
    refunded=Money.zero("EUR"),
    status=ChargeStatus.CAPTURED,
    key="k",
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
)

WITH_DATA: dict[type[PaymentError], PaymentError] = {
    errors.RateLimitedError: errors.RateLimitedError("m", retry_after=timedelta(seconds=7)),
    errors.CardDeclinedError: errors.CardDeclinedError("m", code="expired_card", decisive=True),
    errors.PaymentStateError: errors.PaymentStateError(
        "m", code="already_captured", existing=PAYMENT, details={"a": 1}, decisive=True
    ),
    errors.GatewayServerError: errors.GatewayServerError("m", is_replayed=True),
    errors.AuthenticationRequiredError: errors.AuthenticationRequiredError(
        "m", challenge_url="https://bank.example/c", reference="pay_1"
    ),
}

CLASSES = sorted(
    (
        each
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, PaymentError) and each is not PaymentError
    ),
    key=lambda each: each.__name__,
)


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_has_one_outcome_and_survives_a_row(kind: type[PaymentError]) -> None:
    error = WITH_DATA.get(kind) or kind("m", code="c", details={"a": 1})

    row = json.loads(json.dumps(kept(error)))
    again = rebuilt(row, (PaymentError,))

    assert again is not None
    assert type(again) is kind
    assert vars(again) == vars(error)
    assert str(again) == str(error)
    assert sum(isinstance(error, each) for each in (Retriable, Terminal, OutcomeUnknown)) == 1
