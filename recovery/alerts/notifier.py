"""The notifier: raise what is to be raised, close what is over, send what is due.

Leaderless, like the sweep: run it in every process that sweeps, all at once. A process that does
not sweep stands by: it looks whether anybody does, and does all of this itself when nobody does.
When every process is dead nobody is left to tell; that takes a look from outside.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from orchestrator.entries import Recorded
from orchestrator.errors import LogUnavailableError
from orchestrator.instrumentation import emit
from orchestrator.redaction import redact
from orchestrator.seam import durable
from orchestrator.storage.alerts import Alert, Alerts
from orchestrator.storage.database import Database
from orchestrator.storage.saga_log import SagaLog
from recovery.alerts.message import message
from recovery.alerts.parked import ParkedWatch
from recovery.alerts.sinks import NotSentError, Sink, sinks_of
from recovery.alerts.unclaimed import UnclaimedWatch
from recovery.alerts.unknowns import UnknownWatch
from workers.settings import Settings

SENDING_SECONDS = 30.0
"""One run sends for at most about this long; the rest stays due."""

NEVER = float("-inf")

CANNOT_BE_TOLD = "it cannot be put into words"


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertReport:
    """How many alerts one run raised, closed, sent, and failed to send."""

    raised: int = 0
    closed: int = 0
    sent: int = 0
    not_sent: int = 0


class Notifier:
    """Raises, closes and sends alerts with one database and its sinks.

    Args:
        patience_seconds: how long nobody may have swept before that is an alert.
        unknown_seconds: how long an outcome may be unknown before that is one.
        unclaimed_seconds: how long a due attempt may be unclaimed before that is one.
    """

    def __init__(
        self,
        database: Database,
        sinks: Sequence[Sink],
        *,
        patience_seconds: float,
        unknown_seconds: float,
        unclaimed_seconds: float = 60.0,
    ) -> None:
        self._alerts = Alerts(database)
        self._log = SagaLog(database)
        self._parked = ParkedWatch(self._alerts)
        self._unknowns = UnknownWatch(self._alerts, self._log, age_seconds=unknown_seconds)
        self._unclaimed = UnclaimedWatch(
            self._alerts, self._log, database, age_seconds=unclaimed_seconds
        )
        self._sinks = sinks
        self._patience = patience_seconds
        self._watches_since = self._ended_at = NEVER

    @classmethod
    def of(cls, settings: Settings, database: Database) -> Notifier:
        """Return the notifier that the settings ask for."""
        return cls(
            database,
            sinks_of(settings),
            patience_seconds=settings.sweep_patience_seconds,
            unknown_seconds=settings.alert_unknown_seconds,
            unclaimed_seconds=settings.alert_unclaimed_seconds,
        )

    def run_once(self) -> AlertReport:
        """Do everything that is due, and return how much that was.

        Raises:
            LogUnavailableError: Postgres does not answer; the next run starts afresh.
        """
        may_judge = self._begins()
        report = self._work(may_judge=may_judge)
        self._ended_at = time.monotonic()
        return report

    def stand_by(self) -> AlertReport:
        """Do the same, but only while no sweeper is seen, whose notifier does it.

        Raises:
            LogUnavailableError: Postgres does not answer.
        """
        may_judge = self._begins()
        is_swept = self._alerts.is_swept(self._patience)
        report = self._work(may_judge=True) if may_judge and not is_swept else AlertReport()
        self._ended_at = time.monotonic()
        return report

    def _begins(self) -> bool:
        """Whether this process has looked, without a gap, for as long as silence must last.

        After a start, an outage of the database or a stopped machine sweepers get their time. A run
        that fails leaves no end behind, and so a gap.
        """
        now = time.monotonic()
        if now - self._ended_at > self._patience:
            self._watches_since = now
        self._ended_at = NEVER
        return now - self._watches_since >= self._patience

    def _work(self, *, may_judge: bool) -> AlertReport:
        parked, moved_on = self._parked.look()
        unknown, settled = self._unknowns.look()
        unclaimed, claimed = self._unclaimed.look(may_judge=may_judge)
        raised = _told_raised(parked) + _told_raised(unknown) + _told_raised(unclaimed)
        closed = _told_closed(moved_on) + _told_closed(settled) + _told_closed(claimed)
        if may_judge:
            raised += _told_raised(self._alerts.raise_overdue(self._patience))
            raised += _told_raised(self._alerts.raise_silent(self._patience))
        closed += _told_closed(self._alerts.close_overdue(self._patience))
        closed += _told_closed(self._alerts.close_silent(self._patience))
        sent, not_sent = self._send_due() if self._sinks else (0, 0)
        return AlertReport(raised=raised, closed=closed, sent=sent, not_sent=not_sent)

    def _send_due(self) -> tuple[int, int]:
        """Send one alert after the other; a failure ends it: the next ones would wait as long."""
        until = time.monotonic() + SENDING_SECONDS
        sent = not_sent = 0
        while time.monotonic() < until and (alert := self._alerts.take()) is not None:
            error = self._send(alert)
            self._alerts.note(alert, error)
            if error is not None:
                emit("alert.not_sent", alert_id=alert.id, kind=alert.kind, error=error)
                not_sent += 1
                if not error.startswith(CANNOT_BE_TOLD):
                    break
                continue
            emit("alert.sent", alert_id=alert.id, kind=alert.kind, send_count=alert.send_count)
            sent += 1
        return sent, not_sent

    def _send(self, alert: Alert) -> str | None:
        """Give the alert to every sink; return what went wrong, or None.

        One that cannot be put into words must not keep back the others: it is due again later.
        """
        try:
            body = json.dumps(message(alert, self._entries(alert)), separators=(",", ":"))
        except LogUnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - see above
            return f"{CANNOT_BE_TOLD}: {type(error).__name__}"
        errors = []
        for sink in self._sinks:
            try:
                durable("alert.send", partial(sink.send, alert.id, body))
            except NotSentError as error:
                errors.append(str(error))
        return redact("; ".join(errors)) or None

    def _entries(self, alert: Alert) -> list[Recorded] | None:
        if alert.saga_id is None:
            return None
        return self._log.entries(alert.saga_id)


def _told_raised(alerts: Sequence[Alert]) -> int:
    for each in alerts:
        emit("alert.raised", **_shown(each))
    return len(alerts)


def _told_closed(alerts: Sequence[Alert]) -> int:
    for each in alerts:
        emit("alert.closed", **_shown(each))
    return len(alerts)


def _shown(alert: Alert) -> dict[str, Any]:
    names = ("saga", "key", "reason", "step", "queue", "attempts", "served_by")
    named: dict[str, Any] = {name: alert.data[name] for name in names if name in alert.data}
    return {"alert_id": alert.id, "kind": alert.kind, "saga_id": alert.saga_id, **named}
