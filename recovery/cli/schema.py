"""``amends migrate``: the schemas of the engine, reconciliation and, if asked, the checkout."""

from __future__ import annotations

import click

from orchestrator.storage import installation, migrate
from orchestrator.storage.migrate import ENGINE_SCHEMA, Schema
from recovery.cli.failures import ExitCode, Failure
from recovery.cli.session import Session, pass_session
from recovery.reconciliation.storage.schema import RECONCILIATION_SCHEMA
from steps.storage.schema import SHOP_SCHEMA


@click.command("migrate")
@click.option("--checkout", is_flag=True, help="Also the tables of the checkout (schema shop).")
@click.option(
    "--installation",
    "name",
    metavar="NAME",
    help="Call the installation so, like eu-shop, before its first saga; else a name is minted.",
)
@click.option("--sql", is_flag=True, help="Print the SQL instead of running it.")
@click.option("--check", is_flag=True, help="Change nothing; exit 1 unless all is up to date.")
@pass_session
def migrate_command(
    session: Session, checkout: bool, name: str | None, sql: bool, check: bool
) -> None:
    """Bring the database to the schema of this version.

    Safe to run again, by several at once, and while workers run.
    """
    if sql and check:
        raise click.UsageError("--sql and --check exclude each other")
    if name is not None and (sql or check):
        raise click.UsageError(
            "--installation names what is migrated, so not with --sql or --check"
        )
    shop = [SHOP_SCHEMA] if checkout else []
    schemas = [ENGINE_SCHEMA, *shop, RECONCILIATION_SCHEMA]
    if sql:
        return _print_sql(session, schemas)
    if check:
        return _check(session, schemas)
    for schema in schemas:
        before, after = migrate.upgrade(session.engine, schema)
        text = f"{schema.name}: {before or 'empty'} → {after}"
        session.output.record(
            {"schema": schema.name, "before": before, "after": after},
            f"{schema.name}: up to date at {after}" if before == after else text,
        )
    if name is not None:
        installation.name(session.engine, name)
    return None


def _print_sql(session: Session, schemas: list[Schema]) -> None:
    for schema in schemas:
        written = migrate.sql(schema)
        session.output.record({"schema": schema.name, "sql": written}, written)


def _check(session: Session, schemas: list[Schema]) -> None:
    behind = []
    for schema in schemas:
        found, wanted = migrate.version(session.engine, schema), migrate.head(schema)
        if found != wanted:
            behind.append(schema.name)
        session.output.record(
            {"schema": schema.name, "version": found, "wanted": wanted, "ok": found == wanted},
            f"{schema.name}: {found or 'empty'}, this version wants {wanted}",
        )
    if behind:
        raise Failure(f"{', '.join(behind)} not up to date: run `amends migrate`", ExitCode.FAILURE)
