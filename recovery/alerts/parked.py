"""Parked sagas: all of them now and then, and in between only what has changed."""

from __future__ import annotations

import time

from orchestrator.storage.alert_statements import LONG_AGO_SECONDS, RAISED_AT_ONCE
from orchestrator.storage.alerts import Alert, Alerts

WHOLE_LOOK_SECONDS = 600.0

OVERLAP_SECONDS = 60.0
"""Longer than any change can take from its own clock reading to its commit."""


class ParkedWatch:
    """Raises and closes `saga_parked`."""

    def __init__(self, alerts: Alerts) -> None:
        self._alerts = alerts
        self._looked_at = 0.0
        self._next_whole_look = 0.0

    def look(self) -> tuple[list[Alert], list[Alert]]:
        """Return what was raised and what was closed."""
        now = time.monotonic()
        is_whole = now >= self._next_whole_look
        changed = LONG_AGO_SECONDS if is_whole else now - self._looked_at + OVERLAP_SECONDS
        raised = self._alerts.raise_parked(changed)
        closed = self._alerts.close_parked(changed)
        if len(raised) < RAISED_AT_ONCE:  # else there is more: look from the same moment again
            self._looked_at = now
            if is_whole:
                self._next_whole_look = now + WHOLE_LOOK_SECONDS
        return raised, closed
