"""A saga whose refund is pending for too long, from its parking to its end by a person's word."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from orchestrator.closing import Close, Closing, HoldOn
from orchestrator.context import Effect, Found, Movement, Standing, StepContext
from orchestrator.errors import Terminal
from orchestrator.state import State
from recovery.operator.operator import Operator
from recovery.operator.refusals import RefusedError
from recovery.operator.verbs import MarkDone, MarkNotDone, Verb
from tests.histories import doing, saga
from tests.integration.engine import Engine
from tests.integration.operating.world import ADA, audit

REFUNDS: list[str] = []
SETTLED: list[bool] = []


def moved(kind: str, reference: str, *, pending: bool = False) -> Effect:
    movement = Movement(
        kind=kind, amount_minor=10, currency="EUR", reference=reference, pending=pending
    )
    return Effect(reference=reference, movements=[movement])


def pay(_: Any) -> Effect:
    return moved("capture", "p-1")


def refund(ctx: StepContext[Any]) -> Effect:
    """The first one stays pending; another key is given back at once."""
    REFUNDS.append(ctx.idempotency_key)
    return moved("refund", f"r-{len(REFUNDS)}", pending=len(REFUNDS) == 1)


def ship(_: Any) -> None:
    raise Terminal("lost", decisive=True)


def given_back(closing: Closing) -> Close | HoldOn:
    since = [each.since for each in closing.movements if each.is_pending]
    return HoldOn(until=min(since) + timedelta(milliseconds=1)) if since else Close()


def look_up(_: Any, reference: str | None) -> Found:
    """How the refund stands: settled when a test says so, else failed."""
    theirs = Standing(status="refunded" if SETTLED else "captured")
    ours = Standing(status="refunded")
    effect = moved("refund", reference or "")
    return Found(theirs=theirs, ours=ours, effect=effect, untouched=not SETTLED)


SLOW = saga(
    doing("pay", run=pay, compensation=refund, lookup=look_up),
    doing("ship", run=ship),
    name="slow",
    closing=given_back,
)


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    REFUNDS.clear()
    SETTLED.clear()
    made = Engine(database, SLOW)
    yield made
    made.close()


@pytest.fixture
def parked(engine: Engine) -> UUID:
    saga_id = engine.client.start(SLOW, {"amount": 1}, key="order-1").id
    assert engine.finish(saga_id) == State.FAILED_COMPENSATION
    return saga_id


@pytest.mark.parametrize(
    ("verb", "refunds"), [(MarkDone(step="pay", reference="r-1"), 1), (MarkNotDone(step="pay"), 2)]
)
def test_a_persons_word_on_a_pending_refund_brings_the_saga_to_its_end(
    engine: Engine, parked: UUID, verb: Verb, refunds: int
) -> None:
    operator = Operator(engine.coordinator, engine.client)
    if isinstance(verb, MarkDone):
        with pytest.raises(RefusedError, match="captured"):
            operator.act(parked, verb, ADA)
        SETTLED.append(True)
    operator.act(parked, verb, ADA)
    assert engine.finish(parked) == State.COMPENSATED
    assert len(set(REFUNDS)) == len(REFUNDS) == refunds
    assert audit(engine, parked) == [(verb.name, "ada", "called the bank")]
