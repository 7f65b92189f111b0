"""Keeps the claims of this process alive: one thread, started by need, for calls that take long."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

from orchestrator.idempotency_record import Claim
from orchestrator.instrumentation import emit

IDLE_SECONDS = 10.0
"""The thread outlives its last claim by so long: most calls are short and follow one another."""

RETRY_SECONDS = 1.0


@dataclass(slots=True)
class _Held:
    claim: Claim
    due_at: float


class IdempotencyHeartbeat:
    """Extends held claims every third of their lease.

    It stops with the block of `kept`, not with the claim's timeout: the store extends no lease
    beyond that. A fork starts with nothing held.

    Args:
        extend: extends the leases of claims in one statement.
    """

    def __init__(self, extend: Callable[[Sequence[Claim]], None]) -> None:
        self._extend = extend
        self._forget()

    @contextmanager
    def kept(self, claim: Claim) -> Iterator[None]:
        """Keep the lease of a claim that was just made alive while the block runs."""
        if self._pid != os.getpid():
            self._forget()
        with self._changed:
            due_at = time.monotonic() + claim.lease_seconds / 3
            self._held[claim.token] = _Held(claim, due_at)
            self._ensure_thread()
            if due_at < self._wakes_at:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._held.pop(claim.token, None)

    def _forget(self) -> None:
        """Begin anew: the parent's claims are the parent's, and its lock may be held for ever."""
        self._pid = os.getpid()
        self._held: dict[UUID, _Held] = {}
        self._changed = threading.Condition()
        self._wakes_at = 0.0
        self._runs = False

    def _ensure_thread(self) -> None:
        if not self._runs:
            self._runs = True
            threading.Thread(
                target=self._run, name="amends-idempotency-heartbeat", daemon=True
            ).start()

    def _run(self) -> None:
        while due := self._wait():
            try:
                self._extend(due)
            except Exception as error:  # noqa: BLE001 - without this thread every lease is lost
                emit("heartbeat.failed", error=f"{type(error).__name__}: {error}")
                self._retry_soon(due)

    def _wait(self) -> list[Claim]:
        """Wait until leases are to be extended and return their claims; none: nothing is held."""
        with self._changed:
            idle_until = time.monotonic() + IDLE_SECONDS
            while True:
                now = time.monotonic()
                due = [each for each in self._held.values() if each.due_at <= now]
                if due:
                    for each in due:
                        each.due_at = now + each.claim.lease_seconds / 3
                    return [each.claim for each in due]
                if not self._held and now >= idle_until:
                    self._runs = False
                    return []
                moments = (each.due_at for each in self._held.values())
                self._wakes_at = min(moments, default=now + IDLE_SECONDS)
                self._changed.wait(self._wakes_at - now)

    def _retry_soon(self, claims: Sequence[Claim]) -> None:
        with self._changed:
            for each in claims:
                held = self._held.get(each.token)
                if held is not None:
                    held.due_at = min(held.due_at, time.monotonic() + RETRY_SECONDS)
