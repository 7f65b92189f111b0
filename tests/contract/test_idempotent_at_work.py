"""Idempotent calls that are at work, unknown or settled, and other forms of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from orchestrator.errors import (
    PayloadError,
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
    CardDeclinedError,
    GatewayTimeoutError,
)
from tests.idempotency_stores import SCOPE, SHORT, Charges, again, charging, claim_of, raised, taken
from tests.integration.engine import events
from tests.worker_processes import until

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
    charge = charging(store, charges, wait_seconds=90.0)
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
    charge = charging(store, charges, wait_seconds=90.0)
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

    @idempotent(store, scope=SCOPE, lease_seconds=6.0, repeatable=True)
    def charge(amount: int, idempotency_key: str) -> str:
        begun.set()
        assert go_on.wait(90)
        return "captured"

    running = threading.Thread(target=charge, args=(1, "order-1"))
    running.start()
    assert begun.wait(30)
    claimed = store.read(SCOPE, "order-1")
    assert claimed is not None
    until(lambda: (datetime.now(UTC) - claimed.claimed_at).total_seconds() > 6.5)
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


@pytest.mark.parametrize("other", [Released(), Succeeded(result=2), GatewayTimeoutError("no")])
def test_who_says_something_else_afterwards_is_told_that_it_counts_no_more(
    store: IdempotencyStore, charges: Charges, other: Succeeded | Released | Exception
) -> None:
    unknown(store, charges)
    settle(store, SCOPE, "order-1", Succeeded(result=1), by="ann", because="asked")

    with pytest.raises(SettlementRefusedError):
        settle(store, SCOPE, "order-1", other, by="ann", because="asked")


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
    @idempotent(store, scope=SCOPE, wait_seconds=90.0)
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

        @idempotent(store, scope=SCOPE, wait_seconds=90.0)
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
