"""A circuit of one process alone, for decorated functions without a shared server.

The rules are those of `workers.resilience.circuit`.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterable
from datetime import timedelta

from orchestrator.guarding import Breaker, NotLetThrough, Request, Verdict
from workers.resilience.circuit import Entered, tell


class OwnCircuit:
    """Thread-safe; a forked child goes on with a copy."""

    def __init__(self, name: str, breaker: Breaker) -> None:
        self._name, self._breaker = name, breaker
        self._lock = threading.Lock()
        self._calls: list[float] = []
        self._outages: list[float] = []
        self._open_until: float | None = None
        self._trial: str | None = None
        self._trial_until = 0.0

    def enter(self, request: Request) -> Entered:
        """Let a call through, or not.

        Raises:
            NotLetThrough: ``circuit_open``.
        """
        token = uuid.uuid4().hex
        with self._lock:
            now = time.monotonic()
            if self._open_until is None:
                self._calls = [*self._recent(self._calls, now), now]
                return Entered(token=token, key=request.key, is_trial=False)
            rest = max(self._open_until, self._trial_until) - now
            if rest > 0:
                raise NotLetThrough(
                    f"the circuit to {self._name} is open",
                    code="circuit_open",
                    retry_after=timedelta(seconds=rest),
                    is_exact=False,
                )
            self._trial, self._trial_until = token, now + request.takes.total_seconds()
            return Entered(token=token, key=request.key, is_trial=True)

    def leave(self, entered: Entered, verdict: Verdict) -> None:
        """Say what a call that was let through tells of the other side."""
        with self._lock:
            change = self._change(entered, verdict, time.monotonic())
        tell(change, self._name, self._breaker)

    def _change(self, entered: Entered, verdict: Verdict, now: float) -> str:
        open_until = now + self._breaker.open_for.total_seconds()
        if self._open_until is not None:
            if self._trial != entered.token:
                return "unchanged"
            self._trial, self._trial_until = None, 0.0
            if verdict is Verdict.ANSWERED:
                self._open_until, self._calls, self._outages = None, [], []
                return "closed"
            if verdict is Verdict.OUTAGE:
                self._open_until = open_until
                return "trial_failed"
            return "unchanged"
        if verdict is not Verdict.OUTAGE:
            return "unchanged"
        self._outages = [*self._recent(self._outages, now), now]
        share = self._breaker.share * len(self._recent(self._calls, now))
        if len(self._outages) < max(self._breaker.failures, share):
            return "unchanged"
        self._open_until = open_until
        return "opened"

    def _recent(self, moments: Iterable[float], now: float) -> list[float]:
        since = now - self._breaker.within.total_seconds()
        return [each for each in moments if each > since]
