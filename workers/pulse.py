"""The pulse of prefork children, in memory that they share with their parent.

A step that never lets the interpreter go (a C extension that spins, a deadlock below Python) stops
every thread of its process, also the one that would leave the step behind. The parent sees the
pulse stand still, and kills the child: only a process can be ended from outside.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import threading
import time
from collections.abc import Iterable
from typing import Any

from billiard import current_process

from orchestrator.instrumentation import emit

BEAT_SECONDS = 1.0
LOOK_SECONDS = 1.0
SLACK_SECONDS = 5.0
"""Beyond a lease, after which the child has lost what it holds in any case."""

_BEAT = struct.Struct("qd")
CHILDREN = 4096


class Pulses:
    """One place per child of a pool: who beat there last, and when by the host's monotonic clock.

    Made before the children are forked.
    """

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, _BEAT.size * CHILDREN)

    def start(self) -> None:
        """Beat in a thread of this process, if it is a child of a pool."""
        index = getattr(current_process(), "index", None)
        if index is not None and index < CHILDREN:
            threading.Thread(
                target=self._run, args=(index,), name="amends-pulse", daemon=True
            ).start()

    def _run(self, index: int) -> None:
        while True:
            self.beat(index, os.getpid(), time.monotonic())
            time.sleep(BEAT_SECONDS)

    def beat(self, index: int, pid: int, now: float) -> None:
        """Note that the process `pid` lives."""
        _BEAT.pack_into(self._shared, index * _BEAT.size, pid, now)

    def last(self, index: int, pid: int) -> float | None:
        """When the process `pid` beat last; None: it never has."""
        if index >= CHILDREN:
            return None
        beating, at = _BEAT.unpack_from(self._shared, index * _BEAT.size)
        return at if beating == pid else None


class PulseWatch:
    """The parent's side: kills a child whose pulse has stood still for longer than its lease.

    Seen twice: after all of a host, or all of a worker, had been stopped, the children may need a
    moment longer than the parent to go on.
    """

    def __init__(self, pulses: Pulses, *, lease_seconds: float) -> None:
        self._pulses = pulses
        self._patience = lease_seconds + SLACK_SECONDS
        self._still: dict[int, float] = {}

    def look(self, children: Iterable[Any], now: float) -> list[int]:
        """Kill what stands still at monotonic time `now`; return the process ids."""
        before, self._still = self._still, {}
        killed = []
        for each in children:
            last = self._pulses.last(each.index, each.pid)
            if last is None or now - last <= self._patience:
                continue
            self._still[each.pid] = last
            if before.get(each.pid) == last:
                emit("worker.child_killed", pid=each.pid, seconds=round(now - last, 1))
                os.kill(each.pid, signal.SIGKILL)
                killed.append(each.pid)
        return killed
