"""Queues whose due attempts nobody takes: no worker serves them, or those that do are stuck."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from uuid import UUID

from orchestrator.entries import Json
from orchestrator.errors import LogUnavailableError
from orchestrator.money_at_risk import MoneyAtRisk, money_at_risk
from orchestrator.storage.alerts import Alert, Alerts
from orchestrator.storage.database import Database
from orchestrator.storage.saga_log import SagaLog
from orchestrator.storage.unclaimed import UnclaimedQueue, unclaimed_queues

LOOKS = 4
"""How often to look while an attempt grows too old: at 60 s, every 15 s."""

LONGEST_PAUSE_SECONDS = 15.0


class UnclaimedWatch:
    """Raises and closes `queue_unserved`, one for each queue."""

    def __init__(
        self, alerts: Alerts, log: SagaLog, database: Database, *, age_seconds: float
    ) -> None:
        self._alerts = alerts
        self._log = log
        self._database = database
        self._age = age_seconds
        self._next_look = 0.0

    def look(self, *, may_judge: bool) -> tuple[list[Alert], list[Alert]]:
        """Return what was raised and what was closed; nothing when it is not yet time to look."""
        now = time.monotonic()
        if now < self._next_look:
            return [], []
        found = unclaimed_queues(self._database, self._age)
        closed = self._alerts.close_unserved([each.queue for each in found])
        raised = [alert for each in found for alert in self._raise(each)] if may_judge else []
        self._next_look = now + min(self._age / LOOKS, LONGEST_PAUSE_SECONDS)
        return raised, closed

    def _raise(self, found: UnclaimedQueue) -> list[Alert]:
        if self._alerts.has_unserved(found.queue):
            return []
        return self._alerts.raise_unserved(found.queue, told(found, money_of(self._log, found)))


def told(found: UnclaimedQueue, money: Mapping[str, MoneyAtRisk]) -> dict[str, Json]:
    """Return what a person needs to know about a queue."""
    return {
        "queue": found.queue,
        "attempts": found.attempts,
        "oldest": found.oldest.isoformat(),
        "served_by": found.served_by,
        "running": found.running,
        "question": in_words(found),
        "next": remedy(found),
        "money_at_risk": {currency: asdict(each) for currency, each in money.items()},
    }


def in_words(found: UnclaimedQueue) -> str:
    """Return what is wrong with a queue, as a question."""
    many = "1 attempt waits" if found.attempts == 1 else f"{found.attempts} attempts wait"
    what = f"{many} in queue {found.queue}, since {found.oldest:%Y-%m-%d %H:%M:%S%z}"
    if not found.served_by:
        return f"{what}, and no worker serves it: is one running, with these definitions?"
    since = f", the longest since {found.running_since:%H:%M:%S}" if found.running_since else ""
    return (
        f"{what}; served by {found.served_by}, running {found.running}{since}: "
        "are there enough workers, or do they hang?"
    )


def remedy(found: UnclaimedQueue) -> str:
    """Return what to type first."""
    return "amends doctor" if found.served_by else f"amends worker -Q {found.queue}"


def money_of(log: SagaLog, found: UnclaimedQueue) -> Mapping[str, MoneyAtRisk]:
    """Return the money that the longest waiting sagas of a queue leave open, by currency."""
    total: dict[str, MoneyAtRisk] = {}
    for saga_id in found.sagas:
        for currency, each in _open_money(log, saga_id).items():
            known = total.get(currency, MoneyAtRisk())
            total[currency] = MoneyAtRisk(
                held_minor=known.held_minor + each.held_minor,
                captured_minor=known.captured_minor + each.captured_minor,
            )
    return total


def _open_money(log: SagaLog, saga_id: UUID) -> Mapping[str, MoneyAtRisk]:
    try:
        return money_at_risk(log.entries(saga_id))
    except LogUnavailableError:
        raise
    except Exception:  # noqa: BLE001 - of one damaged log, or a newer version's, nothing is known
        return {}
