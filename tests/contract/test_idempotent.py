"""What a function decorated with `idempotent` runs, answers and raises, over every store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel

from orchestrator.errors import (
    CardNumberError,
    InvalidKeyError,
    OutcomeUnknown,
    PayloadError,
    Retriable,
    Terminal,
)
from orchestrator.idempotency import (
    IdempotencyConflictError,
    IdempotencyStore,
    idempotent,
)
from steps.gateways.errors import (
    AuthenticationRequiredError,
    CardDeclinedError,
    GatewayTimeoutError,
    NetworkError,
    PaymentStateError,
)
from steps.gateways.payment import ChargeResult, ChargeStatus
from steps.money import Money
from tests.idempotency_stores import SCOPE, Charges, charging, raised
from tests.integration.engine import events

# -- one execution ---------------------------------------------------------------------------------


def test_a_key_runs_once_and_everybody_gets_its_answer(
    store: IdempotencyStore, charges: Charges
) -> None:
    charge = charging(store, charges)
    answers = [charge(10, idempotency_key="order-1") for _ in range(3)]
    assert answers == [{"status": "captured"}] * 3
    assert len(charges.taken) == 1
    charge(10, idempotency_key="order-2")
    assert len(charges.taken) == 2


def test_positional_and_named_arguments_are_the_same_payload(
    store: IdempotencyStore, charges: Charges
) -> None:
    charge = charging(store, charges)
    charge(10, "USD", idempotency_key="order-1")
    charge(idempotency_key="order-1", currency="USD", amount=10)
    assert len(charges.taken) == 1


def test_another_payload_is_a_conflict_and_runs_nothing(
    store: IdempotencyStore, charges: Charges
) -> None:
    charge = charging(store, charges)
    charge(10, idempotency_key="order-1")
    with pytest.raises(IdempotencyConflictError):
        charge(11, idempotency_key="order-1")
    assert len(charges.taken) == 1


@pytest.mark.parametrize("key", ["", " ", None, "x" * 201, "a\x00b"])
def test_without_a_proper_key_nothing_runs(
    store: IdempotencyStore, charges: Charges, key: Any
) -> None:
    with pytest.raises(InvalidKeyError):
        charging(store, charges)(10, idempotency_key=key)
    assert charges.taken == []


def test_a_key_that_is_a_card_number_runs_nothing(
    store: IdempotencyStore, charges: Charges
) -> None:
    with pytest.raises(CardNumberError):
        charging(store, charges)(10, idempotency_key="4111111111111111")
    assert charges.taken == []


def test_a_payload_that_is_not_json_runs_nothing(store: IdempotencyStore, charges: Charges) -> None:
    with pytest.raises(PayloadError):
        charging(store, charges)(float("nan"), idempotency_key="order-1")
    assert charges.taken == []


def test_one_argument_can_be_the_payload_alone(store: IdempotencyStore, charges: Charges) -> None:
    @idempotent(store, scope=SCOPE, payload_arg="order", key_arg="key")
    def charge(order: Any, key: str, gateway: Any = None) -> Any:
        return charges.charge(order)

    charge({"amount": 1}, "order-1", gateway=object())
    charge(order={"amount": 1}, key="order-1")
    assert charges.taken == [{"amount": 1}]
    with pytest.raises(IdempotencyConflictError):
        charge({"amount": 2}, "order-1")


def test_on_which_object_a_method_is_called_is_no_payload(store: IdempotencyStore) -> None:
    class Till:
        @idempotent(store, scope=SCOPE)
        def take(self, amount: int, idempotency_key: str) -> str:
            return f"{amount} under {idempotency_key}"

    assert Till().take(1, "order-1") == Till().take(1, "order-1") == "1 under order-1"


def test_functions_of_two_names_do_not_share_their_keys(store: IdempotencyStore) -> None:
    @idempotent(store)
    def charge(idempotency_key: str) -> str:
        return "charged"

    @idempotent(store)
    def refund(idempotency_key: str) -> str:
        return "refunded"

    assert (charge("order-1"), refund("order-1")) == ("charged", "refunded")


# -- what it answers -------------------------------------------------------------------------------


class Receipt(BaseModel):
    id: int
    total: Decimal
    at: datetime


@dataclass(frozen=True)
class Parcel:
    id: int
    weight: Decimal


PAYMENT = ChargeResult(
    reference="pay_1",
    order_reference="order-1",
    amount=Money(minor=1000, currency="EUR"),
    captured=Money(minor=1000, currency="EUR"),
    refunded=Money(minor=0, currency="EUR"),
    status=ChargeStatus.CAPTURED,
    key="k",
    created_at=datetime(2026, 11, 24, tzinfo=UTC),
)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Receipt, Receipt(id=1, total=Decimal("1.00"), at=datetime(2026, 11, 24, tzinfo=UTC))),
        (Parcel, Parcel(id=1, weight=Decimal("0.50"))),
        (ChargeResult, PAYMENT),
        (tuple[int, ...], (1, 2)),
        (Parcel | None, None),
        (set[str], {"a", "b"}),
        (Decimal, Decimal("1.00")),
        (type(None), None),
    ],
    ids=lambda given: getattr(given, "__name__", "") if isinstance(given, type) else "",
)
def test_an_answer_has_the_declared_type_the_first_time_and_later(
    store: IdempotencyStore, kind: Any, value: Any
) -> None:
    def work(idempotency_key: str) -> Any:
        return value

    work.__annotations__["return"] = kind
    decorated = idempotent(store, scope=SCOPE)(work)
    first, second = decorated("order-1"), decorated("order-1")
    assert first == second == value
    assert type(first) is type(second) is type(value)
    assert first is not value or value is None


def test_without_a_declared_type_the_answer_is_json_the_first_time_and_later(
    store: IdempotencyStore, charges: Charges
) -> None:
    charges.answer = (Parcel(id=1, weight=Decimal("0.50")),)
    charge = charging(store, charges)
    for _ in range(2):
        assert charge(1, idempotency_key="order-1") == [{"id": 1, "weight": "0.50"}]


def test_an_answer_can_be_changed_without_changing_what_is_kept(
    store: IdempotencyStore, charges: Charges
) -> None:
    charge = charging(store, charges)
    charge(1, idempotency_key="order-1").clear()
    assert charge(1, idempotency_key="order-1") == {"status": "captured"}


def test_no_card_number_is_kept_or_told(store: IdempotencyStore, charges: Charges) -> None:
    charges.answer = {"card": "4111 1111 1111 1111", "amount": 10}
    charge = charging(store, charges)
    for _ in range(2):
        assert charge(1, idempotency_key="order-1") == {"card": "************1111", "amount": 10}


@pytest.mark.parametrize("answer", [object(), float("nan"), "x" * 1024 * 1024, "a\x00"])
def test_what_returns_something_that_cannot_be_kept_has_happened_and_is_unknown(
    store: IdempotencyStore, charges: Charges, answer: Any
) -> None:
    charges.answer = answer
    charge = charging(store, charges)
    with pytest.raises(PayloadError):
        charge(1, idempotency_key="order-1")
    with pytest.raises(OutcomeUnknown):
        charge(1, idempotency_key="order-1")
    assert len(charges.taken) == 1


# -- what it raises --------------------------------------------------------------------------------


class OutOfStockError(Exception):
    def __init__(self, article: str, left: int) -> None:
        super().__init__(f"{article} is sold out")
        self.article = article
        self.left = left


@pytest.mark.parametrize(
    "error",
    [
        Terminal("no", code="blocked", details={"rule": 7}, decisive=True),
        CardDeclinedError("declined", code="do_not_honor", decisive=True),
        PaymentStateError("voided", existing=PAYMENT, code="already_voided"),
        OutOfStockError("chair", 0),
        KeyError("sku"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_terminal_error_is_raised_again_as_its_class_with_its_data(
    store: IdempotencyStore, charges: Charges, error: Exception
) -> None:
    charges.answer = error
    charge = charging(store, charges, terminal_errors=(OutOfStockError, KeyError))
    assert raised(charge) is error
    for _ in range(2):
        again = raised(charge)
        assert type(again) is type(error)
        assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))
    assert len(charges.taken) == 1


def test_an_error_class_that_is_gone_is_raised_again_as_terminal(store: IdempotencyStore) -> None:
    def declined(*, with_class: type[Terminal]) -> Callable[..., Any]:
        @idempotent(store, scope=SCOPE)
        def charge(amount: int, idempotency_key: str) -> None:
            raise with_class("declined", code="card_declined", details={"tries": 1})

        return charge

    old = type("DeclinedInAnOldVersion", (Terminal,), {})
    raised(declined(with_class=old))
    old.__qualname__ = "Gone"
    again = raised(declined(with_class=old))
    assert type(again) is Terminal
    assert (again.message, again.code, again.details) == (
        "declined",
        "card_declined",
        {"tries": 1},
    )


@pytest.mark.parametrize("error", [Retriable("later"), NetworkError("refused"), OSError("reset")])
def test_a_retriable_error_is_not_kept_and_the_key_is_free(
    store: IdempotencyStore, charges: Charges, error: Exception
) -> None:
    charges.answer = error
    charge = charging(store, charges, retriable_errors=(OSError,))
    assert raised(charge) is error
    charges.answer = "captured"
    assert charge(2, idempotency_key="order-1") == "captured"
    assert store.read(SCOPE, "order-1") is not None


@pytest.mark.parametrize(
    "error",
    [
        OutcomeUnknown("who knows"),
        GatewayTimeoutError("no answer", code="timeout", details={"seconds": 10}),
        AuthenticationRequiredError(challenge_url="https://bank.test/3ds", reference="pay_1"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_unknown_outcome_is_told_again_and_never_run_again(
    store: IdempotencyStore, charges: Charges, error: OutcomeUnknown
) -> None:
    charges.answer = error
    charge = charging(store, charges)
    assert raised(charge) is error
    again = raised(charge)
    assert type(again) is type(error)
    assert vars(again) == vars(error)
    assert len(charges.taken) == 1


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), KeyboardInterrupt(), SystemExit(1)])
def test_an_exception_that_nobody_classified_may_have_happened(
    store: IdempotencyStore, charges: Charges, error: BaseException
) -> None:
    charges.answer = error
    charge = charging(store, charges)
    assert raised(charge) is error
    with events() as heard:
        again = raised(charge)
    assert type(again) is OutcomeUnknown
    assert again.details == {"scope": SCOPE, "key": "order-1"}
    assert ("idempotency.unknown", {"scope": SCOPE, "key": "order-1"}) in heard
    assert len(charges.taken) == 1


@pytest.mark.parametrize("error", [GatewayTimeoutError("no answer"), ZeroDivisionError("a bug")])
def test_a_repeatable_function_is_run_again(
    store: IdempotencyStore, charges: Charges, error: Exception
) -> None:
    charges.answer = error
    charge = charging(store, charges, repeatable=True)
    assert raised(charge) is error
    charges.answer = "captured"
    assert charge(1, idempotency_key="order-1") == "captured"
