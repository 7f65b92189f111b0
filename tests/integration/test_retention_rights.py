"""Who may let history go: the owner's function alone, and it only what may go."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
import sqlalchemy

from orchestrator.state import State
from orchestrator.storage import migrate
from orchestrator.storage.database import Database, create_engine
from orchestrator.storage.retention import EndedSaga, Retention
from tests.ended_sagas import ENDS, NINETY_DAYS, ORDER, SHOP, old, plant, prune, rows
from tests.integration.engine import Engine
from workers.local_servers.running_servers import RunningServers


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = Engine(database, SHOP)
    yield made
    made.close()


@pytest.fixture
def retention(engine: Engine) -> Retention:
    return Retention(Database(engine.pool))


def as_role(engine: Engine, role: str) -> Any:
    return sqlalchemy.create_engine(
        engine.pool.url,
        connect_args={"options": f"-c role={role}"},
        isolation_level="READ COMMITTED",
    )


def test_the_janitor_can_prune_and_do_nothing_else(engine: Engine) -> None:
    plant(engine, 3)
    pool = as_role(engine, "amends_janitor")
    assert prune(Retention(Database(pool))).pruned.total() == 3
    plant(engine, 1, prefix="more-")
    with pool.connect() as connection:
        for statement in (
            "DELETE FROM amends.saga",
            "DELETE FROM amends.saga_log",
            "DELETE FROM amends.signal",
            "DELETE FROM amends.tombstone",
            "UPDATE amends.saga SET state = 'completed'",
            "INSERT INTO amends.tombstone SELECT * FROM amends.tombstone",
        ):
            assert refused(connection, statement), statement
    pool.dispose()


@pytest.mark.parametrize("role", ["amends_client", "amends_worker", "amends_reader"])
def test_nobody_else_may_prune_or_write_a_tombstone(engine: Engine, role: str) -> None:
    plant(engine, 1)
    pool = as_role(engine, role)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        prune(Retention(Database(pool)))
    with pool.connect() as connection:
        assert refused(connection, "SELECT amends.prune_signals(interval '90 days', 1)")
        assert refused(connection, "DELETE FROM amends.saga")
        assert refused(connection, "DELETE FROM amends.tombstone")
        assert refused(connection, TOMBSTONE)
    pool.dispose()
    assert rows(engine) == (1, 6)


TOMBSTONE = (
    "INSERT INTO amends.tombstone (definition, key, saga_id, version, definition_hash, "
    'fingerprint, state, "references", ended_at) SELECT definition, key, id, version, '
    "definition_hash, fingerprint, state, '{}', clock_timestamp() FROM amends.saga"
)


@pytest.mark.parametrize("replication_role", ["origin", "replica"])
def test_the_owner_itself_cannot_delete_what_is_not_pruned(
    engine: Engine, replication_role: str
) -> None:
    """A superuser here, with every grant."""
    plant(engine, 1)
    engine.client.start(SHOP, ORDER, key="running")
    with engine.pool.connect() as connection:
        connection.exec_driver_sql(f"SET session_replication_role = {replication_role}")
        connection.commit()
        for statement in (
            "DELETE FROM amends.saga",
            "DELETE FROM amends.saga WHERE due_at IS NULL",
            "DELETE FROM amends.saga_log",
            "TRUNCATE amends.saga",
            "TRUNCATE amends.tombstone",
        ):
            assert refused(connection, statement), statement

        connection.exec_driver_sql(TOMBSTONE)
        connection.commit()
        for statement in (
            "DELETE FROM amends.saga WHERE due_at IS NOT NULL",  # it has not ended
            "DELETE FROM amends.saga_log",  # their rows are there
            "DELETE FROM amends.tombstone",
        ):
            assert refused(connection, statement), statement
    assert rows(engine) == (2, 7)


def test_entries_without_a_row_need_a_tombstone_to_go(engine: Engine) -> None:
    engine.sql(
        "INSERT INTO amends.saga_log (saga_id, seq, kind, data) "
        "VALUES (gen_random_uuid(), 1, 'SagaStarted', '{}')"
    )
    with engine.pool.connect() as connection:
        assert refused(connection, "DELETE FROM amends.saga_log")


def refused(connection: sqlalchemy.Connection, statement: str) -> bool:
    try:
        connection.exec_driver_sql(statement)
    except sqlalchemy.exc.ProgrammingError as error:
        return isinstance(error.orig, psycopg.errors.InsufficientPrivilege)
    else:
        return False
    finally:
        connection.rollback()


@pytest.mark.parametrize("days", [None, timedelta(0), timedelta(hours=23), timedelta(days=-1)])
def test_the_function_itself_lets_nothing_young_go(
    engine: Engine, retention: Retention, days: timedelta | None
) -> None:
    saga_id = old(engine, "order-1", days=0)
    ended = EndedSaga(
        id=saga_id,
        seq=engine.client.get(saga_id).seq,
        created_at=engine.client.get(saga_id).created_at,
        state=State.COMPLETED,
        kept_because=None,
        record="",
    )
    for age_asked in (days, timedelta(days=1)):
        try:
            assert retention.prune([ended], age_asked) == {}  # type: ignore[arg-type]
        except psycopg.errors.InvalidParameterValue:
            assert age_asked is days
    assert rows(engine)[0] == 1


def test_an_owner_who_is_no_superuser_sees_the_snapshots_of_others(
    servers: RunningServers, database: str
) -> None:
    """On that depends that a start cannot slip through between tombstone and deletion."""
    name = "owned_by_nobody_special"
    superusers = sqlalchemy.make_url(servers.postgres.create_database(name))
    with psycopg.connect(_plain(superusers), autocommit=True) as connection:
        connection.execute("CREATE ROLE modest_owner LOGIN PASSWORD 'x'")
        connection.execute(f"ALTER DATABASE {name} OWNER TO modest_owner")
    url = superusers.set(username="modest_owner", password="x")
    pool = create_engine(url.render_as_string(hide_password=False))
    migrate.upgrade(pool)
    engine = Engine(url.render_as_string(hide_password=False), SHOP)
    retention = Retention(Database(pool))
    plant(engine, 1)
    [page] = retention.ended(ENDS, NINETY_DAYS, 10)
    try:
        with psycopg.connect(_plain(superusers)) as other:
            other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            other.execute("SELECT count(*) FROM amends.tombstone")
            for _ in range(2):
                assert retention.prune(page, NINETY_DAYS) == {page[0].id: False}
        assert retention.prune(page, NINETY_DAYS) == {page[0].id: True}
    finally:
        engine.close()
        pool.dispose()
        servers.postgres.drop_database(name)
        with psycopg.connect(database.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute("DROP ROLE modest_owner")


def _plain(url: sqlalchemy.URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)
