"""From a definition and a payload to the rows of a new saga: checked, and its first steps known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from orchestrator.definition import Busy, SagaDefinition, Step
from orchestrator.entries import Recorded, SagaStarted
from orchestrator.errors import PayloadError
from orchestrator.folding import apply
from orchestrator.payloads import (
    MAX_KEY_LENGTH,
    checked_key,
    checked_trace,
    fingerprint,
    read_back,
    to_json,
    validated,
)
from orchestrator.planning import first_look, scheduled
from orchestrator.state import FoldedSaga, State
from orchestrator.state_machine import decide
from orchestrator.storage.rows import NewSaga
from orchestrator.storage.saga_log import new_id

Payload = BaseModel | Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a new saga comes from: the saga and step that wait for it, or the one it repeats."""

    parent_id: UUID | None = None
    parent_step: str | None = None
    replay_of: UUID | None = None


def new_saga(
    definition: SagaDefinition[Any],
    payload: Payload,
    key: str,
    *,
    will_ring: bool,
    trace: Mapping[str, str] | None = None,
    origin: Origin = Origin(),
) -> NewSaga:
    """Return a saga that can be written down.

    Raises:
        PayloadError, InvalidKeyError: the payload, the key or what is locked cannot be accepted.
    """
    whole = validated(definition, payload)
    model = read_back(definition, whole)
    saga_id = new_id()
    deadline = None if definition.deadline is None else definition.deadline.total_seconds()
    lock = _locked(definition, model)
    is_granted = definition.lock is not None and definition.lock.busy is Busy.REFUSE
    started = SagaStarted(
        payload=whole,
        skipped=[each.name for each in definition.steps if _is_skipped(each, model)],
        deadline_seconds=deadline,
        trace=None if trace is None else checked_trace(trace),
        lock=lock,
        lock_granted=is_granted,
        parent_id=None if origin.parent_id is None else str(origin.parent_id),
        parent_step=origin.parent_step,
        replay_of=None if origin.replay_of is None else str(origin.replay_of),
    )
    moment = datetime.now(UTC)  # any moment serves: first steps are due at once
    state = apply(FoldedSaga(), Recorded(seq=1, at=moment, entry=started))
    decision = decide(definition, state, moment, str(saga_id))
    return NewSaga(
        id=saga_id,
        definition=definition.name,
        version=definition.version,
        definition_hash=definition.hash,
        key=checked_key(key),
        fingerprint=fingerprint(payload),
        attributes={name: whole[name] for name in definition.attributes if name in whole},
        started=started,
        deadline_seconds=deadline,
        due_in_seconds=_due_in(saga_id, deadline) if decision.runs else 0.0,
        trace=trace,
        state=State.RUNNING,
        attempts=[scheduled(definition, run, moment, will_ring=will_ring) for run in decision.runs],
        lock=lock,
        lock_granted=is_granted,
        parent_id=origin.parent_id,
        parent_step=origin.parent_step,
        replay_of=origin.replay_of,
    )


def _is_skipped(step: Step, payload: BaseModel) -> bool:
    """Whether the step's condition is false; it is somebody else's code."""
    if step.when is None:
        return False
    try:
        return not step.when(payload)
    except Exception as error:
        raise PayloadError(
            f"the condition of step {step.name} raised {type(error).__name__} for this payload; "
            "its `when` must take every payload that its model does"
        ) from error


def _locked(definition: SagaDefinition[Any], payload: BaseModel) -> str | None:
    if definition.lock is None:
        return None
    try:
        name = to_json(definition.lock.on(payload))
    except Exception as error:
        raise PayloadError(
            f"what {definition} locks cannot be told from this payload ({type(error).__name__}); "
            "its lock.on must take every payload that its model does"
        ) from error
    if not isinstance(name, str) or not 0 < len(name) <= MAX_KEY_LENGTH:
        raise PayloadError(
            f"the lock of {definition} must be a text of 1 to {MAX_KEY_LENGTH} characters"
        )
    return name


def _due_in(saga_id: UUID, deadline: float | None) -> float:
    look = first_look(saga_id)
    return look if deadline is None else min(deadline, look)
