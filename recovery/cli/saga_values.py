"""A saga's row as `list` and `show` give it to programs: the same names in both."""

from __future__ import annotations

from typing import Any

from orchestrator.storage.reads import SagaSummary


def saga_values(saga: SagaSummary) -> dict[str, Any]:
    """Return what the row says; `saga` is the definition's name, as in logs and options."""
    return {
        "id": saga.id,
        "saga": saga.definition,
        "version": saga.version,
        "key": saga.key,
        "state": saga.state,
        "seq": saga.seq,
        "step": saga.step,
        "direction": saga.direction,
        "attempt": saga.attempt,
        "last_error": saga.last_error,
        "attributes": dict(saga.attributes),
        "created_at": saga.created_at,
        "updated_at": saga.updated_at,
        "due_at": saga.due_at,
        "deadline_at": saga.deadline_at,
        "ended_at": saga.ended_at,
    }
