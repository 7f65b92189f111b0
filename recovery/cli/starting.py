"""``amends start`` and ``amends restock``: putting work in, by hand or from a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from orchestrator.definition import SagaDefinition
from recovery.cli.bulk_start import BulkStart
from recovery.cli.failures import ExitCode, Failure
from recovery.cli.field_options import settings_of
from recovery.cli.output import counted
from recovery.cli.row_files import RowFile
from recovery.cli.session import Session, pass_session
from steps.storage import stock

EXAMPLES = """\b
Examples:
  amends start checkout --key A-1 --set order_id=A-1 --set customer_id=C-7 --set units=1 \\
      --set amount_minor=1590 --set currency=EUR --set payment_method=tok_ok
  amends start checkout --from orders.csv.gz --key order_id --set currency=EUR
"""


@click.command("start", epilog=EXAMPLES)
@click.argument("saga")
@click.option(
    "--key",
    metavar="KEY|COLUMN",
    required=True,
    help="The saga's key; of a file, the column that holds it.",
)
@click.option("--set", "settings", multiple=True, metavar="FIELD=VALUE", help="A payload field.")
@click.option(
    "--from",
    "path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A .csv, .csv.gz, .jsonl or .jsonl.gz: a saga per row, columns are payload fields.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first rows of the file.")
@pass_session
def start_command(
    session: Session,
    saga: str,
    key: str,
    settings: tuple[str, ...],
    path: Path | None,
    limit: int | None,
) -> None:
    """Start a saga, or one per row of a file.

    SAGA is the name of a definition: checkout, or one of the modules in AMENDS_SAGAS.

    Starting is idempotent: the same key with the same payload is the same saga. A file that was
    interrupted is simply started again. Columns that are no payload fields are ignored, an empty
    cell is a field not given.
    """
    definition = session.definitions.latest(saga)
    values = settings_of(definition, settings)
    if path is not None:
        _start_file(session, definition, path, key, values, limit)
        return
    if limit is not None:
        raise click.UsageError("--limit goes with --from")
    started = session.client.start(definition, values, key=key)
    session.output.record(
        {"id": started.id, "key": started.key, "saga": saga, "created": started.created},
        str(started.id),
    )
    session.output.note(f"{saga} {key}: {'started' if started.created else 'existed already'}")


def _start_file(
    session: Session,
    definition: SagaDefinition[Any],
    path: Path,
    column: str,
    values: Mapping[str, Any],
    limit: int | None,
) -> None:
    try:
        file = RowFile(path)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--from") from None
    bulk = BulkStart(
        session.client, definition, key_column=column, constants=values, tell=session.output.note
    )
    try:
        bulk.run(file, limit)
    except ValueError as error:
        raise Failure(f"{path}: {error}. Mend it and start it again: what was started stays") from (
            error
        )
    finally:
        file.close()
        report = bulk.report
        session.output.record(report.as_json(), str(report))
    if report.refused:
        was = "was" if report.refused == 1 else "were"
        raise Failure(f"{counted(report.refused, 'row')} {was} refused", ExitCode.FAILURE)


@click.command("restock")
@click.option("--sku", required=True, help="The article.")
@click.option("--units", required=True, type=click.IntRange(min=0), help="How many to add.")
@pass_session
def restock_command(session: Session, sku: str, units: int) -> None:
    """Add units of an article to the checkout's stock. Every call adds."""
    level = stock.restock(session.engine, sku, units)
    session.output.record(
        {
            "sku": level.sku,
            "on_hand": level.on_hand,
            "reserved": level.reserved,
            "available": level.available,
        },
        f"{level.sku}: {level.on_hand} on hand, {level.available} available",
    )
