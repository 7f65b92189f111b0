"""Bring a schema to the version this code was written for.

Safe to run by many processes at once (an advisory lock), twice (it finds nothing to do) and while
workers run (`lock_timeout`, so that a migration waits for nobody and nobody for it).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from orchestrator.storage import installation
from orchestrator.storage.functions import FUNCTIONS
from orchestrator.storage.tables import SCHEMA, metadata

LOCK_KEY = 0x616D656E6473
"""Any constant: "amends" in ASCII."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """One schema and where its migrations lie."""

    name: str
    metadata: sqlalchemy.MetaData
    migrations: Path
    functions: Sequence[str] = ()
    """Statements that make its functions anew, whenever it is migrated."""


ENGINE_SCHEMA = Schema(
    name=SCHEMA,
    metadata=metadata,
    migrations=Path(__file__).parent / "migrations",
    functions=FUNCTIONS,
)


def upgrade(engine: sqlalchemy.Engine, schema: Schema = ENGINE_SCHEMA) -> tuple[str | None, str]:
    """Migrate to the newest version; return the version before and after."""
    with engine.connect() as connection, connection.begin():
        connection.execute(text("SET LOCAL lock_timeout = '30s'"))
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK_KEY})
        connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {schema.name}"))
        before = _current(connection, schema)
        config = _config(schema)
        config.attributes.update(connection=connection, schema=schema)
        command.upgrade(config, "head")
        for statement in schema.functions:
            connection.exec_driver_sql(statement)
        if schema is ENGINE_SCHEMA:
            installation.adopt(connection)
        after = _current(connection, schema)
    assert after is not None, "a migration ran"
    return before, after


def version(engine: sqlalchemy.Engine, schema: Schema = ENGINE_SCHEMA) -> str | None:
    """Return the version the database is at, or None when it was never migrated."""
    with engine.connect() as connection:
        return _current(connection, schema)


def head(schema: Schema = ENGINE_SCHEMA) -> str:
    """Return the version this code was written for."""
    found = ScriptDirectory.from_config(_config(schema)).get_current_head()
    assert found is not None, "there is at least one migration"
    return found


def sql(schema: Schema = ENGINE_SCHEMA) -> str:
    """Return the whole migration as SQL, for those who run it by hand."""
    written = io.StringIO()
    config = _config(schema, output=written)
    config.attributes.update(schema=schema)
    command.upgrade(config, "head", sql=True)
    functions = "\n".join(f"{each};" for each in schema.functions)
    return f"CREATE SCHEMA IF NOT EXISTS {schema.name};\n\n{written.getvalue()}\n{functions}"


def run_environment(context: Any) -> None:
    """Do what an Alembic ``env.py`` does, on the connection of `upgrade` or into text."""
    schema: Schema = context.config.attributes["schema"]
    options = {
        "target_metadata": schema.metadata,
        "version_table": "schema_version",
        "version_table_schema": schema.name,
        "include_schemas": True,
    }
    connection = context.config.attributes.get("connection")
    if connection is None:
        # The driver's own style of parameters would double every % in the printed SQL.
        style = {"paramstyle": "named"}
        context.configure(dialect_name="postgresql", dialect_opts=style, as_sql=True, **options)
    else:
        context.configure(connection=connection, **options)
    with context.begin_transaction():
        context.run_migrations()


def _config(schema: Schema, output: io.StringIO | None = None) -> Config:
    config = Config() if output is None else Config(output_buffer=output)
    config.set_main_option("script_location", str(schema.migrations).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _current(connection: sqlalchemy.Connection, schema: Schema) -> str | None:
    context = MigrationContext.configure(
        connection,
        opts={"version_table": "schema_version", "version_table_schema": schema.name},
    )
    return context.get_current_revision()
