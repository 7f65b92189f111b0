"""The Redis in which all workers count together, and what happens while it does not answer.

A call must not wait for its guard longer than once: after one failure the server is left alone for
a while and everything is let through. Money stays right all the same, because no promise of the
engine rests on Redis; what is lost is the protection of the other side.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.commands.core import Script
from redis.retry import Retry

from orchestrator.instrumentation import emit

TIMEOUT_SECONDS = 0.5
"""The longest that a server which does not answer can hold up a call; in its own network it takes
a millisecond."""

BLIND_SECONDS = 5.0
"""How long it is left alone after it failed."""


class SharedServer:
    """Runs scripts on one Redis; safe in threads, and after a fork.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``.
        prefix: put before every key.
    """

    def __init__(self, url: str, *, prefix: str = "") -> None:
        self.prefix = prefix
        self.client = redis.Redis.from_url(
            url,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            # A connection that the server closed while it was idle is replaced at once.
            retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        )
        self._lock = threading.Lock()
        self._is_lost = False
        self._blind_until = 0.0

    def script(self, source: str) -> Script:
        """Return a script that `run` can run."""
        return self.client.register_script(source)

    def run(self, script: Script, keys: Sequence[str], values: Sequence[str | float]) -> Any | None:
        """Return what the script answers, or None when the server is not there to be asked."""
        if time.monotonic() < self._blind_until:
            return None
        try:
            answer = script(keys=list(keys), args=list(values))
        except (redis.RedisError, OSError) as error:
            self._lost(error)
            return None
        if self._is_lost:
            self._regained()
        return answer

    def close(self) -> None:
        """Close the connections; the next use opens new ones."""
        self.client.close()

    def _lost(self, error: Exception) -> None:
        with self._lock:
            self._blind_until = time.monotonic() + BLIND_SECONDS
            was_lost, self._is_lost = self._is_lost, True
        if not was_lost:
            emit("guards.lost", error=f"{type(error).__name__}: {error}")

    def _regained(self) -> None:
        with self._lock:
            was_lost, self._is_lost = self._is_lost, False
        if was_lost:
            emit("guards.regained")
