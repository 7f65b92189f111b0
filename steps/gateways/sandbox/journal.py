"""Every request the gateway received: which are open, which were answered, how often a key came.

A request is written at the latest before it is answered, in the transaction of its effect if it
has one; the moment of its answer follows with the next write. `open` is kept in memory, for a
process that died has no open requests.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from steps.gateways.sandbox.ledger import Ledger
from steps.gateways.sandbox.movements import Operation
from steps.gateways.sandbox.records import Received


class Journal:
    """Requests in memory until they are written. All calls come from one thread."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._last_id = ledger.last_request_id()
        self._open: dict[int, Received] = {}
        self._unwritten: dict[int, Received] = {}

    def open_requests(self) -> list[Received]:
        """The requests that have no answer yet, oldest first."""
        return list(self._open.values())

    def receive(
        self,
        operation: Operation,
        *,
        key: str | None = None,
        fingerprint: str | None = None,
        order_reference: str | None = None,
        reference: str | None = None,
    ) -> Received:
        """Number a request that has just arrived and say which try of its key it is."""
        self._last_id += 1
        received = Received(
            id=self._last_id,
            received_at=time.time(),
            operation=operation,
            key=key,
            fingerprint=fingerprint,
            order_reference=order_reference,
            reference=reference,
            attempt=self._attempts_before(key) + 1,
        )
        self._open[received.id] = received
        self._unwritten[received.id] = received
        return received

    def answered(self, received: Received, status: int | None) -> None:
        """Note that the answer is on its way; None is a connection closed without one."""
        received.answered_at = time.time()
        received.status = status
        del self._open[received.id]
        self._unwritten[received.id] = received
        if not received.is_written:
            self.flush()

    def abandon(self, received: Received) -> None:
        """Note that the request ends in a failure of the ledger itself, without an answer."""
        del self._open[received.id]
        self._unwritten[received.id] = received

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A transaction of the ledger that also writes every request that changed."""
        with self._ledger.transaction():
            yield
            written = list(self._unwritten.values())
            for received in written:
                self._ledger.write_request(received)
        for received in written:
            received.is_written = True
        self._unwritten.clear()

    def flush(self) -> None:
        """Write what changed, in a transaction of its own."""
        if self._unwritten:
            with self.transaction():
                pass

    def page(self, after: int, limit: int) -> list[Received]:
        """The requests with a higher id than `after`, oldest first."""
        self.flush()
        return self._ledger.requests_after(after, limit)

    def is_open(self, received: Received) -> bool:
        return received.id in self._open

    def _attempts_before(self, key: str | None) -> int:
        if key is None:
            return 0
        not_yet_written = sum(
            received.key == key and not received.is_written for received in self._unwritten.values()
        )
        return self._ledger.attempts_of(key) + not_yet_written
