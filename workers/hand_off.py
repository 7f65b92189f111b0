"""Ringing through Celery: one small message per attempt, in one round trip per batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from celery import Celery
from kombu import Producer, Queue

from orchestrator.doorbell import Doorbell, DoorbellError, Ring
from orchestrator.entries import Direction
from orchestrator.instrumentation import emit
from workers.broker import NEW, UNDER_WAY, queue_named

BATCH = 500


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

    A ring that could not be published is not tried again: the sweep is the retry.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._queues: dict[str, Queue] = {}

    def ring(self, rings: Sequence[Ring]) -> None:
        """Publish each ring once; see `orchestrator.doorbell.Doorbell`."""
        try:
            with self._app.producer_or_acquire() as producer:
                if len(rings) == 1:
                    self._publish(producer, rings[0])
                    return
                with producer.batch(max_size=BATCH):
                    for each in rings:
                        self._publish(producer, each)
        except Exception as error:  # each transport raises errors of its own library
            raise DoorbellError(f"broker: {type(error).__name__}: {error}") from error

    def depth(self, queue: str) -> int | None:
        """Return how many messages wait in `queue`, or None when that cannot be read.

        Asks on a connection of its own: a pooled one that was used while the broker was away fails
        once more when it is back.
        """
        try:
            with self._app.connection_for_write() as connection:
                channel: Any = connection.default_channel
                if hasattr(channel, "_size"):  # Redis: an empty queue is one that is not there
                    return int(channel._size(queue))  # noqa: SLF001 - counts the prefixed key
                return int(channel.queue_declare(queue, passive=True).message_count)
        except Exception:  # noqa: BLE001 - whatever is wrong with the broker, it cannot be read
            return None

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
