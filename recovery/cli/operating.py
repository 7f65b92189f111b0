"""``amends cancel``: asking for a saga to be taken back."""

from __future__ import annotations

import click

from orchestrator.outside_facts import CancelStatus
from recovery.cli.actor import this_person
from recovery.cli.failures import ExitCode, Failure
from recovery.cli.finding import find_saga
from recovery.cli.session import Session, pass_session

_WORDS = {
    CancelStatus.ACCEPTED: "accepted, it is being taken back",
    CancelStatus.PENDING: "pending, something that runs has to be answered first",
    CancelStatus.REFUSED: "refused",
}


@click.command("cancel")
@click.argument("saga", metavar="ID")
@click.option("--reason", required=True, help="Kept in the saga's log.")
@click.option("--actor", help="Who asks; by default the user of this machine.")
@pass_session
def cancel_command(session: Session, saga: str, reason: str, actor: str | None) -> None:
    """Ask for a saga to be taken back.

    What runs finishes first; then what was done is undone in reverse. Past the point of no return
    the request is refused (exit code 5). To ask again changes nothing and tells today's answer.

    ID is an id, the beginning of one, or a key.
    """
    if not reason.strip():
        raise click.UsageError("--reason needs a reason; it is kept in the saga's log")
    found = find_saga(session.reads, saga)
    answer = session.client.cancel(found.id, reason=reason, actor=actor or this_person())
    after = answer.saga
    session.output.record(
        {
            "id": after.id,
            "saga": after.definition,
            "key": after.key,
            "state": after.state,
            "cancel": answer.status,
        },
        f"{after.definition} {after.key} ({after.id}): cancel {_WORDS[answer.status]}; "
        f"it is {after.state}",
    )
    if answer.status is CancelStatus.REFUSED:
        raise Failure("the saga is past its point of no return", ExitCode.CONFLICT)
