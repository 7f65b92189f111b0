"""An operator at a desk: a worker, a database, and an other side that a test plays."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator.definition import Lock
from recovery.operator.operator import Operator
from tests.histories import doing, saga
from tests.integration.engine import Engine
from tests.integration.operating.world import AT_ONCE, ONCE, SLOW, World


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def engine(database: str, world: World) -> Iterator[Engine]:
    paying = doing(
        "pay",
        run=world.on_pay,
        compensation=world.on_refund,
        lookup=world.on_lookup,
        retry=ONCE,
        undo_retry=ONCE,
        timeout=AT_ONCE,
    )
    asking = doing(
        "pay",
        run=world.on_pay,
        compensation=world.on_refund,
        lookup=world.on_lookup,
        probe=world.on_probe,
        retry=ONCE,
        probe_retry=ONCE,
        timeout=AT_ONCE,
    )
    patient = doing(
        "pay", run=world.on_pay, compensation=world.on_refund, lookup=world.on_lookup, retry=SLOW
    )
    ship = doing("ship", pivot=True)
    made = Engine(
        database,
        saga(paying, ship, attributes=["amount"]),
        saga(asking, ship, name="askable"),
        saga(patient, ship, name="patient"),
        saga(
            doing("ship", pivot=True),
            doing(
                "mail",
                run=world.on_pay,
                lookup=world.on_lookup,
                retriable=True,
                timeout=AT_ONCE,
            ),
            name="post",
        ),
        saga(paying, ship, name="locked", lock=Lock(on=lambda _: "till-1")),
    )
    yield made
    made.close()


@pytest.fixture
def operator(engine: Engine) -> Operator:
    return Operator(engine.coordinator, engine.client)
