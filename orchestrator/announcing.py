"""Telling observers of committed entries, and operators of errors, in one form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from orchestrator.entries import Entry, SignalReceived, StepFailed, StepUnknown
from orchestrator.instrumentation import emit
from orchestrator.storage.rows import SagaRow
from orchestrator.storage.signals import Heard

MAX_ERROR = 300


def announce(saga: SagaRow, entries: Sequence[Entry]) -> None:
    """Tell observers that `entries` were committed to the saga's log: event ``saga.entry``."""
    for entry in entries:
        emit("saga.entry", saga_id=saga.id, saga=saga.definition, key=saga.key, entry=entry)


def announce_heard(signals: Iterable[Heard]) -> None:
    """Tell observers of signals that were delivered, as of every other entry."""
    for each in signals:
        entry = SignalReceived(name=each.name, dedup_id=each.dedup_id, payload=each.payload)
        emit("saga.entry", saga_id=each.saga_id, saga=each.definition, key=each.key, entry=entry)


def error_of(entry: Entry) -> str | None:
    """Return the one line an operator sees as the saga's last error, or None."""
    if not isinstance(entry, StepFailed | StepUnknown):
        return None
    if entry.error:
        return f"{entry.error.get('type')}: {entry.error.get('message')}"[:MAX_ERROR]
    return f"unknown: {entry.reason}" if isinstance(entry, StepUnknown) else None
