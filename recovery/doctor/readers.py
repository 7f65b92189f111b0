"""Do the services that read events keep up, and does anything keep events from them?"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from orchestrator.storage.database import Database
from orchestrator.storage.events import Events
from recovery.doctor.findings import Finding, ok, warn

BEHIND_SECONDS = 3600.0
HELD_SECONDS = 300.0


def readers(database: Database) -> Iterator[Finding]:
    """Every reader is less than an hour behind, and no transaction holds events back for long."""
    events = Events(database)
    lags = {name: events.lag(name) for name in events.names()}
    behind = {name: lag.unread_seconds or 0.0 for name, lag in lags.items()}
    held = max((lag.held_seconds or 0.0 for lag in lags.values()), default=0.0)
    late = [name for name, seconds in behind.items() if seconds > BEHIND_SECONDS]
    if late:
        yield warn(
            "event readers",
            f"behind: {', '.join(late)}, by up to {_rounded(max(behind.values()))}",
            "see to that reader; if it is no more: `amends events NAME --forget`",
        )
    elif held > HELD_SECONDS:
        yield warn(
            "event readers",
            f"nobody can read what came in the last {_rounded(held)}",
            "end the transaction that writes and is still open: docs/operating.md, Events",
        )
    elif lags:
        yield ok("event readers", f"{len(lags)}, none far behind")


def _rounded(seconds: float) -> timedelta:
    return timedelta(seconds=round(seconds))
