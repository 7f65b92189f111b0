"""From a decision to rows: which attempts to write down, which to drop, when to look again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from orchestrator.actions import RunStep
from orchestrator.definition import HandOff, SagaDefinition
from orchestrator.doorbell import Ring
from orchestrator.state import PARKED, TERMINAL, State
from orchestrator.state_machine import Decision
from orchestrator.storage.rows import LOOK_SECONDS, AttemptId, SagaRow, Scheduled

PARKED_LOOK_SECONDS = 900.0
"""A parked saga comes due again after this long, then after twice as long, and alerts each time."""

MAX_LOOK_SECONDS = 86_400.0
LOOK_SPREAD = 2**16
MAX_DOUBLINGS = 16

Serves = Callable[[str], bool]
"""Whether this worker takes tasks of a queue; decides whether the next step may run in place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimInPlace:
    """The claim of the next attempt, made in the record of the one before it."""

    token: UUID
    owner: str
    lease_seconds: float


def scheduled(
    definition: SagaDefinition[Any],
    run: RunStep,
    now: datetime,
    *,
    will_ring: bool = True,
    claim: ClaimInPlace | None = None,
) -> Scheduled:
    """Return the attempt row that `run` asks for."""
    step = definition.step(run.step)
    delay = 0.0 if run.not_before is None else max(0.0, (run.not_before - now).total_seconds())
    return Scheduled(
        step=run.step,
        direction=run.direction,
        number=run.attempt,
        queue=step.queue,
        delay_seconds=delay,
        timeout_seconds=step.timeout.total_seconds(),
        alone=run.alone,
        rung=will_ring and delay == 0.0 and claim is None,
        token=None if claim is None else claim.token,
        owner=None if claim is None else claim.owner,
        lease_seconds=None if claim is None else claim.lease_seconds,
    )


def rings(
    definition: SagaDefinition[Any], saga_id: UUID, attempts: Iterable[Scheduled]
) -> list[Ring]:
    """Return the messages for the attempts that are rung at once."""
    return [
        Ring(
            definition=definition.name,
            saga_id=saga_id,
            step=each.step,
            direction=each.direction,
            attempt=each.number,
            queue=each.queue,
        )
        for each in attempts
        if each.rung
    ]


def runs_in_place(
    definition: SagaDefinition[Any], runs: Sequence[RunStep], now: datetime, serves: Serves
) -> RunStep | None:
    """Return the first attempt that may go on in this worker at once, or None."""
    for run in runs:
        step = definition.step(run.step)
        is_due = run.not_before is None or run.not_before <= now
        if is_due and not run.alone and step.hand_off is HandOff.AUTO and serves(step.queue):
            return run
    return None


def is_linear(definition: SagaDefinition[Any]) -> bool:
    """Whether at most one attempt of such a saga is ever scheduled or open."""
    return all(each.after is None for each in definition.steps)


def due_in(decision: Decision, now: datetime, before: State, looks: int = 0) -> float | None:
    """Return in how many seconds the saga itself is due, or None to leave that as it is."""
    if decision.visible in PARKED:
        return min(PARKED_LOOK_SECONDS * 2.0 ** min(looks, MAX_DOUBLINGS), MAX_LOOK_SECONDS)
    is_as_before = decision.visible == before and before in (State.RUNNING, State.COMPENSATING)
    if is_as_before and not decision.awaits:
        return None
    return next_look(decision, now)


def tells(saga: SagaRow, state: State) -> bool:
    """Whether others wait for what becomes of the saga, and it changes for them."""
    if (saga.parent_id is None and saga.lock is None) or state == saga.state:
        return False
    return state in TERMINAL | PARKED or saga.state in PARKED


def next_look(decision: Decision, now: datetime) -> float:
    """Return in how many seconds a moving saga should be looked at.

    One that only waits is woken by its signal, or when the moment has come; looking in between
    would cost for ever as much as it has company.
    """
    longest = MAX_LOOK_SECONDS if decision.visible is State.WAITING else LOOK_SECONDS
    if decision.wake_at is None:
        return longest
    return max(0.0, min((decision.wake_at - now).total_seconds(), longest))


def first_look(saga_id: UUID) -> float:
    """Return in how many seconds a saga is first looked at, if nothing happens to it before.

    Ids are random, so sagas that were started together are not looked at together.
    """
    return LOOK_SECONDS * (1 + saga_id.int % LOOK_SPREAD / LOOK_SPREAD) / 2


def attempt_id(saga_id: UUID, run: RunStep | Scheduled) -> AttemptId:
    """Return the name of an attempt that is wanted or written down."""
    number = run.attempt if isinstance(run, RunStep) else run.number
    return AttemptId(saga_id=saga_id, step=run.step, direction=run.direction, number=number)
