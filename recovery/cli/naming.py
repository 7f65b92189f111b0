"""``amends installation``: what it is called, and what a copied or restored database is."""

from __future__ import annotations

from typing import Any

import click

from orchestrator.installation import Installation
from orchestrator.storage import installation
from recovery.cli.actor import this_person
from recovery.cli.output import counted
from recovery.cli.session import Session, pass_session

_REASON = click.option("--reason", required=True, help="Kept with the decision.")


@click.group("installation", invoke_without_command=True)
@pass_session
@click.pass_context
def installation_command(ctx: click.Context, session: Session) -> None:
    """Show what the installation is called, or decide what a copied database is.

    Its name is a part of every idempotency key, so that two installations on one account at the
    gateway never answer for each other. A database that was restored from a dump, or copied, calls
    nobody until `keep` or `new` was said. Deciding needs the owner of the schema.
    """
    if ctx.invoked_subcommand is None:
        known = Installation(session.database, expected=session.settings.installation)
        row, trouble = known.read(), known.trouble()
        session.output.record(
            {"installation": row.name, "may_act": trouble is None, "trouble": trouble},
            row.name if trouble is None else f"{row.name}: nothing is claimed, for {trouble}",
        )


@installation_command.command("set")
@click.argument("name")
@pass_session
def set_command(session: Session, name: str) -> None:
    """Call the installation NAME, like eu-shop: before its first saga."""
    installation.name(session.engine, name)
    session.output.record({"installation": name}, f"the installation is called {name}")


@installation_command.command("keep")
@_REASON
@pass_session
def keep_command(session: Session, reason: str) -> None:
    """Say that this restored database is the shop from now on; the original must be off.

    Its sagas go on under their old keys. Reconcile the days since the backup was taken.
    """
    installation.keep(session.engine, by=this_person(), because=reason)
    row = installation.read(session.database)
    written: Any = session.database.run(installation.LAST_WRITTEN, {})[0][0]
    since = "nothing was ever written" if written is None else f"last written {written:%F %T %Z}"
    session.output.record(
        {"installation": row.name, "last_written_at": written},
        f"this is {row.name} from now on, as it was ({since}); within a minute workers go on. "
        "Reconcile every day since then: docs/operating.md, Installations",
    )


@installation_command.command("new")
@click.argument("name", required=False)
@_REASON
@pass_session
def new_command(session: Session, name: str | None, reason: str) -> None:
    """Say that this database is a copy, and call it NAME: else a name is minted.

    What was in flight in the original goes on there; here it is closed as it stands, `resolved`.
    """
    renewed = installation.renew(session.engine, name, by=this_person(), because=reason)
    session.output.record(
        {"installation": renewed.name, "closed": renewed.closed},
        f"this is {renewed.name} from now on; {counted(renewed.closed, 'saga')} of the original "
        "closed here as they stood",
    )
