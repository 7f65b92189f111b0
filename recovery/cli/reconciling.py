"""``amends reconcile``, ``amends discrepancies`` and ``amends close-discrepancy``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import click

from recovery.cli.actor import this_person
from recovery.cli.failures import ExitCode, Failure
from recovery.cli.output import counted
from recovery.cli.session import Session, pass_session
from recovery.reconciliation.closing import close
from recovery.reconciliation.daily import (
    DailyReconciliation,
    DayBusyError,
    DayNotOverError,
    DayReport,
    Reports,
)
from recovery.reconciliation.report_file import ReportFileError, rows_of
from recovery.reconciliation.storage.findings import Finding, Findings, FindingState
from steps.gateways.errors import PaymentError
from workers import bootstrap

COLUMNS = (
    "id",
    "day",
    "type",
    "kind",
    "name",
    "ours",
    "theirs",
    "saga_id",
    "state",
    "action",
    "last_error",
    "why",
)
_ID = re.compile(r"(?:-?[0-9a-fA-F]){4,32}")
_DAY = click.DateTime(formats=["%Y-%m-%d"])
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def _checked_zone(_: click.Context, __: click.Parameter, name: str | None) -> str | None:
    try:
        return None if name is None else ZoneInfo(name).key
    except (KeyError, ValueError) as error:
        raise click.BadParameter(f"{name!r} is no time zone like Europe/Berlin") from error


@click.command("reconcile")
@click.option("--date", "day", type=_DAY, help="Which day; yesterday if not given.")
@click.option("--report", type=_FILE, help="The gateway's report of the day, instead of asking it.")
@click.option("--before", type=_FILE, help="With --report: that of the day before.")
@click.option("--after", type=_FILE, help="With --report: that of the day after.")
@click.option("--gateway", help="The name under which results are kept; by default its own.")
@click.option(
    "--zone",
    callback=_checked_zone,
    help="Where the report's days begin and end (IANA); by default its own.",
)
@pass_session
def reconcile_command(
    session: Session,
    day: datetime | None,
    report: Path | None,
    before: Path | None,
    after: Path | None,
    gateway: str | None,
    zone: str | None,
) -> None:
    """Hold a day of the saga log against the gateway's report, and act on what differs.

    Safe to repeat: what was found before is the same row. Exits with 8 while anything of that day
    is open.
    """
    if report is None and (before or after):
        raise click.UsageError("--before and --after go with --report")
    has_gateway = session.settings.has_gateway
    if report is None and not has_gateway:
        raise click.UsageError("give --report, or set AMENDS_GATEWAY_URL to ask the gateway")
    if not has_gateway and gateway is None:
        raise click.UsageError("--report needs --gateway NAME where no gateway is set")
    with bootstrap.lent_gateway(session.settings) if has_gateway else nullcontext() as asked:
        daily = DailyReconciliation(
            session.database,
            session.client,
            asked,
            name=gateway,
            zone=zone,
            sagas=session.settings.reconcile_sagas,
        )
        done = _run(daily, day, _reports(report, before, after))
    _show(session, done)
    if not done.is_settled:
        raise SystemExit(ExitCode.DISCREPANCIES)


@click.command("discrepancies")
@click.option("--date", "day", type=_DAY, help="Only of this day.")
@click.option("--gateway", help="Only of this gateway.")
@click.option("--all", "closed_too", is_flag=True, help="Also those that are closed.")
@click.option("--limit", type=click.IntRange(min=1, max=100_000), default=100, show_default=True)
@pass_session
def discrepancies_command(
    session: Session, day: datetime | None, gateway: str | None, closed_too: bool, limit: int
) -> None:
    """List what reconciliation found and nobody has closed, the newest day first."""
    found = Findings(session.database).find(
        gateway=gateway, day=day.date() if day else None, closed_too=closed_too, limit=limit
    )
    session.output.rows(COLUMNS, [_row(each) for each in found])


@click.command("close-discrepancy")
@click.argument("discrepancy", metavar="DISCREPANCY")
@click.option(
    "--as",
    "state",
    type=click.Choice([FindingState.RESOLVED.value, FindingState.ACCEPTED.value]),
    required=True,
    help="resolved: it was put right. accepted: it may stay as it is.",
)
@click.option("--reason", required=True, help="Kept with the discrepancy.")
@click.option("--actor", help="Who says so; by default the user of this machine.")
@click.option("--seen", type=int, metavar="VERSION", help="Only if it is still at this version.")
@pass_session
def close_discrepancy_command(
    session: Session, discrepancy: str, state: str, reason: str, actor: str | None, seen: int | None
) -> None:
    """Close a discrepancy in your name.

    It stays closed, unless a later run finds that the two sides differ in another way.

    DISCREPANCY is an id or the beginning of one.
    """
    found = _find(Findings(session.database), discrepancy)
    is_seen = seen is None or seen == found.version
    closed = (
        close(
            session.database,
            found,
            FindingState(state),
            actor=actor or this_person(),
            reason=reason,
        )
        if is_seen
        else None
    )
    if closed is None:
        raise Failure(
            f"discrepancy {found.id} is {found.state} at version {found.version}, or changed just "
            "now: nothing was written; `amends discrepancies --all` shows it",
            ExitCode.CONFLICT,
        )
    session.output.record(
        _row(closed), f"{closed.state}: {closed.discrepancy.type} {closed.discrepancy.name}"
    )


def _run(daily: DailyReconciliation, day: datetime | None, reports: Reports | None) -> DayReport:
    try:
        return daily.run(day.date() if day else daily.yesterday(), reports)
    except DayBusyError as error:
        raise Failure(str(error), ExitCode.CONFLICT) from error
    except (DayNotOverError, ReportFileError) as error:
        raise Failure(str(error), ExitCode.USAGE) from error
    except PaymentError as error:
        raise Failure(f"the gateway gave no report: {error}", ExitCode.UNREACHABLE) from error


def _reports(report: Path | None, before: Path | None, after: Path | None) -> Reports | None:
    if report is None:
        return None
    return Reports(
        day=rows_of(report),
        before=rows_of(before) if before else None,
        after=rows_of(after) if after else None,
    )


def _show(session: Session, done: DayReport) -> None:
    values: dict[str, Any] = {
        "gateway": done.run.gateway,
        "day": str(done.run.day),
        "run": done.run.run_count,
        **done.summary(),
        "open": sum(done.open.values()),
        "unjudged": done.run.unjudged_count,
        "failed_actions": done.failed_actions,
    }
    session.output.record(values, "\n".join(_lines(done)))


def _lines(done: DayReport) -> Iterator[str]:
    yield f"{done.run.gateway} {done.run.day}: {counted(done.run.matched_count, 'movement')} match"
    for kind, count in done.found.items():
        still = done.open.get(kind, 0)
        yield f"  {kind:20} {count:>9,}  {f'{still:,} open' if still else 'closed'}"
    if done.run.unjudged_count:
        yield (
            f"  {'not judged':20} {done.run.unjudged_count:>9,}  "
            "near midnight without --before or --after, or of pruned sagas"
        )
    if done.failed_actions:
        yield f"  {done.failed_actions:,} could not be acted upon; the next run tries again"
    if done.open:
        yield f"amends discrepancies --date {done.run.day} lists them"


def _find(findings: Findings, named: str) -> Finding:
    found = findings.by_prefix(named) if _ID.fullmatch(named) else []
    if not found:
        raise Failure(
            f"no discrepancy has the id {named!r}; `amends discrepancies` lists them",
            ExitCode.NOT_FOUND,
        )
    if len(found) > 1:
        raise Failure(f"{named!r} means several discrepancies; give the whole id", ExitCode.USAGE)
    return found[0]


def _row(finding: Finding) -> dict[str, Any]:
    found = finding.discrepancy
    return {
        "id": finding.id,
        "gateway": finding.gateway,
        "day": str(finding.day),
        "type": found.type,
        "kind": found.kind,
        "name": found.name,
        "ours": _side(found.internal_minor, found.internal_currency, found.internal_status),
        "theirs": _side(found.gateway_minor, found.gateway_currency, found.gateway_status),
        "saga_id": found.saga_id,
        "step": found.step,
        "order_reference": found.order_reference,
        "why": found.why,
        "state": finding.state,
        "version": finding.version,
        "found_at": finding.found_at,
        "acted_at": finding.acted_at,
        "action": finding.action,
        "last_error": finding.last_error,
        "closed_at": finding.closed_at,
        "closed_by": finding.closed_by,
        "reason": finding.reason,
        "history": finding.history,
    }


def _side(minor: int | None, currency: str | None, status: str | None) -> str | None:
    return None if minor is None else f"{minor} {currency} {status}"
