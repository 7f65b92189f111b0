"""A saga whose participant has a database of its own; worker processes import it by name.

Its first attempt gets into trouble: it is killed after its commit, or stopped before it begins.
"""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from functools import cache
from typing import Any

import sqlalchemy
from pydantic import BaseModel
from sqlalchemy import text

from orchestrator.context import Effect, NothingThere, StepContext
from orchestrator.definition import Retry, SagaDefinition, step
from orchestrator.errors import Terminal
from orchestrator.storage import barrier

AMOUNT = 100


class Transfer(BaseModel):
    """What befalls the first attempt, and whether the barrier is used."""

    stops_before: bool = False
    dies_after: bool = False
    has_barrier: bool = True


@cache
def bank() -> sqlalchemy.Engine:
    return sqlalchemy.create_engine(os.environ["BANK_URL"])


def debit(ctx: StepContext[Transfer]) -> Effect:
    is_first = ctx.attempt == 1
    if ctx.payload.stops_before and is_first:
        os.kill(os.getpid(), signal.SIGSTOP)
    with bank().begin() as connection:
        effect = _once(connection, ctx)
    if ctx.payload.dies_after and is_first:
        os.kill(os.getpid(), signal.SIGKILL)
    return effect


def _once(connection: sqlalchemy.Connection, ctx: StepContext[Transfer]) -> Effect:
    def take() -> Effect:
        balance: int = connection.scalar(text("SELECT coalesce(sum(amount), 0) FROM entry")) or 0
        if balance < AMOUNT:
            raise Terminal("no cover", code="no_cover", decisive=True)
        return Effect(value={"entry": _book(connection, -AMOUNT)})

    return barrier.act(connection, ctx, take) if ctx.payload.has_barrier else take()


def credit_back(ctx: StepContext[Transfer]) -> Effect | NothingThere:
    with bank().begin() as connection:
        if ctx.payload.has_barrier:
            return barrier.undo(connection, ctx, lambda _: _book(connection, AMOUNT))
        if ctx.effect is None:
            return NothingThere()
        return Effect(value=_book(connection, AMOUNT))


def _book(connection: sqlalchemy.Connection, amount: int) -> Any:
    entry = text("INSERT INTO entry (amount) VALUES (:amount) RETURNING id")
    return connection.scalar(entry, {"amount": amount})


transfer = SagaDefinition(
    name="transfer",
    version=1,
    payload=Transfer,
    steps=[
        step(
            "debit",
            debit,
            compensation=credit_back,
            retry=Retry(base=timedelta(milliseconds=50), cap=timedelta(milliseconds=100)),
        )
    ],
)
