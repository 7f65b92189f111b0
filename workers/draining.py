"""Stopping in order: claim nothing more, let run what runs, and hand the rest on before the end.

A signal reaches only the parent of a prefork worker, so the order to drain is a moment in memory
that parent and children share, on the monotonic clock, which is the same for all of a machine.
"""

from __future__ import annotations

import mmap
import struct
import threading
import time

from orchestrator.coordinator import Coordinator
from orchestrator.doorbell import Ring, ring_each
from orchestrator.entries import UnknownReason
from orchestrator.errors import LogUnavailableError
from orchestrator.instrumentation import emit
from orchestrator.leases import Holding
from orchestrator.storage.rows import OpenAttempt

_MOMENT = struct.Struct("d")
_SHARED = struct.Struct("=dB")
PUT_BACK_AFTER_SECONDS = 1.5
"""By then the consumer has stopped: what is put back is not fetched again by this worker."""


class Drain:
    """The order to drain, shared with every process forked after it was made."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, _SHARED.size)

    def begin(self, grace_seconds: float, *, exit_code: int = 0) -> None:
        """Drain from now on; attempts may run on for `grace_seconds`. The first call counts.

        `exit_code` is what the processes end with that have to be ended at the end of it.
        """
        if not self.has_begun():
            self._shared[:] = _SHARED.pack(time.monotonic() + grace_seconds, exit_code)

    def has_begun(self) -> bool:
        """Whether nothing more may be claimed."""
        return self._shared[: _MOMENT.size] != b"\0" * _MOMENT.size

    @property
    def exit_code(self) -> int:
        """What the processes of this worker end with."""
        return self._shared[_MOMENT.size]

    @property
    def seconds_left(self) -> float:
        """Seconds until running attempts are given up; infinite while not draining."""
        (moment,) = _MOMENT.unpack(self._shared[: _MOMENT.size])
        return moment - time.monotonic() if moment else float("inf")


class PutBack:
    """Messages that arrived while draining; they are rung again for other workers."""

    def __init__(self) -> None:
        self._rings: list[tuple[float, Ring]] = []
        self._lock = threading.Lock()

    def add(self, ring: Ring) -> None:
        """Set a message aside."""
        with self._lock:
            self._rings.append((time.monotonic(), ring))

    def take(self, *, older_than_seconds: float = 0.0) -> list[Ring]:
        """Return, once, what was set aside that long ago."""
        with self._lock:
            limit = time.monotonic() - older_than_seconds
            taken = [ring for since, ring in self._rings if since <= limit]
            self._rings = [each for each in self._rings if each[0] > limit]
        return taken

    def ring(self, coordinator: Coordinator, *, older_than_seconds: float = 0.0) -> None:
        """Ring for what was set aside; what the broker refuses the sweep finds."""
        ring_each(coordinator.doorbell, self.take(older_than_seconds=older_than_seconds))


def give_up_all(coordinator: Coordinator) -> int:
    """Record for everything that runs here that nobody knows how it ended; return how many.

    The next sweep of any other worker goes on with it, without waiting for the lease; ringing here
    could hang on a silent broker in the last seconds of this process. A step that returns after
    this finds its token gone, and its outcome is kept as a late one.
    """
    return sum(_give_up(coordinator, each) for each in coordinator.leases.holdings)


def _give_up(coordinator: Coordinator, holding: Holding) -> bool:
    attempt = OpenAttempt(
        id=holding.attempt, queue="", token=holding.token, owner=None, is_expired=False
    )
    try:
        return coordinator.mover.give_up(attempt, UnknownReason.DRAINED)
    except LogUnavailableError as error:
        emit("drain.failed", saga_id=holding.attempt.saga_id, error=str(error))
        return False
