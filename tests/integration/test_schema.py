"""The schema: migrated equals declared, the log only grows, and nothing can be forgotten."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from orchestrator.storage import migrate
from orchestrator.storage.database import create_engine
from orchestrator.storage.tables import SCHEMA, metadata
from tests.histories import doing, saga
from tests.integration.engine import Engine
from workers.local_servers.running_servers import RunningServers

ROLES = ("amends_client", "amends_worker", "amends_reader")
JANITOR = "amends_janitor"


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = Engine(database, saga(doing("pay")))
    yield made
    made.close()


@pytest.fixture
def empty(servers: RunningServers) -> Iterator[str]:
    """The URL of a database that nobody has migrated."""
    servers.postgres.start()
    name = f"never_migrated_{uuid4().hex[:8]}"
    yield servers.postgres.create_database(name)
    servers.postgres.drop_database(name)


def differences(url: str) -> list[Any]:
    """What a migration would have to do to make the database the declared one."""
    # The user may be called like the schema, which would make it the default one, without a name.
    pool = sqlalchemy.create_engine(url, connect_args={"options": "-c search_path=public"})
    try:
        with pool.connect() as connection:
            context = MigrationContext.configure(
                connection,
                opts={
                    "include_schemas": True,
                    "include_name": lambda name, kind, _: kind != "schema" or name == SCHEMA,
                    "version_table": "schema_version",
                    "version_table_schema": SCHEMA,
                    "compare_type": True,
                    "compare_server_default": True,
                },
            )
            return list(compare_metadata(context, metadata))
    finally:
        pool.dispose()


def test_the_migrated_database_is_exactly_the_declared_one(database: str) -> None:
    assert differences(database) == []


def test_a_column_that_was_not_declared_is_noticed(engine: Engine, database: str) -> None:
    engine.sql("ALTER TABLE amends.saga ADD COLUMN forgotten text")
    [found] = differences(database)
    assert found[0] == "remove_column"


def checks_of(connection: sqlalchemy.Connection) -> set[str]:
    rows = connection.exec_driver_sql(
        "SELECT conname FROM pg_constraint "
        "WHERE contype = 'c' AND connamespace = 'amends'::regnamespace"
    )
    return {row[0] for row in rows}


def test_every_declared_check_is_in_the_database(engine: Engine) -> None:
    declared = {
        each.name
        for table in metadata.tables.values()
        for each in table.constraints
        if isinstance(each, sqlalchemy.CheckConstraint)
    }
    with engine.pool.connect() as connection:
        assert checks_of(connection) == declared


def test_migrating_twice_finds_nothing_to_do(engine: Engine) -> None:
    assert migrate.upgrade(engine.pool) == (migrate.head(), migrate.head())
    assert migrate.version(engine.pool) == migrate.head()


def test_many_migrators_at_once_migrate_once(empty: str) -> None:
    results: list[Any] = []

    def run() -> None:
        pool = create_engine(empty)
        try:
            results.append(migrate.upgrade(pool))
        except Exception as error:  # noqa: BLE001 - shown by the assertion
            results.append(error)
        finally:
            pool.dispose()

    threads = [threading.Thread(target=run) for _ in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(results, key=str) == sorted(
        [(None, migrate.head()), *[(migrate.head(), migrate.head())] * 5], key=str
    )


def test_the_migration_as_text_makes_the_same_schema(empty: str) -> None:
    pool = create_engine(empty)
    with pool.connect() as connection:
        driver: Any = connection.connection.driver_connection
        driver.autocommit = True
        driver.execute(migrate.sql())  # as `psql` would send it: a percent sign is one
    assert migrate.version(pool) == migrate.head()
    pool.dispose()


# -- the log only grows ----------------------------------------------------------------------------

FORBIDDEN = (
    "UPDATE amends.saga_log SET kind = 'Forged'",
    "UPDATE amends.saga_log SET data = '{}' WHERE false OR seq = 1",
    "DELETE FROM amends.saga_log",
    "TRUNCATE amends.saga_log",
    "TRUNCATE amends.saga, amends.saga_log",
)


@pytest.mark.parametrize("statement", FORBIDDEN)
@pytest.mark.parametrize("role", [None, *ROLES, JANITOR])
@pytest.mark.parametrize("replication_role", ["origin", "replica"])
def test_the_log_cannot_be_changed_by_anybody(
    engine: Engine, statement: str, role: str | None, replication_role: str
) -> None:
    """The owner, a superuser here, has every grant; the trigger refuses it all the same."""
    engine.client.start("shop", {"amount": 1}, key="order-1")
    with engine.pool.connect() as connection:
        connection.exec_driver_sql(f"SET session_replication_role = {replication_role}")
        if role is not None:
            connection.exec_driver_sql(f"SET ROLE {role}")
        with pytest.raises(sqlalchemy.exc.ProgrammingError) as refused:
            connection.exec_driver_sql(statement)
    assert isinstance(refused.value.orig, psycopg.errors.InsufficientPrivilege)
    assert engine.sql("SELECT kind FROM amends.saga_log") == [("SagaStarted",)]


# -- nothing is forgotten --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE amends.saga SET due_at = NULL",
        "UPDATE amends.saga SET due_at = NULL, state = 'stuck'",
        "UPDATE amends.saga SET state = 'completed'",
        "UPDATE amends.saga SET state = 'asleep'",
        "UPDATE amends.saga SET seq = 0",
        "UPDATE amends.attempt SET token = gen_random_uuid()",
        "UPDATE amends.attempt SET number = 0",
    ],
)
def test_a_row_that_would_be_forgotten_is_refused(engine: Engine, statement: str) -> None:
    engine.client.start("shop", {"amount": 1}, key="order-1")
    with pytest.raises(sqlalchemy.exc.IntegrityError) as refused:
        engine.sql(statement)
    assert isinstance(refused.value.orig, psycopg.errors.CheckViolation)


# -- roles -----------------------------------------------------------------------------------------


def may(connection: sqlalchemy.Connection, role: str) -> dict[str, str]:
    """For each table what the role may do to it as a whole: s, i, u, d, t."""
    rights = {"SELECT": "s", "INSERT": "i", "UPDATE": "u", "DELETE": "d", "TRUNCATE": "t"}
    return {
        table.name: "".join(
            letter
            for right, letter in rights.items()
            if connection.exec_driver_sql(
                "SELECT has_table_privilege(%(role)s, %(table)s, %(right)s)",
                {"role": role, "table": f"amends.{table.name}", "right": right},
            ).scalar()
        )
        for table in metadata.sorted_tables
    }


@pytest.mark.parametrize("role", [*ROLES, JANITOR])
def test_no_role_may_change_the_log_or_read_beyond_the_schema(engine: Engine, role: str) -> None:
    with engine.pool.connect() as connection:
        rights = may(connection, role)
        assert set(rights["saga_log"]) <= {"s", "i"}
        assert not any("t" in each for each in rights.values())
        [flags] = connection.exec_driver_sql(
            "SELECT rolsuper, rolcreaterole, rolcreatedb, rolcanlogin, rolbypassrls "
            "FROM pg_roles WHERE rolname = %(role)s",
            {"role": role},
        )
        assert not any(flags)


def test_each_role_may_do_what_its_user_does_and_no_more(engine: Engine) -> None:
    with engine.pool.connect() as connection:
        client, worker, reader = (may(connection, role) for role in ROLES)
        janitor = may(connection, JANITOR)
    assert set(reader.values()) == {"s"}
    assert set(janitor.values()) <= {"s", ""}
    assert worker["tombstone"] == "s"
    assert client["saga"] == client["saga_log"] == client["attempt"] == client["signal"] == "s"
    assert client["semantic_lock"] == "s"
    assert worker["attempt"] == "siud"
    assert worker["saga"] == "siu"


def test_a_client_and_a_worker_of_these_roles_can_do_their_work(
    database: str,
) -> None:
    client, worker = (Engine(database, saga(doing("pay"))) for _ in ROLES[:2])
    try:
        for each, role in ((client, ROLES[0]), (worker, ROLES[1])):
            sqlalchemy.event.listen(each.pool, "connect", _as_role(role))
        first = client.client.start("shop", {"amount": 1}, key="order-1")
        assert not client.client.start("shop", {"amount": 1}, key="order-1").created
        client.client.cancel(first.id, reason="a test")
        client.client.signal(first.id, "told", dedup_id="1")
        other = client.client.start("shop", {"amount": 1}, key="order-2")
        assert worker.finish(first.id) == "compensated"
        assert worker.finish(other.id) == "completed"
        [(user,)] = client.sql("SELECT current_user")
        assert user == ROLES[0]
    finally:
        client.close()
        worker.close()


def _as_role(role: str) -> Any:
    def connected(connection: Any, _record: Any) -> None:
        connection.autocommit = True
        connection.execute(f"SET ROLE {role}")
        connection.autocommit = False

    return connected


MOVING = ("seq", "step", "direction", "attempt", "last_error", "updated_at")
"""Not `look_count`: it changes only together with `due_at`, which is in an index anyway."""


def test_no_index_of_saga_holds_a_column_that_moves_while_it_runs(database: str) -> None:
    """Such a column would make every update of a running saga touch every index."""
    with psycopg.connect(database.replace("+psycopg", "")) as connection:
        rows = connection.execute(
            "SELECT c.relname, a.attname FROM pg_depend d "
            "JOIN pg_index i ON i.indexrelid = d.objid JOIN pg_class c ON c.oid = i.indexrelid "
            "JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid "
            "WHERE d.refobjid = 'amends.saga'::regclass"
        ).fetchall()
    indexed = {name for _, name in rows}
    assert {"due_at", "created_at", "state"} <= indexed
    assert indexed.isdisjoint(MOVING), rows
