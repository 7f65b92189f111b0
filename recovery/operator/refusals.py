"""Why a verb is refused: then nothing was written."""

from __future__ import annotations

from datetime import datetime

from orchestrator.errors import AmendsError, StateConflictError
from orchestrator.storage.rows import SagaRow


class RefusedError(StateConflictError):
    """The saga does not allow the verb as it stands; `possible_from` is when it may, if known."""

    def __init__(self, saga: SagaRow, why: str, *, possible_from: datetime | None = None) -> None:
        super().__init__(
            f"{saga.definition} {saga.key} ({saga.id}): {why}", saga_id=saga.id, state=saga.state
        )
        self.possible_from = possible_from


class MovedOnError(StateConflictError):
    """The saga is not any more as the operator saw it; `seq` is where it stands."""

    def __init__(self, saga: SagaRow, seen: int) -> None:
        super().__init__(
            f"{saga.definition} {saga.key} ({saga.id}) is not as you saw it: seq {seen} then, "
            f"seq {saga.seq} now, or another process holds it. Nothing was written; look again: "
            f"amends show {saga.id}",
            saga_id=saga.id,
            state=saga.state,
        )
        self.seq = saga.seq


class UnknownStepError(AmendsError):
    """The saga's definition has no step of that name."""
