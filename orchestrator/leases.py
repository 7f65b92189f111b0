"""The leases this process holds, and the gate that lets a suspicious attempt run alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from orchestrator.context import Lease
from orchestrator.instrumentation import emit
from orchestrator.storage.rows import AttemptId
from orchestrator.storage.saga_log import SagaLog

LOST = 0.0
"""`valid_until` of a lease that was taken away: before any moment of the monotonic clock."""

HAND_BACK_SECONDS = 0.2
"""Who waits at the gate leaves so long before its lease ends: a hand-back takes a moment too."""


KEPT_FREE_SECONDS = 15.0
"""The gate is kept free for one who was turned away for no longer than that, and `RETURN_SECONDS`:
it may have gone to another process."""

RETURN_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """One attempt that runs in this process, in the thread of that ident."""

    attempt: AttemptId
    token: UUID
    lease: Lease
    thread: int = 0


class Leases:
    """Every attempt this process holds, from claim to record."""

    def __init__(self, log: SagaLog, length: timedelta) -> None:
        self._log = log
        self.length_seconds = length.total_seconds()
        self._held: dict[UUID, Holding] = {}
        self._lock = threading.Lock()

    def add(self, attempt: AttemptId, token: UUID, timeout_seconds: float, claimed: float) -> Lease:
        """Note a claim made at monotonic time `claimed`, before the statement was sent."""
        lease = Lease(
            valid_until=claimed + min(self.length_seconds, timeout_seconds),
            ends_at=claimed + timeout_seconds,
        )
        self.hold(attempt, token, lease)
        return lease

    def hold(self, attempt: AttemptId, token: UUID, lease: Lease) -> None:
        """Keep a lease alive until `remove`; called in the thread that runs the attempt."""
        thread = threading.get_ident()
        with self._lock:
            self._held[token] = Holding(attempt=attempt, token=token, lease=lease, thread=thread)

    def remove(self, token: UUID) -> None:
        """Forget a claim: it was recorded, or its attempt is over."""
        with self._lock:
            self._held.pop(token, None)

    @property
    def holdings(self) -> list[Holding]:
        """What is held now."""
        with self._lock:
            return list(self._held.values())

    def extend(self) -> int:
        """Extend what is older than a third of a lease, in one statement; return how many live on.

        A token that the database no longer knows was taken away: its attempt may not send any more.
        """
        now = time.monotonic()
        holdings = [
            each
            for each in self.holdings
            if LOST
            < each.lease.valid_until
            < min(each.lease.ends_at, now + self.length_seconds * 2 / 3)
        ]
        if not holdings:
            return 0
        left = self._log.extend(
            [(each.attempt.saga_id, each.token) for each in holdings], self.length_seconds
        )
        for each in holdings:
            if each.token in left:
                each.lease.valid_until = min(now + left[each.token], each.lease.ends_at)
            elif self._is_held(each.token):
                each.lease.valid_until = LOST
                emit("lease.lost", saga_id=str(each.attempt.saga_id), step=each.attempt.step)
        return len(left)

    def _is_held(self, token: UUID) -> bool:
        """Whether the attempt still runs: one recorded meanwhile has no row, and lost nothing."""
        with self._lock:
            return token in self._held


class Gate:
    """Lets many attempts run at once, or one alone.

    An attempt whose predecessors took their process down runs its last try alone, so that its
    neighbours are not blamed for a crash that was not theirs. One that had to be turned away, since
    its lease was over first, finds the gate kept free when it comes again: nobody enters before
    those have left, or are out of time, who were inside then.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._inside: dict[int, Lease] = {}
        self._alone_waiting = 0
        self._alone: Lease | None = None
        self._kept_free_until = 0.0

    @contextmanager
    def entered(self, lease: Lease, *, alone: bool) -> Iterator[bool]:
        """Wait for the right to run, and hold it while the block runs.

        Yields False, without that right, when the lease is over first: waiting is not running, and
        nobody is to be blamed for it.
        """
        with self._condition:
            admitted = self._wait_alone(lease) if alone else self._wait(lease)
            if admitted:
                self._inside[id(lease)] = lease
        try:
            yield admitted
        finally:
            if admitted:
                self.abandon(lease)

    def abandon(self, lease: Lease) -> None:
        """Count an attempt out, whether it has left or hangs; idempotent."""
        with self._condition:
            self._inside.pop(id(lease), None)
            if self._alone is lease:
                self._alone = None
            self._condition.notify_all()

    def _wait(self, lease: Lease) -> bool:
        return self._wait_for(
            lambda: (
                self._alone is None
                and not self._alone_waiting
                and time.monotonic() >= self._kept_free_until
            ),
            lease,
        )

    def _wait_alone(self, lease: Lease) -> bool:
        self._alone_waiting += 1
        try:
            admitted = self._wait_for(lambda: not self._inside, lease)
            self._kept_free_until = 0.0 if admitted else self._empty_at
            if admitted:
                self._alone = lease
        finally:
            self._alone_waiting -= 1
            self._condition.notify_all()
        return admitted

    @property
    def _empty_at(self) -> float:
        """By when all who are inside are out of time, and somebody turned away may be back."""
        latest = max((each.ends_at for each in self._inside.values()), default=0.0)
        return min(latest, time.monotonic() + KEPT_FREE_SECONDS) + RETURN_SECONDS

    def _wait_for(self, is_free: Callable[[], bool], lease: Lease) -> bool:
        """Wait as long as the lease is alive; it may be extended, or taken away, meanwhile."""
        while not is_free():
            now = time.monotonic()
            left = lease.valid_until - HAND_BACK_SECONDS - now
            if left <= 0:
                return False
            kept = self._kept_free_until - now
            self._condition.wait(min(left, kept) if kept > 0 else left)
        return True
