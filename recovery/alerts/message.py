"""An alert as it leaves the system: what happened, where, how much is at risk, what to do next."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC

from orchestrator.entries import Json, Recorded
from orchestrator.money_at_risk import money_at_risk
from orchestrator.redaction import redact_dict
from orchestrator.storage.alerts import Alert, AlertKind


def message(alert: Alert, entries: Iterable[Recorded] | None) -> dict[str, Json]:
    """Return an alert in the form that Standard Webhooks recommends, without card data.

    Args:
        alert: as it was raised.
        entries: its saga's whole log; None when it has no saga, or the log cannot be read.
    """
    told: dict[str, Json] = redact_dict(
        {
            "type": f"amends.{alert.kind}",
            "timestamp": alert.raised_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            "data": {"id": str(alert.id), **alert_values(alert, entries)},
        }
    )
    return told


def alert_values(alert: Alert, entries: Iterable[Recorded] | None) -> dict[str, Json]:
    """Return what a person needs to know; nothing of it is of the saga's payload."""
    known = alert.data
    return {
        "kind": alert.kind.value,
        "saga_id": None if alert.saga_id is None else str(alert.saga_id),
        "saga": known.get("saga"),
        "key": known.get("key"),
        "state": known.get("state"),
        "reason": known.get("reason", alert.kind.value),
        "question": _question(alert),
        "money_at_risk": known.get("money_at_risk") if entries is None else _money(entries),
        "next": _next_command(alert),
    }


def _money(entries: Iterable[Recorded]) -> Json:
    """What is at risk by currency; None where the log is damaged, or a newer version's."""
    try:
        return {currency: asdict(each) for currency, each in money_at_risk(entries).items()}
    except Exception:  # noqa: BLE001 - whatever one damaged log raises, its alert is sent
        return None


def _question(alert: Alert) -> str:
    known = alert.data
    match alert.kind:
        case AlertKind.SAGA_PARKED:
            return str(known["question"])
        case AlertKind.UNKNOWN_TOO_LONG:
            what = f"{known['step']} ({known['direction']})"
            return f"Did {what} take effect? Nobody has known since {known['since']}."
        case AlertKind.SAGA_OVERDUE:
            return f"Since {known['due_at']} nobody has looked at what is due: do sweepers keep up?"
        case AlertKind.SWEEPER_SILENT:
            seen = known["last_seen_at"]
            since = "ever" if seen is None else f"since {seen}"
            return f"No sweeper was seen {since}: is one running?"
        case AlertKind.DISCREPANCY | AlertKind.QUEUE_UNSERVED | AlertKind.LATE_EFFECT:
            return str(known["question"])


def _next_command(alert: Alert) -> str:
    match alert.kind:
        case AlertKind.SAGA_PARKED | AlertKind.UNKNOWN_TOO_LONG | AlertKind.LATE_EFFECT:
            return f"amends show {alert.saga_id}"
        case AlertKind.SAGA_OVERDUE | AlertKind.SWEEPER_SILENT:
            return "amends doctor"
        case AlertKind.DISCREPANCY | AlertKind.QUEUE_UNSERVED:
            return str(alert.data["next"])
