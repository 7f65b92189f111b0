"""The Stripe adapter's pure parts: amounts, what an ending means, why a request was refused."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import stripe

from orchestrator.errors import OutcomeUnknown, Retriable, Terminal
from steps.gateways.errors import (
    BalanceTooLowError,
    CardDeclinedError,
    FraudBlockedError,
    GatewayServerError,
    GatewayTimeoutError,
    GatewayUnavailableError,
    InsufficientFundsError,
    InvalidRequestError,
    KeyConflictError,
    KeyInUseError,
    LookupFailedError,
    NetworkError,
    PaymentError,
    PaymentNotFoundError,
    PaymentStateError,
    RateLimitedError,
)
from steps.gateways.http_calls import Unanswered
from steps.gateways.payment import CardChecks, ChargeResult, ChargeStatus, CheckResult
from steps.gateways.reading import UnreadableAnswerError
from steps.gateways.stripe import answers, refusals
from steps.gateways.stripe.amounts import from_stripe_units, in_stripe_units
from steps.gateways.stripe.calls import UnansweredError
from steps.gateways.stripe.classification import error_of, lookup_error_of, unreadable
from steps.money import Money, MoneyError

PRICE = Money.of("49.90", "EUR")
INVALID = "invalid_request_error"
TOKEN = "pm_1N0trealButSecret"


@pytest.mark.parametrize(
    ("minor", "currency", "units"),
    [
        (1234, "EUR", 1234),
        (500, "JPY", 500),
        (500, "ISK", 50000),
        (500, "UGX", 50000),
        (500, "MGA", 5),
        (1230, "KWD", 1230),
    ],
)
def test_stripe_has_units_of_its_own(minor: int, currency: str, units: int) -> None:
    amount = Money(minor=minor, currency=currency)

    assert in_stripe_units(amount) == units
    assert from_stripe_units(units, currency.lower()) == amount


@pytest.mark.parametrize(("minor", "currency"), [(1234, "KWD"), (501, "MGA")])
def test_what_stripe_cannot_express_is_refused(minor: int, currency: str) -> None:
    with pytest.raises(MoneyError):
        in_stripe_units(Money(minor=minor, currency=currency))


@pytest.mark.parametrize(
    ("units", "currency"), [(50001, "isk"), (True, "eur"), (1.0, "eur"), ("1", "eur"), (1, "xxx")]
)
def test_what_stripe_never_says_is_refused(units: Any, currency: str) -> None:
    with pytest.raises(MoneyError):
        from_stripe_units(units, currency)


@pytest.mark.parametrize(
    ("line1", "postal_code", "cvc", "avs", "cvv"),
    [
        ("pass", "pass", "pass", CheckResult.MATCH, CheckResult.MATCH),
        ("pass", "fail", "fail", CheckResult.PARTIAL, CheckResult.MISMATCH),
        ("unavailable", "pass", None, CheckResult.MATCH, None),
        ("unchecked", "fail", "unchecked", CheckResult.MISMATCH, CheckResult.NOT_CHECKED),
        (None, "unavailable", "unavailable", CheckResult.NOT_CHECKED, CheckResult.NOT_CHECKED),
        (None, None, "a word of tomorrow", None, CheckResult.NOT_CHECKED),
    ],
)
def test_an_address_is_two_checks_and_what_was_not_sent_is_not_told(
    line1: str | None, postal_code: str | None, cvc: str | None, avs: Any, cvv: Any
) -> None:
    checks = {
        "address_line1_check": line1,
        "address_postal_code_check": postal_code,
        "cvc_check": cvc,
    }
    intent = {"latest_charge": {"payment_method_details": {"card": {"checks": checks}}}}

    assert answers.card_checks(intent) == CardChecks(avs=avs, cvv=cvv)
    assert answers.card_checks({"latest_charge": None}) == CardChecks()


@pytest.mark.parametrize(
    ("card", "authenticated"),
    [
        ({}, None),
        ({"three_d_secure": None}, False),
        ({"three_d_secure": {"result": "authenticated"}}, True),
        ({"three_d_secure": {"result": "attempt_acknowledged"}}, False),
        ({"three_d_secure": {"result": "exempted"}}, False),
        ({"three_d_secure": {"result": None}}, False),
    ],
    ids=str,
)
def test_only_who_authenticated_has_authenticated(
    card: dict[str, Any], authenticated: bool | None
) -> None:
    intent = {"latest_charge": {"payment_method_details": {"card": card}}}

    assert answers.card_checks(intent).authenticated is authenticated


def refused(
    status: int, kind: str = INVALID, headers: dict[str, str] | None = None, **said: object
) -> stripe.StripeError:
    body = {"error": {"type": kind, "message": f"no such thing: {TOKEN}", **said}}
    return stripe.StripeError("m", "text", status, body, headers)


def no_answer(*, was_sent: bool) -> stripe.StripeError:
    return UnansweredError(Unanswered(was_sent=was_sent, reason="ReadTimeout"))


@pytest.mark.parametrize(
    ("ending", "error_type", "outcome"),
    [
        (no_answer(was_sent=False), NetworkError, Retriable),
        (no_answer(was_sent=True), GatewayTimeoutError, OutcomeUnknown),
        (refused(429, code="rate_limit"), RateLimitedError, Retriable),
        (refused(429, code="lock_timeout"), RateLimitedError, Retriable),
        (refused(400, code="rate_limit"), RateLimitedError, Retriable),
        (refused(401), GatewayUnavailableError, Retriable),
        (refused(403), GatewayUnavailableError, Retriable),
        (refused(400, code="balance_insufficient"), BalanceTooLowError, Retriable),
        (refused(402, "card_error", code="card_declined"), CardDeclinedError, Terminal),
        (refused(402, "card_error", decline_code="fraudulent"), FraudBlockedError, Terminal),
        (
            refused(402, "card_error", decline_code="insufficient_funds"),
            InsufficientFundsError,
            Terminal,
        ),
        (refused(400, code="parameter_unknown"), InvalidRequestError, Terminal),
        (refused(400), InvalidRequestError, Terminal),
        (
            refused(400, code="resource_missing", param="payment_method"),
            InvalidRequestError,
            Terminal,
        ),
        (refused(404, code="resource_missing", param="intent"), PaymentNotFoundError, Terminal),
        (refused(409, code="idempotency_key_in_use"), KeyInUseError, OutcomeUnknown),
        (refused(400, "idempotency_error"), KeyConflictError, OutcomeUnknown),
        (refused(409), GatewayServerError, OutcomeUnknown),
        (refused(424), GatewayServerError, OutcomeUnknown),
        (refused(302), GatewayServerError, OutcomeUnknown),
        (refused(400, "api_error"), GatewayServerError, OutcomeUnknown),
        (refused(500, "api_error"), GatewayServerError, OutcomeUnknown),
        (refused(500, "card_error", code="card_declined"), GatewayServerError, OutcomeUnknown),
        (stripe.APIError("m", "html", 404, None), GatewayServerError, OutcomeUnknown),
        (stripe.APIError("m", "html", 200, ["odd"]), GatewayServerError, OutcomeUnknown),
        (stripe.APIError("m", "x", 400, {"error": "text"}), GatewayServerError, OutcomeUnknown),
    ],
)
def test_every_ending_of_a_call_means_one_error(
    ending: stripe.StripeError, error_type: type[PaymentError], outcome: type[Exception]
) -> None:
    error = error_of(ending)

    assert type(error) is error_type
    assert isinstance(error, outcome)
    assert TOKEN not in f"{error} {error.message} {error.details}" or error_type in {
        CardDeclinedError,
        FraudBlockedError,
        InsufficientFundsError,
    }


def test_only_what_the_key_keeps_is_decisive() -> None:
    declined = error_of(refused(402, "card_error", code="card_declined"))
    invalid = error_of(refused(400, code="parameter_unknown"))
    missing = error_of(refused(404, code="resource_missing"))

    assert isinstance(declined, CardDeclinedError)
    assert declined.decisive
    assert isinstance(invalid, InvalidRequestError)
    assert not invalid.decisive
    assert isinstance(missing, PaymentNotFoundError)
    assert not missing.decisive


def test_a_kept_500_says_so_and_a_rate_limit_says_when() -> None:
    kept = error_of(refused(500, "api_error", {"idempotent-replayed": "true"}))
    limited = error_of(refused(429, headers={"retry-after": "7", "request-id": "req_1"}))

    assert isinstance(kept, GatewayServerError)
    assert kept.is_replayed
    assert isinstance(limited, RateLimitedError)
    assert limited.retry_after == timedelta(seconds=7)
    assert limited.details["request_id"] == "req_1"
    assert not limited.spends_budget


@pytest.mark.parametrize("seconds", ["9" * 12, "9" * 30, "9" * 5000, "-1", "soon", "\u0663"])
def test_a_pause_that_nobody_can_mean_is_left_out(seconds: str) -> None:
    limited = error_of(refused(429, headers={"retry-after": seconds}))

    assert isinstance(limited, RateLimitedError)
    assert limited.retry_after is None


@pytest.mark.parametrize("ending", [no_answer(was_sent=True), refused(500, "api_error")])
def test_a_question_without_an_answer_can_be_asked_again(ending: stripe.StripeError) -> None:
    assert type(lookup_error_of(error_of(ending))) is LookupFailedError
    assert type(lookup_error_of(unreadable("odd", is_replayed=False))) is LookupFailedError


def payment(status: ChargeStatus, *, captured: str = "0", refunded: str = "0") -> ChargeResult:
    return ChargeResult(
        reference="pi_1",
        order_reference="o",
        amount=PRICE,
        captured=Money.of(captured, "EUR"),
        refunded=Money.of(refunded, "EUR"),
        status=status,
        key="k",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


@pytest.mark.parametrize(
    ("reason", "found", "code"),
    [
        (refusals.against_void, payment(ChargeStatus.CAPTURED, captured="1"), "already_captured"),
        (refusals.against_void, payment(ChargeStatus.VOIDED), "already_voided"),
        (refusals.against_void, payment(ChargeStatus.EXPIRED), "authorization_expired"),
        (refusals.against_void, payment(ChargeStatus.AUTHORIZED), None),
        (refusals.against_capture(PRICE), payment(ChargeStatus.VOIDED), "already_voided"),
        (refusals.against_capture(PRICE), payment(ChargeStatus.DECLINED), "not_authorized"),
        (refusals.against_capture(PRICE), payment(ChargeStatus.EXPIRED), "authorization_expired"),
        (
            refusals.against_capture(PRICE + PRICE),
            payment(ChargeStatus.AUTHORIZED),
            "exceeds_authorized",
        ),
        (refusals.against_capture(PRICE), payment(ChargeStatus.AUTHORIZED), None),
        (refusals.against_refund(PRICE), payment(ChargeStatus.AUTHORIZED), "not_captured"),
        (
            refusals.against_refund(PRICE),
            payment(ChargeStatus.REFUNDED, captured="5", refunded="5"),
            "already_refunded",
        ),
        (
            refusals.against_refund(PRICE),
            payment(ChargeStatus.CAPTURED, captured="49.90", refunded="0.01"),
            "exceeds_captured",
        ),
        (refusals.against_refund(PRICE), payment(ChargeStatus.CAPTURED, captured="49.90"), None),
    ],
)
def test_a_refusal_is_explained_by_the_payment(
    reason: refusals.Reason, found: ChargeResult, code: str | None
) -> None:
    said = InvalidRequestError("no", code="payment_intent_unexpected_state")

    error = refusals.explained(said, found, reason)

    if code is None:
        assert error is said
        return
    assert isinstance(error, PaymentStateError)
    assert (error.code, error.existing, error.decisive) == (code, found, True)


def intent(**fields: object) -> dict[str, Any]:
    charge = {"refunds": {"data": [], "has_more": False}}
    return {
        "id": "pi_1",
        "amount": 4990,
        "amount_received": 0,
        "created": 1767225600,
        "currency": "eur",
        "latest_charge": charge,
        "status": "requires_capture",
        **fields,
    }


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, ChargeStatus.AUTHORIZED),
        ({"status": "succeeded", "amount_received": 4990}, ChargeStatus.CAPTURED),
        ({"status": "canceled"}, ChargeStatus.VOIDED),
        ({"status": "canceled", "cancellation_reason": "automatic"}, ChargeStatus.EXPIRED),
        ({"status": "requires_action", "latest_charge": None}, ChargeStatus.REQUIRES_ACTION),
        ({"status": "requires_payment_method"}, ChargeStatus.DECLINED),
    ],
)
def test_a_payment_that_others_made_is_read_too(
    fields: dict[str, object], status: ChargeStatus
) -> None:
    read = answers.payment(intent(**fields))

    assert (read.status, read.amount) == (status, PRICE)
    assert (read.key, read.order_reference) == ("", "")


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "processing"},
        {"status": "new_in_2027"},
        {"amount": "4990"},
        {"amount": True},
        {"currency": None},
        {"latest_charge": "ch_1"},
        {"latest_charge": {"refunds": {"data": [], "has_more": True}}},
        {"created": "yesterday"},
    ],
)
def test_an_answer_that_is_not_whole_is_no_answer(fields: dict[str, object]) -> None:
    with pytest.raises(UnreadableAnswerError):
        answers.payment(intent(**fields))
