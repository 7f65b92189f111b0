"""What a function decorated with `idempotent` does, over every store."""

from __future__ import annotations

import asyncio
import threading
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
    IdempotencyInFlightError,
    IdempotencyState,
    IdempotencyStore,
    InvalidIdempotencyUsage,
    Policy,
    Released,
    SettlementRefusedError,
    Succeeded,
    hash_payload,
    idempotent,
    run_once,
    settle,
)
from orchestrator.idempotency_for_tests import InMemoryIdempotencyStore
from orchestrator.idempotency_record import Unknown
from steps.gateways.errors import (
    AuthenticationRequiredError,
    CardDeclinedError,
    GatewayTimeoutError,
    NetworkError,
    PaymentStateError,
)
from steps.gateways.payment import ChargeResult, ChargeStatus
from steps.money import Money
from tests.idempotency_stores import SHORT, again, claim_of, taken
from tests.integration.engine import events
from tests.worker_processes import until

SCOPE = "shop.charge"


class Charges:
    """Something outside: counts what reached it, and then answers or raises."""

    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.answer: Any = {"status": "captured"}

    def charge(self, amount: Any) -> Any:
        self.taken.append(amount)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.fixture
def charges() -> Charges:
    return Charges()


def charging(store: IdempotencyStore, charges: Charges, **options: Any) -> Callable[..., Any]:
    @idempotent(store, scope=SCOPE, **options)
    def charge(amount: int, currency: str = "EUR", *, idempotency_key: str) -> Any:
        return charges.charge((amount, currency))

    return charge


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


def raised(charge: Callable[..., Any]) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - any, to be compared
        charge(1, idempotency_key="order-1")
    return caught.value


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


# -- while another is at work ----------------------------------------------------------------------


def test_a_call_that_is_at_work_elsewhere_is_told_at_once(
    store: IdempotencyStore, charges: Charges
) -> None:
    taken(store, claim_of(payload={"amount": 1}))
    with pytest.raises(IdempotencyInFlightError):
        charging(store, charges)(1, idempotency_key="order-1")
    assert charges.taken == []


def test_a_waiting_caller_gets_the_answer_of_who_was_first(
    store: IdempotencyStore, charges: Charges
) -> None:
    first = taken(store, claim_of(payload={"amount": 1}))
    answers: list[Any] = []
    charge = charging(store, charges, wait_seconds=20.0)
    waiting = threading.Thread(target=lambda: answers.append(charge(1, idempotency_key="order-1")))
    waiting.start()
    store.finish(first, Succeeded(result="first"))
    waiting.join()
    assert answers == ["first"]
    assert charges.taken == []


def test_a_waiting_caller_runs_when_who_was_first_gives_the_key_back(
    store: IdempotencyStore, charges: Charges
) -> None:
    first = taken(store, claim_of(payload={"amount": 1}))
    charge = charging(store, charges, wait_seconds=20.0)
    waiting = threading.Thread(target=lambda: charge(1, idempotency_key="order-1"))
    waiting.start()
    store.finish(first, Released())
    waiting.join()
    assert len(charges.taken) == 1


def test_waiting_ends_in_time(store: IdempotencyStore, charges: Charges) -> None:
    taken(store, claim_of(payload={"amount": 1}))
    with pytest.raises(IdempotencyInFlightError):
        charging(store, charges, wait_seconds=SHORT)(1, idempotency_key="order-1")


def test_a_long_call_keeps_its_key(store: IdempotencyStore) -> None:
    begun, go_on = threading.Event(), threading.Event()

    @idempotent(store, scope=SCOPE, lease_seconds=3 * SHORT, repeatable=True)
    def charge(amount: int, idempotency_key: str) -> str:
        begun.set()
        assert go_on.wait(30)
        return "captured"

    running = threading.Thread(target=charge, args=(1, "order-1"))
    running.start()
    assert begun.wait(30)
    claimed = store.read(SCOPE, "order-1")
    assert claimed is not None
    until(lambda: (datetime.now(UTC) - claimed.claimed_at).total_seconds() > 6 * SHORT)
    with pytest.raises(IdempotencyInFlightError):
        charge(1, "order-1")
    go_on.set()
    running.join()
    assert charge(1, "order-1") == "captured"


# -- settling --------------------------------------------------------------------------------------


def unknown(store: IdempotencyStore, charges: Charges) -> Callable[..., Any]:
    charge = charging(store, charges)
    charges.answer = GatewayTimeoutError("no answer")
    raised(charge)
    charges.answer = "captured now"
    return charge


def test_a_settled_success_is_the_answer(store: IdempotencyStore, charges: Charges) -> None:
    charge = unknown(store, charges)
    with events() as heard:
        settle(store, SCOPE, "order-1", Succeeded(result="it was"), by="ann", because="asked")
    assert charge(1, idempotency_key="order-1") == "it was"
    assert [name for name, _ in heard] == ["idempotency.settled"]
    assert len(charges.taken) == 1


def test_a_settled_error_is_raised(store: IdempotencyStore, charges: Charges) -> None:
    charge = unknown(store, charges)
    error = CardDeclinedError("declined", code="do_not_honor")
    settle(store, SCOPE, "order-1", error, by="ann", because="asked")
    again = raised(charge)
    assert type(again) is CardDeclinedError
    assert vars(again) == vars(error)


def test_a_denied_unknown_runs_again(store: IdempotencyStore, charges: Charges) -> None:
    charge = unknown(store, charges)
    settle(store, SCOPE, "order-1", Released(), by="ann", because="not there, asked twice")
    assert charge(1, idempotency_key="order-1") == "captured now"
    assert len(charges.taken) == 2


def test_settling_twice_in_the_same_words_is_once(
    store: IdempotencyStore, charges: Charges
) -> None:
    unknown(store, charges)
    outcome = Succeeded(result=1)
    first = settle(store, SCOPE, "order-1", outcome, by="ann", because="asked")
    assert settle(store, SCOPE, "order-1", outcome, by="ann", because="asked") == first
    with pytest.raises(SettlementRefusedError) as refused:
        settle(store, SCOPE, "order-1", Succeeded(result=2), by="bob", because="asked too")
    assert refused.value.state is IdempotencyState.SUCCEEDED


def test_what_is_at_work_or_not_there_is_not_settled(store: IdempotencyStore) -> None:
    taken(store, claim_of())
    for key, state in (("order-1", IdempotencyState.IN_PROGRESS), ("order-2", None)):
        with pytest.raises(SettlementRefusedError) as refused:
            settle(store, SCOPE, key, Released(), by="ann", because="impatient")
        assert refused.value.state is state


@pytest.mark.parametrize(("by", "because"), [("", "x"), ("ann", "  "), ("ann", "x" * 501)])
def test_settling_names_who_and_why(store: IdempotencyStore, by: str, because: str) -> None:
    with pytest.raises(PayloadError):
        settle(store, SCOPE, "order-1", Released(), by=by, because=because)


@pytest.mark.parametrize("repeatable", [False, True])
def test_a_result_that_came_too_late_for_its_key_gives_way(
    store: IdempotencyStore, repeatable: bool
) -> None:
    def overtaken(idempotency_key: str) -> str:
        record = store.read(SCOPE, "order-1")
        assert record is not None
        anew = claim_of(payload={}, token=record.token, repeatable=repeatable)
        if not repeatable:
            until(lambda: [each.call.key for each in store.unknown()] == ["order-1"])
            settle(store, SCOPE, "order-1", Released(), by="ann", because="not there")
        other = again(anew)
        until(lambda: type(answer_to(store, other)).__name__ == "Claimed")
        store.finish(other, Succeeded(result="other"))
        return "mine"

    options: dict[str, Any] = {"timeout_seconds": SHORT, "repeatable": repeatable}
    with events() as heard:
        assert idempotent(store, scope=SCOPE, **options)(overtaken)("order-1") == "other"
    refusals = [name for name, _ in heard if name == "idempotency.result_refused"]
    assert refusals == ([] if repeatable else ["idempotency.result_refused"])


def answer_to(store: IdempotencyStore, claim: Any) -> Any:
    record = store.claim(claim)
    return None if record is None else record.answers(claim.call, claim.token)


def test_a_success_after_its_key_was_denied_is_kept_and_told(store: IdempotencyStore) -> None:
    @idempotent(store, scope=SCOPE, timeout_seconds=SHORT)
    def charge(idempotency_key: str) -> str:
        until(lambda: len(store.unknown()) == 1)
        settle(store, SCOPE, "order-1", Released(), by="ann", because="not there")
        return "it was"

    with events() as heard:
        assert charge("order-1") == "it was"
    assert ("idempotency.late_result", {"scope": SCOPE, "key": "order-1"}) in heard
    assert charge("order-1") == "it was"


# -- other forms -----------------------------------------------------------------------------------


def test_a_call_without_a_decorator_runs_once(store: IdempotencyStore, charges: Charges) -> None:
    def handled(payload: Any, **options: Any) -> Any:
        return run_once(
            store,
            lambda: charges.charge(payload),
            scope="webhook.sandbox",
            key="evt_1",
            payload=payload,
            policy=Policy(**options),
        )

    for _ in range(2):
        assert handled({"type": "refunded"}) == {"status": "captured"}
    with pytest.raises(IdempotencyConflictError):
        handled({"type": "captured"})
    assert len(charges.taken) == 1


def test_a_coroutine_function_runs_once(store: IdempotencyStore, charges: Charges) -> None:
    @idempotent(store, scope=SCOPE, wait_seconds=20.0)
    async def charge(amount: int, idempotency_key: str) -> Any:
        await asyncio.sleep(0)
        return charges.charge(amount)

    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*[charge(1, "order-1") for _ in range(20)])

    assert asyncio.run(all_at_once()) == [{"status": "captured"}] * 20
    assert len(charges.taken) == 1


def test_a_coroutine_function_raises_what_it_raised(
    store: IdempotencyStore, charges: Charges
) -> None:
    @idempotent(store, scope=SCOPE)
    async def charge(amount: int, *, idempotency_key: str) -> Any:
        return charges.charge(amount)

    charges.answer = CardDeclinedError("declined")
    assert raised(lambda *a, **k: asyncio.run(charge(*a, **k))) is charges.answer
    assert type(raised(lambda *a, **k: asyncio.run(charge(*a, **k)))) is CardDeclinedError
    assert len(charges.taken) == 1


def test_a_cancelled_caller_leaves_a_call_that_ends_and_is_kept(store: IdempotencyStore) -> None:
    async def cancelled() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        @idempotent(store, scope=SCOPE, wait_seconds=20.0)
        async def charge(idempotency_key: str) -> str:
            begun.set()
            await go_on.wait()
            return "captured"

        caller = asyncio.create_task(charge("order-1"))
        await begun.wait()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        go_on.set()
        assert await charge("order-1") == "captured"

    asyncio.run(cancelled())


def test_a_loop_that_ends_leaves_an_unknown(store: IdempotencyStore) -> None:
    is_at_work = asyncio.Event()

    @idempotent(store, scope=SCOPE)
    async def charge(idempotency_key: str) -> None:
        is_at_work.set()
        await asyncio.Event().wait()

    async def impatient() -> None:
        call = asyncio.ensure_future(charge("order-1"))
        await is_at_work.wait()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call, timeout=SHORT)

    asyncio.run(impatient())
    until(lambda: [each.call.key for each in store.unknown()] == ["order-1"])


# -- misuse ----------------------------------------------------------------------------------------


def no_key(amount: int) -> None: ...


def generator(idempotency_key: str) -> Any:
    yield 1


async def coroutine(idempotency_key: str, session: Any) -> None: ...


def in_a_script(idempotency_key: str) -> None: ...


in_a_script.__module__ = "__main__"


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (no_key, {}),
        (generator, {}),
        (coroutine, {"transaction_arg": "session"}),
        (coroutine, {"payload_arg": "order"}),
        (in_a_script, {}),
        (coroutine, {"lease_seconds": 0}),
        (coroutine, {"ttl_seconds": -1}),
    ],
)
def test_what_cannot_be_made_idempotent_is_refused_at_once(
    function: Any, options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidIdempotencyUsage):
        idempotent(InMemoryIdempotencyStore(), **options)(function)


def test_a_store_without_transactions_takes_no_part_in_one() -> None:
    @idempotent(InMemoryIdempotencyStore(), scope=SCOPE, transaction_arg="session")
    def charge(session: Any, idempotency_key: str) -> None: ...

    with pytest.raises(InvalidIdempotencyUsage):
        charge(object(), "order-1")


def test_the_hash_in_a_record_is_that_of_the_payload(
    store: IdempotencyStore, charges: Charges
) -> None:
    charging(store, charges)(1, "USD", idempotency_key="order-1")
    found = store.read(SCOPE, "order-1")
    assert found is not None
    assert found.call.fingerprint == hash_payload({"currency": "USD", "amount": 1})
    assert found.answers(claim_of(payload={"amount": 1}).call) != Unknown()
