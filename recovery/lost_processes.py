"""Which registered processes are gone, seen at once instead of when their leases are over.

    its pid is gone            on this host and in this pid namespace: certain, one look is enough
    its session's lock is gone seen twice, a while apart, under one key: see below
    neither shows              the lease says it: a transaction pooler, a host that vanished

A lock that is missing once is no death: a live process that merely lost its session takes a new one
under a new key within half a second (`workers.heartbeat`). A look counts only when it was made in a
session that is older than a few seconds: what ends every session at once (a restart of Postgres, a
crash, a fail-over) ends the one that looks too, and the others have their time to come back.

Where that is wrong all the same, a process that lives is taken for dead: its attempts are unknown,
its results late outcomes, and its calls under way are waited for as ever. Nothing else changes.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from orchestrator.storage.processes import Processes, Sight
from workers.local_servers.processes import has_ended
from workers.owner import pid_space

LOOK_SECONDS = 1.0
"""How often to look."""

APART_SECONDS = 0.9
"""Two looks so far apart: longer than a process takes to notice that its session is gone."""


SETTLED_SECONDS = 5.0
"""A younger session says nothing about others: what ended its predecessor may have ended theirs."""

AGAIN_SECONDS = 10.0
"""What a dead process held and this one cannot give up is left to others for so long."""


class LostProcesses:
    """Remembers what was missing; one per sweeper, used by one thread at a time."""

    def __init__(
        self,
        processes: Processes,
        *,
        settled_seconds: float = SETTLED_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._processes = processes
        self._settled = settled_seconds
        self._clock = clock
        self._missing: dict[tuple[str, int], float] = {}
        self._put_off: dict[str, float] = {}

    def find(self) -> list[Sight]:
        """Return the processes that are gone now.

        Raises:
            LogUnavailableError: Postgres does not answer; what was missing is forgotten.
        """
        before, self._missing = self._missing, {}
        now = self._clock()
        sights = self._processes.sights(pid_space(), self._settled)
        self._put_off = {name: until for name, until in self._put_off.items() if until > now}
        return [
            each
            for each in sights
            if each.owner not in self._put_off
            and (_pid_is_gone(each) or self._is_lost(each, before, now))
        ]

    def put_off(self, lost: Sight) -> None:
        """Find this one again only after a while."""
        self._put_off[lost.owner] = self._clock() + AGAIN_SECONDS

    def _is_lost(self, sight: Sight, before: dict[tuple[str, int], float], now: float) -> bool:
        if sight.session_key is None or sight.is_held:
            return False
        name = sight.owner, sight.session_key
        if not sight.is_settled:
            if name in before:
                self._missing[name] = before[name]
            return False
        since = self._missing[name] = before.get(name, now)
        return now - since >= APART_SECONDS


def _pid_is_gone(sight: Sight) -> bool:
    if sight.pid is None or sight.pid_started is None:
        return False
    return has_ended(sight.pid, sight.pid_started)
