"""What every payment gateway adapter must do, held against each over a real process."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest

from orchestrator.errors import OutcomeUnknown, Retriable
from steps.gateways.errors import (
    AuthenticationRequiredError,
    CardDeclinedError,
    GatewayServerError,
    GatewayTimeoutError,
    InsufficientFundsError,
    InvalidRequestError,
    KeyConflictError,
    KeyInUseError,
    LookupFailedError,
    NetworkError,
    PaymentNotFoundError,
    PaymentStateError,
    RateLimitedError,
)
from steps.gateways.payment import (
    CaptureRequest,
    ChargeRequest,
    ChargeResult,
    ChargeStatus,
    MovementKind,
    PaymentGateway,
    RefundRequest,
    RefundResult,
    RefundStatus,
)
from steps.gateways.sandbox.client import SandboxGateway
from steps.gateways.sandbox.judge import SandboxJudge
from steps.gateways.sandbox.process import SandboxProcess
from steps.money import Money

PRICE = Money.of("49.90", "EUR")
OK = "tok_ok"
LONG = 10.0
SHORT = 0.6

ADAPTERS: dict[str, Callable[[str], PaymentGateway]] = {
    "sandbox": lambda base_url: SandboxGateway(base_url, timeout=timedelta(seconds=30)),
}

_serial = count(1)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    with SandboxProcess.start(tmp_path_factory.mktemp("gateway") / "ledger.db") as process:
        yield process


@pytest.fixture(scope="module")
def judge(sandbox: SandboxProcess) -> Iterator[SandboxJudge]:
    with SandboxJudge(sandbox.base_url) as judge:
        yield judge


@pytest.fixture(params=sorted(ADAPTERS))
def gateway(request: pytest.FixtureRequest, sandbox: SandboxProcess) -> Iterator[PaymentGateway]:
    adapter = ADAPTERS[request.param](sandbox.base_url)
    yield adapter
    adapter.close()  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One order with its keys, and its payment as a checkout would make it."""

    gateway: PaymentGateway
    reference: str

    def key(self, step: str) -> str:
        return f"{self.reference}:{step}"

    def authorize(
        self,
        *,
        token: str = OK,
        amount: Money = PRICE,
        key: str = "authorize",
        timeout_seconds: float = LONG,
    ) -> ChargeResult:
        request = ChargeRequest(amount=amount, token=token, order_reference=self.reference)
        return self.gateway.authorize(request, key=self.key(key), timeout_seconds=timeout_seconds)

    def capture(
        self, payment: ChargeResult, *, amount: Money = PRICE, key: str = "capture"
    ) -> ChargeResult:
        request = CaptureRequest(reference=payment.reference, amount=amount)
        return self.gateway.capture(request, key=self.key(key), timeout_seconds=LONG)

    def captured(self) -> ChargeResult:
        return self.capture(self.authorize())


@pytest.fixture
def order(gateway: PaymentGateway) -> Order:
    return Order(gateway=gateway, reference=f"order-{next(_serial)}")


def void(order: Order, payment: ChargeResult, *, key: str = "void") -> ChargeResult:
    return order.gateway.void(payment.reference, key=order.key(key), timeout_seconds=LONG)


def refund(
    order: Order, payment: ChargeResult, amount: Money = PRICE, *, key: str = "refund"
) -> RefundResult:
    request = RefundRequest(reference=payment.reference, amount=amount)
    return order.gateway.refund(request, key=order.key(key), timeout_seconds=LONG)


def find_order(order: Order) -> ChargeResult:
    (payment,) = order.gateway.find(order_reference=order.reference, timeout_seconds=LONG)
    return payment


# The road of a payment.


def test_a_payment_is_held_then_taken_then_given_back(order: Order) -> None:
    held = order.authorize()
    taken = order.capture(held)
    back = refund(order, taken)

    assert held.status is ChargeStatus.AUTHORIZED
    assert (held.amount, held.captured) == (PRICE, Money.zero("EUR"))
    assert (taken.status, taken.captured) == (ChargeStatus.CAPTURED, PRICE)
    assert (back.amount, back.status) == (PRICE, RefundStatus.SUCCEEDED)
    assert find_order(order).status is ChargeStatus.REFUNDED


def test_an_uncaptured_authorization_is_voided(order: Order, judge: SandboxJudge) -> None:
    assert void(order, order.authorize()).status is ChargeStatus.VOIDED

    totals = judge.totals_of(order.reference)
    assert totals is not None
    assert totals.is_clean
    assert totals.voided_minor == PRICE.minor


def test_a_captured_payment_cannot_be_voided(order: Order) -> None:
    payment = order.captured()

    with pytest.raises(PaymentStateError) as refused:
        void(order, payment)

    assert refused.value.code == "already_captured"
    assert refused.value.decisive
    assert refused.value.existing == payment


def test_an_uncaptured_payment_cannot_be_refunded(order: Order) -> None:
    with pytest.raises(PaymentStateError) as refused:
        refund(order, order.authorize())

    assert refused.value.code == "not_captured"


def test_a_voided_authorization_cannot_be_captured(order: Order) -> None:
    payment = order.authorize()
    void(order, payment)

    with pytest.raises(PaymentStateError) as refused:
        order.capture(payment)

    assert refused.value.code == "already_voided"


def test_a_capture_never_exceeds_the_authorization(order: Order) -> None:
    payment = order.authorize()

    with pytest.raises(PaymentStateError) as refused:
        order.capture(payment, amount=PRICE + Money(minor=1, currency="EUR"))

    assert refused.value.code == "exceeds_authorized"


def test_a_part_can_be_captured_once(order: Order) -> None:
    part = Money.of("10.00", "EUR")
    payment = order.capture(order.authorize(), amount=part)

    assert payment.captured == part
    with pytest.raises(PaymentStateError) as refused:
        order.capture(payment, amount=PRICE - part, key="capture-rest")
    assert refused.value.code == "already_captured"


def test_refunds_never_exceed_the_capture(order: Order, judge: SandboxJudge) -> None:
    payment = order.captured()
    refund(order, payment, Money.of("30.00", "EUR"), key="refund-1")

    with pytest.raises(PaymentStateError) as refused:
        refund(order, payment, Money.of("20.00", "EUR"), key="refund-2")
    refund(order, payment, Money.of("19.90", "EUR"), key="refund-3")

    assert refused.value.code == "exceeds_captured"
    totals = judge.totals_of(order.reference)
    assert totals is not None
    assert (totals.refunded_minor, totals.kept_minor) == (PRICE.minor, 0)


def test_another_currency_is_refused(order: Order) -> None:
    payment = order.authorize()

    with pytest.raises(PaymentStateError) as refused:
        order.capture(payment, amount=Money(minor=PRICE.minor, currency="USD"))

    assert refused.value.code == "currency_mismatch"


@pytest.mark.parametrize("currency", ["JPY", "USD", "KWD"])
def test_minor_units_pass_unchanged(order: Order, currency: str) -> None:
    amount = Money(minor=1234, currency=currency)

    assert order.authorize(amount=amount).amount == amount


@pytest.mark.parametrize("minor", [0, -1])
def test_nothing_and_less_cannot_be_authorized(order: Order, minor: int) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        order.authorize(amount=Money(minor=minor, currency="EUR"))

    assert refused.value.decisive


def test_an_unknown_payment_is_a_typed_answer(order: Order) -> None:
    with pytest.raises(PaymentNotFoundError):
        order.gateway.void("pay_unknown", key=order.key("void"), timeout_seconds=LONG)


# Refusals of the issuer.


@pytest.mark.parametrize(
    ("token", "error_type"),
    [("tok_declined", CardDeclinedError), ("tok_insufficient_funds", InsufficientFundsError)],
)
def test_a_decline_is_final_and_decisive_and_replayed(
    order: Order, token: str, error_type: type[CardDeclinedError], judge: SandboxJudge
) -> None:
    for _ in range(2):
        with pytest.raises(error_type) as refused:
            order.authorize(token=token)
        assert type(refused.value) is error_type
        assert refused.value.decisive

    assert judge.totals_of(order.reference) is None
    assert find_order(order).status is ChargeStatus.DECLINED


def test_an_unknown_token_is_an_invalid_request(order: Order) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        order.authorize(token="tok_nobody")

    assert refused.value.code == "invalid_token"


# Idempotency keys.


def test_a_key_replays_its_first_answer(order: Order, judge: SandboxJudge) -> None:
    first = order.authorize()
    order.capture(first)

    assert order.authorize() == first
    totals = judge.totals_of(order.reference)
    assert totals is not None
    assert totals.authorizations_count == 1


def test_a_key_with_other_parameters_is_a_conflict_and_unknown(order: Order) -> None:
    order.authorize()

    with pytest.raises(KeyConflictError) as refused:
        order.authorize(amount=PRICE + PRICE)

    assert isinstance(refused.value, OutcomeUnknown)


def test_a_key_belongs_to_one_operation(order: Order) -> None:
    payment = order.authorize()

    with pytest.raises(KeyConflictError):
        void(order, payment, key="authorize")
    with pytest.raises(KeyConflictError):  # the very same parameters
        refund(order, order.capture(payment), key="capture")


def test_a_key_in_flight_is_unknown(order: Order, judge: SandboxJudge) -> None:
    judge.script("hold_before", order_reference=order.reference)
    with pytest.raises(GatewayTimeoutError):
        order.authorize(timeout_seconds=SHORT)

    with pytest.raises(KeyInUseError) as refused:
        order.authorize()
    judge.release(order.reference)

    assert isinstance(refused.value, OutcomeUnknown)


@pytest.mark.parametrize("key", ["", "k" * 256, "a\r\nb", "schlüssel"])
def test_an_unusable_key_is_refused_before_anything_is_sent(order: Order, key: str) -> None:
    request = ChargeRequest(amount=PRICE, token="tok_ok", order_reference=order.reference)

    with pytest.raises(InvalidRequestError) as refused:
        order.gateway.authorize(request, key=key, timeout_seconds=LONG)

    assert not refused.value.decisive
    assert order.gateway.find(order_reference=order.reference, timeout_seconds=LONG) == ()


# Done before is done.


def test_a_second_capture_of_the_same_amount_is_success(order: Order) -> None:
    taken = order.captured()

    assert order.capture(taken, key="capture-again") == taken


def test_a_second_capture_of_what_was_given_back_is_refused(order: Order) -> None:
    taken = order.captured()
    refund(order, taken)

    with pytest.raises(PaymentStateError) as refused:
        order.capture(taken, key="capture-again")

    assert refused.value.code == "already_captured"


def test_a_second_void_is_success(order: Order) -> None:
    payment = order.authorize()
    released = void(order, payment)

    assert void(order, payment, key="void-again") == released


def test_a_second_full_refund_is_the_first_one(order: Order) -> None:
    payment = order.captured()
    first = refund(order, payment)

    assert refund(order, payment, key="refund-again") == first


@pytest.mark.parametrize("amount", [PRICE, Money.of("24.95", "EUR")], ids=["all", "a half"])
def test_one_more_refund_after_two_halves_is_not_success(order: Order, amount: Money) -> None:
    payment = order.captured()
    refund(order, payment, Money.of("24.95", "EUR"), key="refund-1")
    refund(order, payment, Money.of("24.95", "EUR"), key="refund-2")

    with pytest.raises(PaymentStateError) as refused:
        refund(order, payment, amount)

    assert refused.value.code == "already_refunded"


# Lost answers.


def test_an_answer_lost_after_the_effect_is_unknown_and_the_key_settles_it(
    order: Order, judge: SandboxJudge
) -> None:
    judge.script("drop_after", order_reference=order.reference)

    with pytest.raises(GatewayTimeoutError):
        order.authorize()

    assert order.authorize().status is ChargeStatus.AUTHORIZED
    assert len(judge.effects(order.reference)) == 1


@pytest.mark.parametrize("fault", ["drop_before", "error_before", "error_after"])
def test_a_failure_that_may_have_had_an_effect_is_unknown(
    order: Order, judge: SandboxJudge, fault: str
) -> None:
    judge.script(fault, order_reference=order.reference)

    with pytest.raises((GatewayTimeoutError, GatewayServerError)) as lost:
        order.authorize()

    assert isinstance(lost.value, OutcomeUnknown)
    assert order.authorize().status is ChargeStatus.AUTHORIZED


@pytest.mark.parametrize("lands", [True, False])
def test_a_stored_500_is_replayed_and_only_a_lookup_settles_it(
    order: Order, judge: SandboxJudge, lands: bool
) -> None:
    judge.script("stored_500", order_reference=order.reference, lands=lands)

    with pytest.raises(GatewayServerError) as first:
        order.authorize()
    with pytest.raises(GatewayServerError) as second:
        order.authorize()

    assert not first.value.is_replayed
    assert second.value.is_replayed
    found = order.gateway.find(key=order.key("authorize"), timeout_seconds=LONG)
    assert [payment.status for payment in found] == [ChargeStatus.AUTHORIZED] * lands


def test_a_slow_answer_is_unknown_at_the_deadline(order: Order, judge: SandboxJudge) -> None:
    judge.script("slow_after", order_reference=order.reference, delay_ms=3000)

    with pytest.raises(GatewayTimeoutError):
        order.authorize(timeout_seconds=SHORT)

    assert find_order(order).status is ChargeStatus.AUTHORIZED


def test_a_rate_limit_is_retriable_and_says_when(order: Order, judge: SandboxJudge) -> None:
    judge.script("rate_limited", order_reference=order.reference, retry_after_seconds=7)

    with pytest.raises(RateLimitedError) as refused:
        order.authorize()

    assert isinstance(refused.value, Retriable)
    assert refused.value.retry_after == timedelta(seconds=7)
    assert not refused.value.spends_budget


def test_a_call_without_time_left_is_not_sent(order: Order) -> None:
    with pytest.raises(NetworkError):
        order.authorize(timeout_seconds=0)

    assert order.gateway.find(order_reference=order.reference, timeout_seconds=LONG) == ()


def test_an_unreachable_gateway_is_retriable(tmp_path: Path) -> None:
    with SandboxProcess.start(tmp_path / "ledger.db") as gone:
        pass

    for connect in ADAPTERS.values():
        order = Order(gateway=connect(gone.base_url), reference="order-nowhere")
        with pytest.raises(NetworkError):
            order.authorize()


# 3-D Secure.


def test_a_challenge_is_a_wait_that_ends_in_an_authorization(
    order: Order, judge: SandboxJudge
) -> None:
    with pytest.raises(AuthenticationRequiredError) as waiting:
        order.authorize(token="tok_challenge")
    assert judge.totals_of(order.reference) is None

    judge.end_challenge(waiting.value.reference, passed=True)

    assert waiting.value.challenge_url.endswith(waiting.value.reference)
    assert find_order(order).status is ChargeStatus.AUTHORIZED
    with pytest.raises(AuthenticationRequiredError):  # the key replays its first answer for ever
        order.authorize(token="tok_challenge")


def test_a_failed_challenge_is_a_decline(order: Order, judge: SandboxJudge) -> None:
    with pytest.raises(AuthenticationRequiredError) as waiting:
        order.authorize(token="tok_challenge")

    judge.end_challenge(waiting.value.reference, passed=False)

    assert find_order(order).status is ChargeStatus.DECLINED


def test_an_open_challenge_can_be_called_off(order: Order, judge: SandboxJudge) -> None:
    with pytest.raises(AuthenticationRequiredError):
        order.authorize(token="tok_challenge")

    assert void(order, find_order(order)).status is ChargeStatus.VOIDED

    with pytest.raises(RuntimeError, match="no_open_challenge"):
        judge.end_challenge(find_order(order).reference, passed=True)
    assert judge.totals_of(order.reference) is None


# Refunds live on.


@pytest.mark.parametrize(
    ("failed", "status", "kept"),
    [(False, RefundStatus.SUCCEEDED, 0), (True, RefundStatus.FAILED, PRICE.minor)],
)
def test_a_pending_refund_ends_later(
    order: Order, judge: SandboxJudge, failed: bool, status: RefundStatus, kept: int
) -> None:
    judge.script("refund_pending", order_reference=order.reference, operation="refund")
    pending = refund(order, order.captured())
    assert pending.status is RefundStatus.PENDING

    judge.end_refund(pending.reference, failed=failed)

    assert [each.status for each in find_order(order).refunds] == [status]
    totals = judge.totals_of(order.reference)
    assert totals is not None
    assert totals.kept_minor == kept


def test_a_failed_refund_can_be_tried_again(order: Order, judge: SandboxJudge) -> None:
    judge.script("refund_pending", order_reference=order.reference, operation="refund")
    payment = order.captured()
    judge.end_refund(refund(order, payment).reference, failed=True)

    assert refund(order, payment, key="refund-2").status is RefundStatus.SUCCEEDED


# Questions.


def test_a_payment_is_found_by_each_of_its_names(order: Order) -> None:
    payment = order.captured()
    back = refund(order, payment)
    now = find_order(order)

    for name in (
        {"reference": payment.reference},
        {"key": order.key("authorize")},
        {"key": order.key("capture")},
        {"key": order.key("refund")},
    ):
        assert order.gateway.find(**name, timeout_seconds=LONG) == (now,)
    assert now.refunds == (back,)
    assert back.key == order.key("refund")


def test_what_is_not_there_is_not_found(gateway: PaymentGateway) -> None:
    for name in ({"reference": "pay_no"}, {"key": "no"}, {"order_reference": "no"}):
        assert gateway.find(**name, timeout_seconds=LONG) == ()


def test_exactly_one_name_is_asked_for(gateway: PaymentGateway) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        gateway.find(timeout_seconds=LONG)
    with pytest.raises(ValueError, match="exactly one"):
        gateway.find(key="k", reference="r", timeout_seconds=LONG)


def test_a_lagging_lookup_does_not_see_it_yet(order: Order, judge: SandboxJudge) -> None:
    order.authorize()
    judge.script("not_found", order_reference=order.reference, operation="find")

    assert order.gateway.find(order_reference=order.reference, timeout_seconds=LONG) == ()
    assert find_order(order).status is ChargeStatus.AUTHORIZED


def test_a_failed_question_is_retriable(order: Order, judge: SandboxJudge) -> None:
    judge.script("drop_after", order_reference=order.reference, operation="find")

    with pytest.raises(LookupFailedError):
        find_order(order)


def test_the_report_of_a_day_lists_what_moved(order: Order) -> None:
    payment = order.captured()
    back = refund(order, payment)
    void_failed = Order(gateway=order.gateway, reference=f"{order.reference}-declined")
    with pytest.raises(CardDeclinedError):
        void_failed.authorize(token="tok_declined")

    today = datetime.now(UTC).date()
    lines = [
        line
        for day in (payment.created_at.date(), today)
        for line in order.gateway.list(day, timeout_seconds=LONG)
        if line.order_reference.startswith(order.reference)
    ]

    seen = {(line.kind, line.reference, line.amount) for line in lines}
    assert seen == {
        (MovementKind.AUTHORIZE, payment.reference, PRICE),
        (MovementKind.CAPTURE, payment.reference, PRICE),
        (MovementKind.REFUND, back.reference, PRICE),
    }
    assert not list(order.gateway.list(today - timedelta(days=3), timeout_seconds=LONG))


def test_capability_facts_are_coherent(gateway: PaymentGateway) -> None:
    facts = gateway.capabilities

    assert facts.key_lifetime > timedelta(minutes=30)
    assert facts.key_max_length >= 64
    assert facts.exponent("JPY") == 0
