"""An alert as it leaves the system: what happened, where, how much is at risk, what to do next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from orchestrator.entries import Json, Recorded
from orchestrator.money_at_risk import money_at_risk
from orchestrator.storage.alerts import Alert, AlertKind

_QUESTIONS: Mapping[AlertKind, str] = {
    AlertKind.SAGA_PARKED: "{question}",
    AlertKind.UNKNOWN_TOO_LONG: (
        "Did {step} ({direction}) take effect? Nobody has known since {since}."
    ),
    AlertKind.SAGA_OVERDUE: (
        "Sagas have been due since {due_at} and nobody looks at them: do sweepers keep up?"
    ),
    AlertKind.SWEEPER_SILENT: "No sweeper was seen since {last_seen_at}: is one running?",
}


def message(alert: Alert, entries: Iterable[Recorded] | None) -> dict[str, Json]:
    """Return an alert in the form that Standard Webhooks recommends.

    Args:
        alert: as it was raised.
        entries: its saga's whole log; None when it has no saga, or the log cannot be read.
    """
    return {
        "type": f"amends.{alert.kind}",
        "timestamp": alert.raised_at.isoformat(),
        "data": {"id": str(alert.id), **alert_values(alert, entries)},
    }


def alert_values(alert: Alert, entries: Iterable[Recorded] | None) -> dict[str, Json]:
    """Return what a person needs to know; nothing of it is of the saga's payload."""
    known: dict[str, Any] = alert.data
    return {
        "kind": alert.kind.value,
        "saga_id": None if alert.saga_id is None else str(alert.saga_id),
        "saga": known.get("saga"),
        "key": known.get("key"),
        "state": known.get("state"),
        "reason": known.get("reason", alert.kind.value),
        "question": _QUESTIONS[alert.kind].format(**known),
        "money_at_risk": None
        if entries is None
        else {currency: asdict(each) for currency, each in money_at_risk(entries).items()},
        "next": next_command(alert),
    }


def next_command(alert: Alert) -> str:
    """Return what to type first."""
    match alert.kind:
        case AlertKind.SAGA_PARKED | AlertKind.UNKNOWN_TOO_LONG:
            return f"amends show {alert.saga_id}"
        case AlertKind.SAGA_OVERDUE | AlertKind.SWEEPER_SILENT:
            return "amends doctor"
