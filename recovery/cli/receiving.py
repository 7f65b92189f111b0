"""``amends webhooks``: what gateways have told and nobody could use yet, and saying what to do."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime

import click

from recovery.cli.actor import this_person
from recovery.cli.failures import ExitCode, Failure
from recovery.cli.output import age, counted
from recovery.cli.session import Session, pass_session
from steps.storage.webhook_inbox import WebhookRows

COLUMNS = ("id", "gateway", "event_id", "kind", "stands", "age", "tries", "note")


@click.command("webhooks")
@click.argument("webhook", metavar="[ID]", type=int, required=False)
@click.option("--retry", is_flag=True, help="Have it, or without ID all that wait, processed now.")
@click.option("--dismiss", is_flag=True, help="Let ID go unprocessed; needs --reason.")
@click.option("--reason", help="Why it is dismissed; kept with it.")
@click.option("--actor", help="Who says so; by default the user of this machine.")
@click.option("--all", "processed_too", is_flag=True, help="Also those that are processed.")
@click.option("--limit", type=click.IntRange(min=1, max=1000), default=100, show_default=True)
@pass_session
def webhooks_command(
    session: Session,
    webhook: int | None,
    retry: bool,
    dismiss: bool,
    reason: str | None,
    actor: str | None,
    processed_too: bool,
    limit: int,
) -> None:
    """List the webhooks that wait to be processed or for a person, the newest first.

    With --retry the next sweep looks into them; with --dismiss nobody does any more.

    ID is the number that the list shows.
    """
    rows = WebhookRows(session.database)
    if not rows.exist():
        raise Failure(
            "this database has no webhooks; `amends migrate --checkout` makes their table",
            ExitCode.NOT_FOUND,
        )
    if retry and dismiss:
        raise click.UsageError("--retry and --dismiss exclude each other")
    if retry:
        due = rows.retry(webhook)
        if webhook is not None and not due:
            raise _no_such(webhook)
        session.output.record({"due": due}, f"{counted(due, 'webhook')} due now")
    elif dismiss:
        if webhook is None or not (reason or "").strip():
            raise click.UsageError("--dismiss takes an ID and --reason, which is kept")
        if not rows.dismiss(webhook, f"{actor or this_person()}: {reason}"):
            raise _no_such(webhook)
        session.output.record({"dismissed": webhook}, f"dismissed {webhook}")
    else:
        now = datetime.now(UTC)
        session.output.rows(
            COLUMNS,
            [
                {
                    **asdict(each),
                    "stands": each.outcome or ("parked" if each.parked_at else "waiting"),
                    "age": age(now - each.received_at),
                }
                for each in rows.find(processed_too=processed_too, limit=limit)
                if webhook in (None, each.id)
            ],
        )


def _no_such(webhook: int) -> Failure:
    return Failure(
        f"no webhook {webhook} waits; `amends webhooks --all` lists them", ExitCode.NOT_FOUND
    )
