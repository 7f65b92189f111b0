"""Ringing through Celery: one small message per attempt, in one round trip per batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from celery import Celery
from kombu import Producer, Queue

from orchestrator.doorbell import Doorbell, DoorbellError, Ring
from orchestrator.entries import Direction
from orchestrator.instrumentation import emit
from workers.broker import NEW, UNDER_WAY, queue_named

BATCH = 500

STALE_SECONDS = 0.5
"""A connection of before an outage fails at once; one that fails later met a silent broker."""

T = TypeVar("T")


def task_name(definition: str, step: str, direction: str) -> str:
    """Return the Celery task of a step, of its compensation or of its probe."""
    name = f"{definition}.{step}"
    return name if direction == Direction.FORWARD else f"{name}.{direction}"


def _priority(ring: Ring) -> int:
    is_first_try = ring.attempt == 1 and ring.direction == Direction.FORWARD
    return NEW if is_first_try else UNDER_WAY


class FallbackDoorbell:
    """Rings; what the broker refuses runs here at once, as far as there is room.

    Args:
        doorbell: tried first.
        run_locally: starts an attempt in this worker's free slots, or returns False.
    """

    def __init__(self, doorbell: Doorbell, run_locally: Callable[[Ring], bool]) -> None:
        self._doorbell = doorbell
        self._run_locally = run_locally

    def ring(self, rings: Sequence[Ring]) -> None:
        """Publish each ring, or run its attempt here; see `orchestrator.doorbell.Doorbell`."""
        try:
            self._doorbell.ring(rings)
        except DoorbellError as error:
            left = [each for each in rings if not self._run_locally(each)]
            if left:
                raise
            emit("doorbell.failed", rings=0, ran_here=len(rings), error=str(error))

    def depth(self, queue: str) -> int | None:
        """Return how many messages wait in `queue`, or None when that cannot be read."""
        return self._doorbell.depth(queue)


class CeleryDoorbell:
    """Publishes rings as Celery tasks of `app`, and reads how many wait.

    Pooled connections outlive an outage of the broker and fail at their next use. So whatever fails
    at once is tried once more, on a new connection; a message that is published twice by this
    changes nothing. Further tries are the sweep's.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._queues: dict[str, Queue] = {}

    def ring(self, rings: Sequence[Ring]) -> None:
        """Publish each ring; see `orchestrator.doorbell.Doorbell`."""
        try:
            _once_more_if_stale(lambda: self._ring(rings))
        except Exception as error:  # each transport raises errors of its own library
            raise DoorbellError(f"broker: {type(error).__name__}: {error}") from error

    def depth(self, queue: str) -> int | None:
        """Return how many messages wait in `queue`, or None when that cannot be read."""
        try:
            return _once_more_if_stale(lambda: self._depth(queue))
        except Exception:  # noqa: BLE001 - whatever is wrong with the broker, it cannot be read
            return None

    def _ring(self, rings: Sequence[Ring]) -> None:
        with self._app.producer_or_acquire() as producer:
            try:
                self._publish_all(producer, rings)
            except Exception:
                producer.connection.collect()  # the next to use it connects anew
                raise

    def _depth(self, queue: str) -> int:
        with self._app.connection_or_acquire() as connection:
            try:
                with connection.channel() as channel:
                    if hasattr(channel, "_size"):  # Redis: an empty queue is one that is not there
                        return int(channel._size(queue))  # noqa: SLF001 - counts the prefixed key
                    return int(channel.queue_declare(queue, passive=True).message_count)
            except Exception:
                connection.collect()
                raise

    def _publish_all(self, producer: Any, rings: Sequence[Ring]) -> None:
        if len(rings) == 1:
            self._publish(producer, rings[0])
            return
        with producer.batch(max_size=BATCH):
            for each in rings:
                self._publish(producer, each)

    def _publish(self, producer: Producer, ring: Ring) -> None:
        self._app.send_task(
            task_name(ring.definition, ring.step, ring.direction),
            kwargs={"saga_id": str(ring.saga_id), "attempt": ring.attempt},
            queue=self._queue(ring.queue),
            priority=_priority(ring),
            declare=[],  # workers declare what they consume; a ring into nowhere is a lost ring
            producer=producer,
            ignore_result=True,
            retry=False,
            add_to_parent=False,
            argsrepr="",  # a representation of the arguments costs more than the arguments
            kwargsrepr="",
        )

    def _queue(self, name: str) -> Any:
        """A row may name a queue of an older deploy, so it is not looked up among the declared."""
        if name not in self._queues:
            self._queues[name] = queue_named(name)
        return self._queues[name]


def _once_more_if_stale(use: Callable[[], T]) -> T:
    """Use the broker; once more when that failed as quickly as a dead connection does."""
    began = time.monotonic()
    try:
        return use()
    except Exception:
        if time.monotonic() - began > STALE_SECONDS:
            raise
    return use()
