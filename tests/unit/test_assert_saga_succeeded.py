from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest

from orchestrator.errors import SagaCompensationError
from orchestrator.saga_builder import SagaState
from orchestrator.storage.reads import SagaExecution
from orchestrator.testing import assert_saga_succeeded

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def execution(state: SagaState) -> SagaExecution:
    return SagaExecution(
        id=UUID(int=7),
        definition="checkout",
        version=1,
        key="A-1",
        state=state,
        seq=9,
        step="capture_payment",
        direction="forward",
        attempt=1,
        last_error="CardDeclinedError: no",
        attributes={},
        due_at=None,
        deadline_at=None,
        created_at=NOW,
        updated_at=NOW,
        ended_at=None,
    )


def test_a_completed_saga_passes_though_something_failed_on_the_way() -> None:
    assert_saga_succeeded(execution(SagaState.COMPLETED))


@pytest.mark.parametrize(
    "state", sorted(set(SagaState) - {SagaState.COMPLETED, SagaState.FAILED_COMPENSATION})
)
def test_any_other_saga_is_told_with_its_state_step_and_error(state: SagaState) -> None:
    with pytest.raises(
        AssertionError,
        match=rf"^checkout A-1 is {state} at capture_payment, after CardDeclinedError: no$",
    ):
        assert_saga_succeeded(execution(state))


def test_a_saga_that_could_not_be_taken_back_is_named() -> None:
    with pytest.raises(SagaCompensationError, match="failed_compensation") as raised:
        assert_saga_succeeded(execution(SagaState.FAILED_COMPENSATION))

    assert raised.value.saga_id == UUID(int=7)
