"""Every idempotency store, for the contract they share, and calls to claim or to make in them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine

from orchestrator.idempotency import hash_payload, idempotent
from orchestrator.idempotency_for_tests import InMemoryIdempotencyStore
from orchestrator.idempotency_record import (
    Call,
    Claim,
    Claimed,
    IdempotencyRecord,
    IdempotencyStore,
)
from orchestrator.storage.database import create_engine
from orchestrator.storage.idempotency import PostgresIdempotencyStore

SCOPE = "shop.charge"
SHORT = 0.2
"""A lease, in seconds, that a test outlives."""


@pytest.fixture(params=["postgres", "in_memory"])
def store(request: pytest.FixtureRequest) -> Iterator[IdempotencyStore]:
    if request.param == "in_memory":
        yield InMemoryIdempotencyStore()
        return
    engine = create_engine(request.getfixturevalue("database"))
    with store_in(engine) as made:
        yield made
    engine.dispose()


@contextmanager
def store_in(engine: Engine) -> Iterator[PostgresIdempotencyStore]:
    """A store that extends no lease after the block: no connection outlives its engine."""
    made, is_over, at_work = PostgresIdempotencyStore(engine), threading.Event(), threading.Lock()
    extend = made._heartbeat._extend

    def extend_until_over(claims: Sequence[Claim]) -> None:
        with at_work:
            if not is_over.is_set():
                extend(claims)

    made._heartbeat._extend = extend_until_over
    yield made
    with at_work:
        is_over.set()


def claim_of(key: str = "order-1", payload: Any = None, **options: Any) -> Claim:
    """A claim with a token of its own."""
    payload = {"amount": 1} if payload is None else payload
    claim = Claim(
        call=Call(scope=SCOPE, key=key, fingerprint=hash_payload(payload)),
        token=uuid4(),
        repeatable=False,
        lease_seconds=15.0,
        timeout_seconds=300.0,
        keep_seconds=86_400.0,
    )
    return replace(claim, **options)


def again(claim: Claim, **options: Any) -> Claim:
    """The same call, claimed by somebody else."""
    return replace(claim, token=uuid4(), **options)


def taken(store: IdempotencyStore, claim: Claim) -> Claim:
    """Claim a key that is free."""
    assert isinstance(answer(store, claim), Claimed)
    return claim


def answer(store: IdempotencyStore, claim: Claim) -> Any:
    """What the store answers to a claim."""
    record = store.claim(claim)
    assert record is not None
    return record.answers(claim.call, claim.token)


def record(store: IdempotencyStore, claim: Claim) -> IdempotencyRecord:
    """The record of a claim's key; there must be one."""
    found = store.read(claim.call.scope, claim.call.key)
    assert found is not None
    return found


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


def raised(charge: Callable[..., Any]) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - any, to be compared
        charge(1, idempotency_key="order-1")
    return caught.value
