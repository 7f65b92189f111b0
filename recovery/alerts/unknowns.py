"""Outcomes that have been unknown for too long: the log's own answer, asked now and then.

SQL names the few sagas in question; whether something is unsettled in one of them, and since when,
only the fold of its log can tell. Both directions go page by page, so one look is always short.
"""

from __future__ import annotations

import time
from uuid import UUID

from orchestrator.errors import HistoryError, LogUnavailableError
from orchestrator.storage.alerts import Alert, AlertKind, Alerts
from orchestrator.storage.saga_log import SagaLog
from orchestrator.unsettled import Followed, Unsettled

PAGE = 200
LOOKS = 15
"""How often to look while an unknown grows too old: at 15 minutes, once a minute."""

FOLLOWED = 1000
"""Of so many sagas the fold is remembered, so that the next look reads what was added only."""

START = UUID(int=0)


class UnknownWatch:
    """Raises and closes `unknown_too_long`."""

    def __init__(self, alerts: Alerts, log: SagaLog, *, age_seconds: float) -> None:
        self._alerts = alerts
        self._log = log
        self._age = age_seconds
        self._next_look = 0.0
        self._raised_to = START
        self._closed_to = START
        self._followed: dict[UUID, Followed] = {}

    def look(self) -> tuple[list[Alert], list[Alert]]:
        """Return what was raised and what was closed; nothing when it is not yet time to look."""
        now = time.monotonic()
        if now < self._next_look:
            return [], []
        raised, closed = self._raise(), self._close()
        if self._raised_to == self._closed_to == START:
            self._next_look = now + self._age / LOOKS
        return raised, closed

    def _raise(self) -> list[Alert]:
        page = self._alerts.may_be_unsettled(self._age, self._raised_to, PAGE)
        self._raised_to = page[-1][0] if len(page) == PAGE else START
        return [
            alert
            for saga_id, may_be in page
            if may_be
            for found in self._unsettled(saga_id) or ()
            for alert in self._alerts.raise_unknown(saga_id, found, self._age)
        ]

    def _close(self) -> list[Alert]:
        page = self._alerts.open(AlertKind.UNKNOWN_TOO_LONG, self._closed_to, PAGE)
        self._closed_to = page[-1].id if len(page) == PAGE else START
        return self._alerts.close([each.id for each in page if self._is_settled(each)])

    def _is_settled(self, alert: Alert) -> bool:
        assert alert.saga_id is not None
        found = self._unsettled(alert.saga_id)
        return found is not None and alert.about not in {
            f"{alert.saga_id}:{each.seq}" for each in found
        }

    def _unsettled(self, saga_id: UUID) -> list[Unsettled] | None:
        """None: a newer version wrote this log, or it is damaged; the sweep tells of that."""
        try:
            now = self._follow(saga_id)
        except LogUnavailableError:
            raise
        except Exception:  # noqa: BLE001 - whatever one damaged log raises, the others are looked at
            return None
        self._followed[saga_id] = now
        if len(self._followed) > FOLLOWED:
            del self._followed[next(iter(self._followed))]  # longest not asked about
        return now.unsettled()

    def _follow(self, saga_id: UUID) -> Followed:
        """Read what was added since the last look; the whole log where that does not fit it."""
        before = self._followed.pop(saga_id, Followed())
        try:
            return before.through(self._log.entries(saga_id, after=before.state.seq))
        except HistoryError:
            return Followed().through(self._log.entries(saga_id))
