"""Noticing that a worker takes no messages although some wait for it, and what follows from it.

A consumer can stop without knowing it: its connection is watched no more, or its places are lost.
Then it looks idle, and is not. Who watches is the thread that keeps the leases of the process, in a
prefork worker that of each child; who consumes is the main process. They share a piece of memory.

    for `stall_seconds` no message came, and there is room for a step, and attempts rung as long ago
    have messages in a queue of ours             the consumer connects anew
    the same for `stall_seconds` more            the worker drains and ends with `STALLED`

A worker that is merely idle has no messages waiting; one that is busy has no room; while the broker
is away nobody can say that messages wait.
"""

from __future__ import annotations

import mmap
import struct
import threading
import time
from collections.abc import Callable, Sequence
from enum import IntEnum

from orchestrator.instrumentation import emit

STALLED = 75
"""The exit code of a worker that ends because it takes nothing; `EX_TEMPFAIL`: try again."""

LOOKS = 6
"""How often to look in `stall_seconds`; one look alone decides nothing."""

UNHEARD_SECONDS = 10.0
"""A main process that has not followed an order for so long hangs."""

_SHARED = struct.Struct("=dB")


class Order(IntEnum):
    """What the consumer is to do."""

    NONE = 0
    RECONNECT = 1
    END = 2


class Consumption:
    """When a message came last, and what the consumer is to do; shared with forked children."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, _SHARED.size)
        self.note_taken()

    @property
    def taken_at(self) -> float:
        """The monotonic moment at which a message came last, or the worker began."""
        return float(_SHARED.unpack(self._shared[:])[0])

    @property
    def order(self) -> Order:
        """The order that the consumer has not followed yet."""
        return Order(self._shared[8])

    def note_taken(self) -> None:
        """Note that a message came now."""
        self._shared[:8] = struct.pack("=d", time.monotonic())

    def give(self, order: Order) -> None:
        """Have the main process do this."""
        self._shared[8] = order

    def take_order(self) -> Order:
        """Return, once, what is to be done."""
        order = self.order
        self._shared[8] = Order.NONE
        return order


class _Depth(threading.local):
    running = 0


class Busy:
    """Counts the threads of this process that run a task, however many run inside each other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._here = _Depth()
        self.threads = 0

    def begin(self, **_: object) -> None:
        """A task begins in this thread."""
        self._here.running += 1
        if self._here.running == 1:
            with self._lock:
                self.threads += 1

    def end(self, **_: object) -> None:
        """It has ended."""
        self._here.running -= 1
        if self._here.running == 0:
            with self._lock:
                self.threads -= 1


class ConsumerWatch:
    """Gives the consumer of this worker an order when it takes nothing.

    Args:
        has_room: whether this process could run one more step.
        waiting: the queues of ours that hold messages for attempts rung so many seconds ago.
        on_unheard: called when the main process follows no order.
    """

    def __init__(
        self,
        consumption: Consumption,
        *,
        stall_seconds: float,
        has_room: Callable[[], bool],
        waiting: Callable[[float], Sequence[str]],
        on_unheard: Callable[[], None],
    ) -> None:
        self._consumption = consumption
        self._stall_seconds = stall_seconds
        self._pause = stall_seconds / LOOKS
        self._has_room = has_room
        self._waiting = waiting
        self._on_unheard = on_unheard
        self._looked_at = float("-inf")
        self._stalls_since: float | None = None
        self._given = Order.NONE
        self._given_at = 0.0

    def look(self, now: float) -> None:
        """Look, if it is time to, at monotonic time `now`."""
        if now - self._looked_at < self._pause:
            return
        if now - self._looked_at > 3 * self._pause:
            self._stalls_since = None  # this process stood still, and so did the consumer
        self._looked_at = now
        queues = self._stalled_queues(now)
        if not queues:
            self._stalls_since, self._given = None, Order.NONE
            return
        if self._stalls_since is None:
            self._stalls_since = now
        self._decide(now, now - self._stalls_since, queues)

    def _stalled_queues(self, now: float) -> Sequence[str]:
        if now - self._consumption.taken_at < self._stall_seconds or not self._has_room():
            return ()
        return self._waiting(self._stall_seconds)

    def _decide(self, now: float, stalled_for: float, queues: Sequence[str]) -> None:
        if self._given is Order.END:
            if self._consumption.order is Order.END and now - self._given_at > UNHEARD_SECONDS:
                self._on_unheard()
        elif self._given is Order.RECONNECT:
            if stalled_for >= self._stall_seconds + 2 * self._pause:
                self._give(Order.END, now, queues)
        elif stalled_for >= 2 * self._pause:
            self._give(Order.RECONNECT, now, queues)

    def _give(self, order: Order, now: float, queues: Sequence[str]) -> None:
        self._given, self._given_at = order, now
        self._consumption.give(order)
        emit(
            "worker.stalled",
            queues=list(queues),
            taken_nothing_seconds=round(now - self._consumption.taken_at),
            follows="connects anew" if order is Order.RECONNECT else "ends",
        )
