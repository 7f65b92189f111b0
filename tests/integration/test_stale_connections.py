"""Pooled connections of before a restart of Postgres: nobody has to fail on them first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Literal

import pytest
import sqlalchemy

from orchestrator.client import SagaClient
from orchestrator.storage.database import create_engine
from tests.histories import doing, saga
from workers.local_servers.running_servers import RunningServers

SHOP = saga(doing("pay"))
POOLED = 4


@pytest.fixture(params=["ours", "the caller's"])
def engine(database: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    url = sqlalchemy.make_url(database).set(drivername="postgresql+psycopg")
    made = create_engine(database) if request.param == "ours" else sqlalchemy.create_engine(url)
    with ExitStack() as held:
        for _ in range(POOLED):
            held.enter_context(made.connect())
    yield made
    made.dispose()


@pytest.mark.parametrize("how", ["fast", "immediate"])
def test_no_start_fails_on_a_connection_of_before_a_restart(
    engine: Any, servers: RunningServers, how: Literal["fast", "immediate"]
) -> None:
    client = SagaClient(engine)
    client.start(SHOP, {"amount": 1}, key="before")
    servers.postgres.restart(how)
    for number in range(POOLED + 1):
        assert client.start(SHOP, {"amount": 1}, key=f"order-{number}").created


def test_no_transaction_fails_on_a_connection_of_before_a_restart(
    database: str, servers: RunningServers
) -> None:
    """As steps, reservations and velocities have them."""
    engine = create_engine(database)
    with ExitStack() as held:
        for _ in range(POOLED):
            held.enter_context(engine.connect())
    servers.postgres.restart("immediate")
    for _ in range(POOLED + 1):
        with engine.begin() as connection:
            assert connection.exec_driver_sql("SELECT 1").scalar() == 1
    engine.dispose()
