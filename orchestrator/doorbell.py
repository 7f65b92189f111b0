"""The doorbell: how a scheduled attempt is made known to workers.

A ring is a hint and never more. Lost, doubled, late or forged, it changes when an attempt runs, not
whether or how often it takes effect; the row in Postgres says what may run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from orchestrator.instrumentation import emit
from orchestrator.seam import durable


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """One message: which attempt of which saga, and the queue of its step."""

    definition: str
    saga_id: UUID
    step: str
    direction: str
    attempt: int
    queue: str


class DoorbellError(Exception):
    """The broker did not take the message, or not certainly; the sweep will ring again."""


class Doorbell(Protocol):
    """Publishes rings."""

    def ring(self, rings: Sequence[Ring]) -> None:
        """Publish each ring once.

        Raises:
            DoorbellError: none, some or all of them were published.
        """

    def depth(self, queue: str) -> int | None:
        """Return how many messages wait in `queue`, or None when that cannot be read."""


class SilentDoorbell:
    """Rings nobody and says so: somebody else's sweep has to. For processes without a broker."""

    def ring(self, rings: Sequence[Ring]) -> None:  # noqa: ARG002 - the protocol's signature
        """Refuse: a ring that nobody hears must not count as rung."""
        raise DoorbellError("no broker is set: AMENDS_BROKER_URL")

    def depth(self, queue: str) -> int | None:  # noqa: ARG002 - the protocol's signature
        """Return None: there is no queue to look at."""
        return None


def ring_each(doorbell: Doorbell, rings: Sequence[Ring]) -> bool:
    """Ring for each attempt; False when the broker refused and the sweep has to.

    Called after the commit, never inside it: a ring must not announce what may be rolled back.
    """
    if not rings:
        return True
    try:
        durable("ring.publish", lambda: doorbell.ring(rings))
    except DoorbellError as error:
        emit("doorbell.failed", rings=len(rings), error=str(error))
        return False
    return True
