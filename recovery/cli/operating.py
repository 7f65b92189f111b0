"""``amends cancel``: asking for a saga to be taken back."""

from __future__ import annotations

import getpass

import click

from recovery.cli.finding import find_saga
from recovery.cli.session import Session, pass_session


@click.command("cancel")
@click.argument("saga", metavar="ID")
@click.option("--reason", required=True, help="Kept in the saga's log.")
@pass_session
def cancel_command(session: Session, saga: str, reason: str) -> None:
    """Ask for a saga to be taken back.

    What runs finishes first; then what was done is undone in reverse. Past the point of no return
    the request has no effect. To ask again changes nothing.

    ID is an id, the beginning of one, or a key.
    """
    if not reason.strip():
        raise click.UsageError("--reason needs a reason; it is kept in the saga's log")
    found = find_saga(session.reads, saga)
    after = session.client.cancel(found.id, reason=reason, actor=_actor())
    session.output.record(
        {
            "id": after.id,
            "saga": after.definition,
            "key": after.key,
            "state": after.state,
            "cancel_requested": True,
        },
        f"asked for {after.definition} {after.key} ({after.id}) to be taken back; "
        f"it is {after.state}",
    )


def _actor() -> str:
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a container's user without a name
        return "cli"
