"""A saga as a caller sees it: what is, what is known of its money, and nothing secret."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Self
from uuid import UUID

from pydantic import BaseModel, Field

from orchestrator.books import movements
from orchestrator.definition import SagaDefinition
from orchestrator.entries import (
    Json,
    Recorded,
    SagaMigrated,
    SagaParked,
    SagaStarted,
    StepFailed,
    StepUnknown,
)
from orchestrator.errors import HistoryError
from orchestrator.money_at_risk import money_at_risk
from orchestrator.redaction import redact_dict
from orchestrator.shown_payload import shown
from orchestrator.state import State
from orchestrator.storage.reads import AttemptRow, SagaSummary

UNNAMED: Final = "unnamed"
"""The code of an error that no step put into words: its own text may tell of our insides."""


class Links(BaseModel):
    """Where related things are: paths on this server."""

    self: str
    parent: str | None = Field(None, description="The saga that waits for this one.")
    replay_of: str | None = Field(None, description="The saga whose work this one does again.")

    @classmethod
    def of(cls, saga_id: UUID, started: SagaStarted | None = None) -> Self:
        """Return the links of a saga."""
        return cls(
            self=path_of(saga_id),
            parent=_path(None if started is None else started.parent_id),
            replay_of=_path(None if started is None else started.replay_of),
        )


class AttemptView(BaseModel):
    """A try that runs, or is scheduled."""

    step: str
    direction: str = Field(examples=["forward", "compensate", "probe", "probe_undo"])
    number: int
    due_at: datetime
    is_running: bool


class ErrorView(BaseModel):
    """How the latest try that did not succeed ended. `message`: only where a step chose it."""

    step: str
    direction: str
    attempt: int
    at: datetime
    outcome: str = Field(examples=["retriable", "terminal", "unknown"])
    code: str
    message: str | None = None


class MovementView(BaseModel):
    """Money that a step moved; `kind` is authorize, capture, void or refund."""

    step: str
    is_undo: bool
    kind: str
    amount_minor: int
    currency: str
    reference: str | None
    is_pending: bool = Field(description="Accepted by the gateway and not settled yet.")


class MoneyView(BaseModel):
    """Open amounts of one currency, in minor units."""

    held_minor: int
    captured_minor: int


class SagaView(BaseModel):
    """One saga. `step`, `direction` and `attempt`: what it last did."""

    id: UUID
    definition: str
    version: int
    key: str
    state: State
    is_terminal: bool = Field(description="It has ended.")
    is_parked: bool = Field(description="It waits for an operator.")
    parked_because: str | None = None
    step: str | None
    direction: str | None
    attempt: int | None
    attempts: list[AttemptView]
    last_error: ErrorView | None
    payload: Any = Field(description="Secret fields, and all of a definition unknown here: `***`.")
    attributes: dict[str, Any]
    movements: list[MovementView]
    money_at_risk: dict[str, MoneyView] = Field(
        description="By currency: held or taken, and not given back, as the log tells."
    )
    created_at: datetime
    updated_at: datetime
    deadline_at: datetime | None
    ended_at: datetime | None
    links: Links


def saga_view(
    saga: SagaSummary,
    entries: Sequence[Recorded],
    attempts: Sequence[AttemptRow],
    definition: SagaDefinition[Any] | None,
) -> SagaView:
    """Put the view together from what the database holds."""
    begun = [e.entry for e in entries if isinstance(e.entry, SagaStarted | SagaMigrated)]
    first = begun[0] if begun and isinstance(begun[0], SagaStarted) else None
    parked = [each.entry for each in entries if isinstance(each.entry, SagaParked)]
    told = redact_dict(
        {
            "key": saga.key,
            "payload": shown(begun[-1].payload, definition) if begun else None,
            "attributes": dict(saga.attributes),
        }
    )
    return SagaView(
        **told,
        id=saga.id,
        definition=saga.definition,
        version=saga.version,
        state=saga.state,
        is_terminal=saga.is_terminal,
        is_parked=saga.is_parked,
        parked_because=parked[-1].reason if saga.is_parked and parked else None,
        step=saga.step,
        direction=saga.direction,
        attempt=saga.attempt,
        attempts=[_attempt(each) for each in attempts],
        last_error=_last_error(entries),
        movements=_movements(entries),
        money_at_risk=_money(entries),
        created_at=saga.created_at,
        updated_at=saga.updated_at,
        deadline_at=saga.deadline_at,
        ended_at=saga.ended_at,
        links=Links.of(saga.id, first),
    )


def path_of(saga_id: UUID | str) -> str:
    """Return where a saga is found."""
    return f"/sagas/{saga_id}"


def _path(saga_id: str | None) -> str | None:
    return None if saga_id is None else path_of(saga_id)


def _attempt(row: AttemptRow) -> AttemptView:
    return AttemptView(
        step=row.step,
        direction=row.direction,
        number=row.number,
        due_at=row.due_at,
        is_running=row.owner is not None,
    )


def _last_error(entries: Sequence[Recorded]) -> ErrorView | None:
    for recorded in reversed(entries):
        match recorded.entry:
            case StepFailed() as entry:
                outcome = "terminal" if entry.terminal else "retriable"
            case StepUnknown() as entry:
                outcome = "unknown"
            case _:
                continue
        error: Mapping[str, Json] = redact_dict(entry.error or {})
        code = error.get("code")
        return ErrorView(
            step=entry.step,
            direction=entry.direction,
            attempt=entry.attempt,
            at=recorded.at,
            outcome=outcome,
            code=code or UNNAMED,
            message=error.get("message") if code else None,
        )
    return None


def _movements(entries: Sequence[Recorded]) -> list[MovementView]:
    return [
        MovementView(
            step=each.step,
            is_undo=each.is_undo,
            kind=each.kind,
            amount_minor=each.minor,
            currency=each.currency,
            reference=each.reference,
            is_pending=each.is_pending,
        )
        for each in movements(entries)
    ]


def _money(entries: Sequence[Recorded]) -> dict[str, MoneyView]:
    """What is at risk; nothing where an entry cannot be read: then the saga is parked for that."""
    try:
        at_risk = money_at_risk(entries)
    except HistoryError:
        return {}
    return {
        currency: MoneyView(held_minor=each.held_minor, captured_minor=each.captured_minor)
        for currency, each in at_risk.items()
    }
