"""Steps that run past their timeout: given up by their own process, and their threads replaced.

A thread cannot be ended. What can be done for the others: the attempt is given up as timed out, by
the one process that knows that it lived; its place at the gate and in the pool is free again. Only
so many threads are replaced; then the process ends, for its supervisor to start it afresh.
"""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.coordinator import Coordinator
from orchestrator.entries import UnknownReason
from orchestrator.instrumentation import emit
from orchestrator.leases import Holding
from orchestrator.storage.rows import OpenAttempt

GRACE_SECONDS = 0.5
"""By then its lease is over by the database's clock too, which began to count a little later."""

GIVE_UP_SECONDS = 10.0
"""How long to try to say that an attempt timed out; after that the sweep has said something."""


class HungSteps:
    """Looks after the attempts of this process.

    Args:
        replace: frees the place of a hung thread, given its ident; False where it cannot.
        limit: how many threads may hang, each replaced by another.
        replaced: how many hang now.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        *,
        replace: Callable[[int], bool],
        replaced: Callable[[], int],
        limit: int,
    ) -> None:
        self._coordinator = coordinator
        self._replace = replace
        self._count = replaced
        self._limit = limit
        self._untold: list[Holding] = []
        self.is_stuck = False
        """A thread hangs that nobody can replace: the process can do nothing more."""

    @property
    def replaced(self) -> int:
        """How many threads of this process hang now."""
        return self._count()

    @property
    def are_too_many(self) -> bool:
        """Whether more threads hang than may be replaced."""
        return self.replaced > self._limit

    def look(self, now: float) -> None:
        """Replace what hangs at monotonic time `now`.

        Raises:
            LogUnavailableError: Postgres does not answer; what it was to be told is kept.
        """
        for each in self._coordinator.leases.holdings:
            if each.lease.is_running and now > each.lease.ends_at + GRACE_SECONDS:
                self._detach(each)
        self._tell(now)

    def _detach(self, hung: Holding) -> None:
        self._coordinator.detach(hung)
        self._untold.append(hung)
        if not self._replace(hung.thread):
            self.is_stuck = True
        emit(
            "step.hung",
            saga_id=str(hung.attempt.saga_id),
            step=hung.attempt.step,
            direction=hung.attempt.direction,
            attempt=hung.attempt.number,
            replaced=self.replaced,
        )

    def _tell(self, now: float) -> None:
        """Record what hangs as timed out: nobody else knows that its process lives."""
        for each in list(self._untold):
            if self._give_up(each) or now > each.lease.ends_at + GIVE_UP_SECONDS:
                self._untold.remove(each)

    def _give_up(self, hung: Holding) -> bool:
        attempt = OpenAttempt(
            id=hung.attempt, queue="", token=hung.token, owner=None, is_expired=True
        )
        return self._coordinator.mover.give_up(attempt, UnknownReason.TIMED_OUT)
