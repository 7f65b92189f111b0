"""The schema of reconciliation: migrated equals declared, its states are whole, roles suffice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from orchestrator.storage import migrate
from orchestrator.storage.database import Database, create_engine
from recovery.reconciliation.daily import DailyReconciliation
from recovery.reconciliation.storage.findings import Findings
from recovery.reconciliation.storage.schema import RECONCILIATION_SCHEMA
from recovery.reconciliation.storage.tables import SCHEMA, metadata
from tests.integration.engine import Engine
from tests.integration.reconciliation.test_daily import completed, right, run
from tests.integration.reconciliation.test_ledger import SHOP


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = Engine(database, SHOP)
    yield made
    made.close()


def test_the_migrated_database_is_exactly_the_declared_one(engine: Engine) -> None:
    with engine.pool.connect() as connection:
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
        assert compare_metadata(context, metadata) == []
        checks = connection.exec_driver_sql(
            "SELECT conname FROM pg_constraint WHERE contype = 'c' "
            "AND connamespace = 'reconciliation'::regnamespace"
        )
        assert {row[0] for row in checks} == {
            each.name
            for table in metadata.tables.values()
            for each in table.constraints
            if isinstance(each, sqlalchemy.CheckConstraint)
        }


def test_migrating_again_finds_nothing_to_do(engine: Engine) -> None:
    head = migrate.head(RECONCILIATION_SCHEMA)

    assert migrate.upgrade(engine.pool, RECONCILIATION_SCHEMA) == (head, head)


FORGE = "UPDATE reconciliation.discrepancy SET "


@pytest.mark.parametrize(
    "change",
    [
        FORGE + "state = 'forgotten'",
        FORGE + "state = 'gone'",
        FORGE + "state = 'accepted', closed_by = 'a', closed_at = now()",
        FORGE + "closed_at = now()",
    ],
)
def test_a_half_closed_row_is_refused(engine: Engine, change: str) -> None:
    completed(engine, "a")
    run(DailyReconciliation(Database(engine.pool), engine.client, name="bank"), [])

    with pytest.raises(sqlalchemy.exc.IntegrityError):
        engine.sql(change)


def as_role(url: str, role: str) -> Any:
    pool = create_engine(url)

    def connected(connection: Any, _record: Any) -> None:
        connection.autocommit = True
        connection.execute(f"SET ROLE {role}")
        connection.autocommit = False

    sqlalchemy.event.listen(pool, "connect", connected)
    return pool


def test_the_role_of_workers_may_reconcile_and_that_of_readers_may_look(
    engine: Engine, database: str
) -> None:
    completed(engine, "a")
    worker, reader = as_role(database, "amends_worker"), as_role(database, "amends_reader")
    try:
        done = run(DailyReconciliation(Database(worker), engine.client, name="bank"), right("a"))
        assert done.failed_actions == 0
        assert Findings(Database(reader)).find(limit=10)
        for statement in (
            "DELETE FROM reconciliation.discrepancy",
            "DELETE FROM reconciliation.run",
        ):
            with worker.connect() as connection, pytest.raises(sqlalchemy.exc.ProgrammingError):
                connection.exec_driver_sql(statement)
        with reader.connect() as connection, pytest.raises(sqlalchemy.exc.ProgrammingError):
            connection.exec_driver_sql("UPDATE reconciliation.discrepancy SET state = 'gone'")
    finally:
        worker.dispose()
        reader.dispose()
