"""A coordinator on a real Postgres, with three sagas whose steps a test scripts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator.definition import SagaDefinition
from tests.histories import doing, saga
from tests.integration.coordinating.scripted import Scripted
from tests.integration.engine import (
    Engine,
)


@pytest.fixture
def script() -> Scripted:
    return Scripted()


@pytest.fixture
def shop(script: Scripted) -> SagaDefinition[Any]:
    return saga(
        doing("reserve", run=script, compensation=script),
        doing("pay", run=script, compensation=script),
        doing("ship", run=script, pivot=True),
    )


@pytest.fixture
def fan(script: Scripted) -> SagaDefinition[Any]:
    return saga(
        doing("a", run=script, compensation=script),
        doing("b", run=script, compensation=script, after=()),
        doing("c", run=script, compensation=script, after=("a", "b")),
        name="fan",
    )


@pytest.fixture
def books(script: Scripted) -> SagaDefinition[Any]:
    return saga(doing("book", run=script, compensation=script, transactional=True), name="books")


@pytest.fixture
def engine(
    database: str, shop: SagaDefinition[Any], fan: SagaDefinition[Any], books: SagaDefinition[Any]
) -> Iterator[Engine]:
    made = Engine(database, shop, fan, books)
    made.sql("CREATE TABLE IF NOT EXISTS public.book (line text)")
    yield made
    made.close()
