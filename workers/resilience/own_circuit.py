"""A circuit of one process alone, for decorated functions without a shared server.

The rules are those of `workers.resilience.circuit`.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import deque
from datetime import timedelta

from orchestrator.guarding import Breaker, NotLetThrough, Request, Verdict
from workers.resilience.circuit import Entered, tell


class OwnCircuit:
    """Thread-safe; a forked child goes on with a copy."""

    def __init__(self, name: str, breaker: Breaker) -> None:
        self._name, self._breaker = name, breaker
        self._lock = threading.Lock()
        self._calls: deque[float] = deque()
        self._outages: deque[float] = deque()
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
                self._add(self._calls, now)
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
                self._open_until = None
                self._calls.clear()
                self._outages.clear()
                return "closed"
            if verdict is Verdict.OUTAGE:
                self._open_until = open_until
                return "trial_failed"
            return "unchanged"
        if verdict is not Verdict.OUTAGE:
            return "unchanged"
        self._add(self._outages, now)
        self._forget_old(self._calls, now)
        needed = max(self._breaker.failures, self._breaker.share * len(self._calls))
        if len(self._outages) < needed:
            return "unchanged"
        self._open_until = open_until
        return "opened"

    def _add(self, moments: deque[float], now: float) -> None:
        self._forget_old(moments, now)
        moments.append(now)

    def _forget_old(self, moments: deque[float], now: float) -> None:
        since = now - self._breaker.within.total_seconds()
        while moments and moments[0] <= since:
            moments.popleft()
