"""A step that starts another saga and waits for it.

child completed                the step succeeded; the child's results are the step's
child compensated              the step failed for good, and the parent is taken back
child refused at its start     the step failed: for good (its payload), or to be tried again (it may
                               not queue for its lock, or no worker has its definition yet)
child parked                   the parent parks with it, and goes on by itself when it goes on
start that comes too late      refused, by the parent's row: it is taken back, parked or ended
parent cancelled or failed     the child is taken back too, even when it had completed; past its
                               pivot it refuses, and the parent's compensation fails visibly
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from orchestrator.client import SagaClient
from orchestrator.context import Effect, NothingThere, StepContext
from orchestrator.definition import SagaDefinition, Step, step
from orchestrator.errors import (
    IdempotencyConflictError,
    OutcomeUnknown,
    ParentNotRunningError,
    PayloadError,
    SagaLockedError,
    Terminal,
    UnknownDefinitionError,
    Wait,
)
from orchestrator.going_forward import CHILD_SIGNAL
from orchestrator.new_sagas import Origin
from orchestrator.state import State

START = timedelta(seconds=1)
"""How long a start takes at most. Closer to the timeout, or after the lease, there is none."""

LOOK_AGAIN = timedelta(hours=6)
"""A parent looks at its child by itself this often, should nobody tell it."""

_NOT_NOW = (SagaLockedError, UnknownDefinitionError, ParentNotRunningError)
_NEVER = (IdempotencyConflictError, PayloadError)
"""What a start that is refused raises: the child was not started."""


def child_saga(
    name: str,
    definition: SagaDefinition[Any] | str,
    payload: Callable[[StepContext[Any]], BaseModel | Mapping[str, Any]],
    **options: Any,
) -> Step:
    """Describe a step that runs a saga of its own and waits for its end.

    Args:
        definition: the child's definition, or the name of one that the workers have.
        payload: makes the child's payload from the parent's context; must give the same each time.
        options: as those of `step`; `timeout` is for starting the child, not for the child.
    """

    def run(ctx: StepContext[Any]) -> Effect:
        return _run(ctx, definition, payload(ctx))

    def undo(ctx: StepContext[Any]) -> Effect | NothingThere:
        return _undo(ctx)

    return step(
        name,
        run,
        compensation=None if options.get("retriable") else undo,
        retriable_errors=(*_NOT_NOW, *options.pop("retriable_errors", ())),
        terminal_errors=(*_NEVER, *options.pop("terminal_errors", ())),
        **options,
    )


def _run(
    ctx: StepContext[Any],
    definition: SagaDefinition[Any] | str,
    payload: BaseModel | Mapping[str, Any],
) -> Effect:
    client = ctx.resource(SagaClient)
    ctx.call_timeout(START)  # not when others may have taken the parent back already
    started = client.start(
        definition,
        payload,
        key=ctx.step_key,
        origin=Origin(parent_id=ctx.saga_id, parent_step=ctx.step),
    )
    child = client.get(started.id)
    match child.state:
        case State.COMPLETED:
            return Effect(
                value={"saga_id": str(child.id), "results": client.results(child.id)},
                reference=str(child.id),
            )
        case State.COMPENSATED:
            raise Terminal(
                f"the child saga {child.id} was taken back",
                code="child_compensated",
                details={"saga_id": str(child.id), "last_error": child.last_error},
                decisive=True,
            )
        case State.RESOLVED:
            raise OutcomeUnknown(
                f"an operator closed the child saga {child.id}: what does that mean here?",
                code="child_resolved",
            )
        case _:
            raise _wait(ctx, child.id)


def _undo(ctx: StepContext[Any]) -> Effect | NothingThere:
    client = ctx.resource(SagaClient)
    known = None if ctx.effect is None else ctx.effect.reference
    child = client.child_of(ctx.saga_id, ctx.step) if known is None else client.get(UUID(known))
    if child is None:
        return NothingThere()
    if child.state is State.COMPENSATED:
        return Effect(value={"saga_id": str(child.id)}, reference=str(child.id))
    if child.state is State.RESOLVED:
        raise Terminal(
            f"an operator closed the child saga {child.id}: what it left must be looked at",
            code="child_resolved",
        )
    if not client.request_undo(child.id, reason=f"{ctx.step} of {ctx.saga_id} is taken back"):
        raise Terminal(
            f"the child saga {child.id} is past its pivot and is not taken back",
            code="child_past_pivot",
        )
    if client.get(child.id).state is State.COMPENSATED:
        return Effect(value={"saga_id": str(child.id)}, reference=str(child.id))
    raise _wait(ctx, child.id)


def _wait(ctx: StepContext[Any], child_id: UUID) -> Wait:
    until = ctx.now + LOOK_AGAIN
    return Wait(f"{CHILD_SIGNAL}{ctx.step}", until, decisive=True, reference=str(child_id))
