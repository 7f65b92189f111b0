"""An undo that finds nothing is believed only when the other side must show what it did."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from orchestrator.context import Effect, NotLanded, StepContext
from orchestrator.definition import Retry, SagaDefinition, step
from orchestrator.entries import Direction, StepFailed, StepStarted, StepSucceeded
from orchestrator.errors import Terminal
from tests.integration.engine import Engine, wait_until

LAG = timedelta(seconds=0.5)


class Nothing(BaseModel):
    """What is paid does not matter."""


class Bank:
    """Shows a payment only when it has been asked for it so often, and counts the looks."""

    def __init__(self, *, hides: int, lag: timedelta | None = None) -> None:
        self.hides, self.lag = hides, lag
        self.looks = 0
        self.asked_before: list[int] = []

    def pay(self, _: StepContext[Nothing]) -> None:
        raise Terminal("refused before it was known whether it was done", code="refused")

    def void(self, ctx: StepContext[Nothing]) -> Effect | NotLanded:
        self.looks += 1
        self.asked_before.append(ctx.asked_before)
        if self.looks <= self.hides:
            return NotLanded("no payment under the key", lag=self.lag)
        return Effect(reference="pay-1")

    def saga(self, lag: timedelta = LAG) -> SagaDefinition[Nothing]:
        quick = Retry(base=timedelta(milliseconds=1), cap=timedelta(milliseconds=5))
        return SagaDefinition(
            name="paying",
            version=1,
            payload=Nothing,
            steps=[step("pay", self.pay, compensation=self.void, undo_retry=quick, lag=lag)],
        )


@pytest.fixture
def engines(database: str) -> Iterator[list[Engine]]:
    opened: list[Engine] = []
    yield opened
    for each in opened:
        each.close()


def began(engine: Engine, saga_id: Any) -> list[timedelta]:
    """When each undo began, after the payment had ended."""
    log = engine.coordinator.log.entries(saga_id)
    ended = next(e.at for e in log if isinstance(e.entry, StepFailed))
    return [
        each.at - ended
        for each in log
        if isinstance(each.entry, StepStarted) and each.entry.direction == Direction.COMPENSATE
    ]


def undone(engine: Engine, saga_id: Any) -> StepSucceeded:
    [entry] = [each for each in engine.entries(saga_id) if isinstance(each, StepSucceeded)]
    return entry


@pytest.mark.parametrize("bank", [Bank(hides=99), Bank(hides=99, lag=LAG)], ids=["step", "answer"])
def test_nothing_is_found_when_two_looks_after_the_lag_found_nothing(
    database: str, engines: list[Engine], bank: Bank
) -> None:
    definition = bank.saga() if bank.lag is None else bank.saga(timedelta(hours=1))
    engines.append(engine := Engine(database, definition))
    saga_id = engine.client.start(definition, {}, key="A-1").id

    assert engine.finish(saga_id) == "compensated"
    assert undone(engine, saga_id).undone is False
    assert len([each for each in began(engine, saga_id) if each >= LAG]) == 2
    assert bank.asked_before == list(range(bank.looks))


def test_what_a_later_look_finds_is_undone(database: str, engines: list[Engine]) -> None:
    bank = Bank(hides=2)
    engines.append(engine := Engine(database, bank.saga()))
    saga_id = engine.client.start(bank.saga(), {}, key="A-1").id

    assert engine.finish(saga_id) == "compensated"
    assert (undone(engine, saga_id).undone, undone(engine, saga_id).reference) == (True, "pay-1")


def test_an_attempt_that_never_looked_is_no_look(database: str, engines: list[Engine]) -> None:
    bank = Bank(hides=2)
    engines.append(engine := Engine(database, bank.saga()))
    saga_id = engine.client.start(bank.saga(), {}, key="A-1").id
    engine.coordinator.execute(engine.claim(saga_id))
    for _ in range(2):  # undos whose workers die before they have asked
        wait_until(lambda: bool(engine.attempts(saga_id)))
        engine.gives_up(engine.claim(saga_id))
        engine.bell.messages.clear()

    assert engine.finish(saga_id) == "compensated"
    assert undone(engine, saga_id).reference == "pay-1"
