"""``amends prune``: letting ended sagas go, archived first if asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from orchestrator.state import TERMINAL, State
from orchestrator.storage.retention import Retention
from recovery.archive import Archive
from recovery.cli.failures import ExitCode, Failure
from recovery.cli.output import counted
from recovery.cli.session import Session, pass_session
from recovery.pruner import BATCH, Pruner, PruneReport
from steps.storage.velocity import PostgresVelocityTracker
from steps.storage.webhook_inbox import WebhookRows

_DAYS = re.compile(r"(\d{1,5})d")


@click.command("prune")
@click.option(
    "--older-than",
    metavar="DAYS",
    help="How long ago a saga must have ended, like 120d; AMENDS_KEEP_DAYS if not given.",
)
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(sorted(each.value for each in TERMINAL)),
    help="Only sagas in this state; may be repeated.",
)
@click.option(
    "--archive",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A new .jsonl or .jsonl.gz file to write whole sagas to, before they go.",
)
@click.option(
    "--batch",
    type=click.IntRange(1, 5000),
    default=BATCH,
    show_default=True,
    help="Sagas per transaction.",
)
@click.option("--limit", type=click.IntRange(min=1), help="At most so many sagas.")
@click.option("--dry-run", is_flag=True, help="Change nothing; count what would go, and what not.")
@pass_session
def prune_command(
    session: Session,
    older_than: str | None,
    states: tuple[str, ...],
    archive: Path | None,
    batch: int,
    limit: int | None,
    dry_run: bool,
) -> None:
    """Delete sagas that ended long ago, and keep their keys.

    What is left of each is a tombstone: a start with its key still finds it, and a late effect of
    it stops in front of a person. Old signals, closed alerts, processed webhooks, expired
    idempotency records and attempts to pay that velocity counted a week ago go too. Safe to
    interrupt and to repeat. Needs the role amends_janitor.
    """
    age = _age(older_than, timedelta(days=session.settings.keep_days))
    retention = Retention(session.database)
    with nullcontext() if archive is None or dry_run else _archive(archive) as lines:
        report = Pruner(retention, older_than=age, archive=lines).run(
            [State(each) for each in states or TERMINAL],
            batch=batch,
            limit=limit,
            dry_run=dry_run,
        )
    attempts = 0 if dry_run else PostgresVelocityTracker(session.database.engine).prune()
    webhooks = 0 if dry_run else WebhookRows(session.database).prune(age)
    session.output.record(
        {
            "pruned": report.pruned.total(),
            "by_state": dict(report.pruned),
            "archived": report.archived,
            "kept": dict(report.kept),
            "waiting": report.waiting,
            "signals": report.signals,
            "alerts": report.alerts,
            "records": report.records,
            "attempts_to_pay": attempts,
            "webhooks": webhooks,
            "dry_run": dry_run,
        },
        _text(report, attempts, webhooks, dry_run=dry_run),
    )
    if report.waiting:
        session.output.note(
            f"{counted(report.waiting, 'saga')} will go with the next run: "
            "a transaction that began before is still running"
        )


def _age(given: str | None, least: timedelta) -> timedelta:
    if given is None:
        return least
    if not (matched := _DAYS.fullmatch(given)):
        raise click.BadParameter(
            f"{given!r} is no number of days like 120d", param_hint="--older-than"
        )
    age = timedelta(days=int(matched[1]))
    if age < least:
        raise click.BadParameter(
            f"ended sagas are kept for {least.days} days, so that what comes late finds them; "
            "to let them go earlier, lower AMENDS_KEEP_DAYS",
            param_hint="--older-than",
        )
    return age


def _archive(path: Path) -> Archive:
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise click.BadParameter(f"{path} is neither .jsonl nor .jsonl.gz", param_hint="--archive")
    try:
        return Archive(path)
    except FileExistsError as error:
        raise Failure(f"{path} exists; name a new file for each run", ExitCode.USAGE) from error


def _text(report: PruneReport, attempts: int, webhooks: int, *, dry_run: bool) -> str:
    parts = [
        _counts("would prune" if dry_run else "pruned", report.pruned),
        _counts("kept", report.kept),
    ]
    for number, noun in (
        (report.signals, "old signal"),
        (report.alerts, "closed alert"),
        (report.records, "expired idempotency record"),
    ):
        if number:
            parts.append(f"dropped {counted(number, noun)}")
    if attempts:
        parts.append(f"dropped {counted(attempts, 'old attempt')} to pay")
    if webhooks:
        parts.append(f"dropped {counted(webhooks, 'processed webhook')}")
    return "; ".join(parts)


def _counts(verb: str, counts: Mapping[Any, int]) -> str:
    named = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))
    return f"{verb} {sum(counts.values()):,}" + (f" ({named})" if named else "")
