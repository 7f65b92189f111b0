"""One event, many observers: the engine says once what happened; logs and metrics subscribe."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from orchestrator.redaction.values import redact_dict

Observer = Callable[[str, dict[str, Any]], None]

_observers: list[Observer] = []


def emit(event: str, **fields: Any) -> None:
    """Tell every observer of `event`, dotted and in the past tense. Free when nobody listens.

    Observers carry it out of the process: text among the fields comes without card data.
    """
    if _observers:
        fields = redact_dict(fields)
    for observer in _observers:
        try:
            observer(event, fields)
        except Exception:
            # What happened has happened: an observer may not turn it into a failure.
            logging.getLogger(__name__).exception("observer of %s failed", event)


def subscribe(observer: Observer) -> None:
    """Have `observer` called with every event of this process; twice is once."""
    if observer not in _observers:
        _observers.append(observer)


@contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Subscribe while the block runs."""
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.remove(observer)
