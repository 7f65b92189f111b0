"""``amends alerts`` and ``amends acknowledge``: what a person was told of, and saying so."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import click

from orchestrator.errors import HistoryError
from orchestrator.storage.alerts import Alert, Alerts
from orchestrator.storage.saga_log import SagaLog
from recovery.alerts.message import alert_values
from recovery.cli.actor import this_person
from recovery.cli.failures import ExitCode, Failure
from recovery.cli.output import age
from recovery.cli.session import Session, pass_session

COLUMNS = (
    "id",
    "kind",
    "saga",
    "key",
    "state",
    "reason",
    "at_risk_minor",
    "age",
    "sent",
    "last_error",
)
_ID = re.compile(r"(?:-?[0-9a-fA-F]){4,32}")
"""Four digits at least: shorter ones name nothing in particular."""


@click.command("alerts")
@click.option("--all", "closed_too", is_flag=True, help="Also those that are closed.")
@click.option("--limit", type=click.IntRange(min=1, max=1000), default=100, show_default=True)
@pass_session
def alerts_command(session: Session, closed_too: bool, limit: int) -> None:
    """List what waits for a person's answer, the newest first.

    Parked sagas, outcomes that stay unknown, sagas that nobody looks at, silent sweepers,
    discrepancies. An alert is sent again, ever more rarely, until it is acknowledged or its reason
    is gone.
    """
    log, now = SagaLog(session.database), datetime.now(UTC)
    found = Alerts(session.database).find(closed_too=closed_too, limit=limit)
    session.output.rows(COLUMNS, [_row(each, log, now) for each in found])


@click.command("acknowledge")
@click.argument("alert", metavar="ALERT")
@click.option("--reason", required=True, help="Kept with the alert.")
@click.option("--actor", help="Who says so; by default the user of this machine.")
@pass_session
def acknowledge_command(session: Session, alert: str, reason: str, actor: str | None) -> None:
    """Say that somebody has taken on an alert: it is not sent any more.

    The saga stays as it is. Should it park once more, that is another alert.

    ALERT is an id or the beginning of one.
    """
    if not reason.strip():
        raise click.UsageError("--reason needs a reason; it is kept with the alert")
    alerts = Alerts(session.database)
    found = _find(alerts, alert)
    closed = alerts.acknowledge(found.id, actor=actor or this_person(), reason=reason)
    if closed is None:
        raise Failure(
            f"alert {found.id} is closed already, by {found.closed_by or 'somebody just now'}; "
            "`amends alerts --all` shows it",
            ExitCode.CONFLICT,
        )
    session.output.record(
        _values(closed), f"acknowledged {closed.kind} {closed.id} as {closed.closed_by}"
    )


def _find(alerts: Alerts, named: str) -> Alert:
    found = alerts.by_prefix(named) if _ID.fullmatch(named) else []
    if not found:
        raise Failure(
            f"no alert has the id {named!r}; `amends alerts` lists them", ExitCode.NOT_FOUND
        )
    if len(found) > 1:
        raise Failure(f"{named!r} means several alerts; give the whole id", ExitCode.USAGE)
    return found[0]


def _row(alert: Alert, log: SagaLog, now: datetime) -> dict[str, Any]:
    try:
        entries = None if alert.saga_id is None else log.entries(alert.saga_id)
    except HistoryError:
        entries = None
    told = alert_values(alert, entries)
    money = told["money_at_risk"] or {}
    sums = {name: sum(each.values()) for name, each in money.items()}
    return {
        **_values(alert),
        **told,
        "at_risk_minor": " ".join(f"{name} {minor}" for name, minor in sums.items()) or None,
        "age": age(now - alert.raised_at),
        "sent": None if alert.sent_at is None else f"{age(now - alert.sent_at)} ago",
    }


def _values(alert: Alert) -> dict[str, Any]:
    return {
        "id": alert.id,
        "kind": alert.kind,
        "saga_id": alert.saga_id,
        "raised_at": alert.raised_at,
        "due_at": alert.due_at,
        "send_count": alert.send_count,
        "sent_at": alert.sent_at,
        "last_error": alert.last_error,
        "closed_at": alert.closed_at,
        "closed_by": alert.closed_by,
        "acknowledged": alert.data.get("acknowledged"),
    }
