"""A message as the worker takes it, whose arguments nobody sees who should not.

Celery sends a task's arguments and its exception on to whoever listens to events (``-E``) or asks
by remote control. Both are off by default; both go through the broker.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery.worker.request import Request

from orchestrator.redaction import redact, redact_dict


class RedactedRequest(Request):
    """Celery's request; what it tells others is without card data and secrets."""

    def __init__(self, message: Any, *, headers: Any = None, **options: Any) -> None:
        given: Mapping[str, Any] = message.headers if headers is None else headers
        reprs = {
            name: redact(str(given[name])) for name in ("argsrepr", "kwargsrepr") if name in given
        }
        super().__init__(message, headers={**given, **reprs}, **options)

    def info(self, safe: bool = False) -> Any:
        """Return what remote control tells of this task."""
        return redact_dict(super().info(safe=safe))

    def send_event(self, type: str, **fields: Any) -> None:  # noqa: A002 - Celery's name
        """Tell those who listen to events."""
        super().send_event(type, **redact_dict(fields))
