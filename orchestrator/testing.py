"""For the tests of those who write sagas."""

from __future__ import annotations

from orchestrator.errors import SagaCompensationError
from orchestrator.state import State
from orchestrator.storage.reads import SagaSummary


def assert_saga_succeeded(saga: SagaSummary) -> None:
    """Return if the saga completed; else tell where it stands, and why.

    Raises:
        SagaCompensationError: it could not be taken back whole, and waits for a person.
        AssertionError: it is in any other state but `completed`.
    """
    if saga.state is State.COMPLETED:
        return
    last = f", after {saga.last_error}" if saga.last_error else ""
    told = f"{saga.definition} {saga.key} is {saga.state} at {saga.step}{last}"
    if saga.state is State.FAILED_COMPENSATION:
        raise SagaCompensationError(told, saga_id=saga.id)
    raise AssertionError(told)
