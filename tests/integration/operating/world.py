"""A business whose other side answers what a test says, and the sagas that it leaves parked."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from orchestrator.context import Effect, Found, Movement, NotLanded, Standing
from orchestrator.definition import Retry as Budget
from orchestrator.errors import (
    OutcomeUnknown,
    Terminal,
)
from recovery.operator.operator import Operator
from recovery.operator.previews import Preview
from recovery.operator.verbs import Confirm, Verb
from tests.integration.engine import Engine
from tests.operators import person

ADA, BOB = person("ada"), person("bob", "so did I")
ONCE = Budget(max_attempts=1, base=timedelta(hours=1), cap=timedelta(hours=1))
SLOW = Budget(max_attempts=5, base=timedelta(days=99), cap=timedelta(days=99))
AT_ONCE = timedelta(milliseconds=200)


@dataclass
class World:
    """The other side of `pay` and `refund`: what it answers is what a test says.

    `under`: what it has under any reference; without it, what fits.
    """

    pay: Any = None
    refund: Any = None
    found: Any = field(default_factory=NotLanded)
    under: Any = None
    asked: int = 0
    keys: list[str] = field(default_factory=list)

    def on_pay(self, ctx: Any) -> Any:
        self.keys.append(ctx.idempotency_key)
        return _answer(self.pay)

    def on_refund(self, _: Any) -> Any:
        return _answer(self.refund)

    def on_probe(self, ctx: Any) -> Any:
        self.asked += 1
        assert ctx.step_key == ctx.idempotency_key
        return _answer(self.found)

    def on_lookup(self, ctx: Any, reference: str | None) -> Any:
        if self.under is not None:
            return _answer(self.under)
        effect = Effect(value={"id": reference}, reference=reference)
        there = Standing(order=ctx.saga_key, status="done")
        return Found(theirs=there, ours=there, effect=effect)


def _answer(answer: Any) -> Any:
    if isinstance(answer, Exception):
        raise answer
    return answer


LOST = OutcomeUnknown("no answer")
PAID = Effect(
    value={"id": "pay-1"},
    reference="pay-1",
    movements=[Movement(kind="capture", amount_minor=1990, currency="EUR", reference="pay-1")],
)


def start(engine: Engine, name: str = "shop", key: str = "order-1", amount: int = 1) -> UUID:
    return engine.client.start(name, {"amount": amount}, key=key).id


def unknown(engine: Engine, world: World, name: str = "shop", key: str = "order-1") -> UUID:
    """A saga that is stuck because nobody knows whether `pay` happened; nothing can arrive."""
    world.pay = LOST
    world.found = LOST
    saga_id = start(engine, name, key)
    assert engine.finish(saga_id) == "stuck"
    world.pay = PAID
    until_quiet(engine)
    return saga_id


def undone(engine: Engine, world: World, key: str = "order-1", *, name: str = "shop") -> UUID:
    """A saga whose money was taken and cannot be given back."""
    world.pay, world.refund = PAID, Terminal("closed account")
    saga_id = start(engine, name, key)
    engine.coordinator.execute(engine.claim(saga_id))
    engine.client.cancel(saga_id, reason="no")
    assert engine.finish(saga_id) == "failed_compensation"
    world.refund = Effect(reference="refund-1")
    until_quiet(engine)
    return saga_id


def until_quiet(engine: Engine) -> None:
    engine.sql("SELECT pg_sleep(0.25)")


def by_both(operator: Operator, saga_id: UUID, verb: Verb) -> Preview:
    """The verb, said by one person and confirmed by another."""
    assert operator.act(saga_id, verb, ADA).assertion is not None
    return operator.act(saga_id, Confirm(), BOB)


def everything(engine: Engine) -> list[Any]:
    """All rows of all sagas: what must be the same after a verb that was refused."""
    return [
        engine.sql("SELECT * FROM amends.saga ORDER BY id"),
        engine.sql("SELECT * FROM amends.saga_log ORDER BY saga_id, seq"),
        engine.sql("SELECT * FROM amends.attempt ORDER BY saga_id, step, direction, number"),
        engine.sql("SELECT * FROM amends.signal ORDER BY key, name, dedup_id"),
    ]


def audit(engine: Engine, saga_id: UUID) -> list[tuple[str, str, str]]:
    return [
        tuple(row)
        for row in engine.sql(
            "SELECT data->>'verb', data->>'actor', data->>'reason' FROM amends.saga_log "
            "WHERE saga_id = :id AND kind = 'OperatorActed' ORDER BY seq",
            id=saga_id,
        )
    ]


def steps_run(engine: Engine, saga_id: UUID) -> list[tuple[str, str, int]]:
    return [
        (row[0], row[1], int(row[2]))
        for row in engine.sql(
            "SELECT data->>'step', data->>'direction', data->>'attempt' FROM amends.saga_log "
            "WHERE saga_id = :id AND kind = 'StepStarted' ORDER BY seq",
            id=saga_id,
        )
    ]
