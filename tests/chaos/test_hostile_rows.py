"""Rows that nobody should have written, by users of the real roles, while a real worker works."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID, uuid4

import psycopg
import pytest
from click.testing import CliRunner
from sqlalchemy import URL

from orchestrator.client import SagaClient
from orchestrator.state import State
from orchestrator.storage.database import create_engine
from recovery.cli.program import amends
from steps.checkout import checkout
from tests.deployment import Deployment, payload
from tests.integration.test_one_sagas_trouble import FORGED
from tests.worker_processes import until

OTHERS = 20


@contextmanager
def user_in(deployment: Deployment, role: str) -> Iterator[URL]:
    """A user of the server who may what the role may, and no more."""
    name = f"{role}_{uuid4().hex[:8]}"
    deployment.execute(f"CREATE USER {name} PASSWORD 'secret' IN ROLE {role}")
    try:
        yield deployment.engine.url.set(drivername="postgresql", username=name, password="secret")
    finally:
        for each in deployment.members:
            each.kill()
        deployment.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "  # noqa: S608 - a test's own
            f"WHERE usename = '{name}'"
        )
        deployment.execute(f"DROP OWNED BY {name}")
        deployment.execute(f"DROP USER {name}")


def start_as_client(url: URL, keys: list[str]) -> list[UUID]:
    pool = create_engine(url.render_as_string(hide_password=False))
    try:
        client = SagaClient(pool)
        return [client.start(checkout, payload(each), key=each).id for each in keys]
    finally:
        pool.dispose()


def states(deployment: Deployment, sagas: list[UUID]) -> set[State]:
    return {deployment.client.get(each).state for each in sagas}


@pytest.mark.timeout(240)
def test_one_bad_row_of_each_kind_stops_its_own_saga_and_is_repaired(
    deployment: Deployment,
) -> None:
    with (
        user_in(deployment, "amends_client") as client,
        user_in(deployment, "amends_worker") as worker,
        psycopg.connect(worker.render_as_string(hide_password=False)) as hostile,
    ):
        victims = start_as_client(client, [f"victim-{kind}" for kind in FORGED])
        [held] = start_as_client(client, ["held"])
        for saga_id, (kind, values) in zip(victims, FORGED.items(), strict=True):
            hostile.execute(
                "INSERT INTO amends.saga_log (saga_id, seq, kind, data) VALUES (%s, 2, %s, %s)",
                [saga_id, kind, json.dumps(values)],
            )
        hostile.commit()
        hostile.execute("SELECT FROM amends.saga WHERE id = %s FOR UPDATE", [held])

        address = worker.render_as_string(hide_password=False)
        deployment.start_worker(database_url=address)
        others = start_as_client(client, [f"other-{number}" for number in range(OTHERS)])
        until(
            lambda: states(deployment, others) == {State.COMPLETED},
            seconds=60,
            what="the others to complete",
        )
        until(
            lambda: states(deployment, victims) == {State.STUCK},
            seconds=60,
            what="the victims to be set aside",
        )
        hostile.rollback()
        until(
            lambda: states(deployment, [held]) == {State.COMPLETED},
            seconds=60,
            what="the one whose row was locked",
        )

        for saga_id in victims:
            command = ["repair", str(saga_id), "--void", "2", "--reason", "a script wrote it"]
            answer = CliRunner().invoke(amends, command, env={"AMENDS_DATABASE_URL": address})
            assert answer.exit_code == 0, answer.stderr
        until(
            lambda: states(deployment, victims) == {State.COMPLETED},
            seconds=60,
            what="the victims to complete",
        )
    assert deployment.violations({State.COMPLETED: len(victims) + 1 + OTHERS}) == []
