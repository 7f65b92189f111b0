"""Every idempotency store, for the contract they share, and calls to claim in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from orchestrator.idempotency import hash_payload
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
    yield PostgresIdempotencyStore(engine)
    engine.dispose()


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
