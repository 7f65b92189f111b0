"""What a step's task stands for, and which attempt a message of it names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from orchestrator.definition import NAME
from orchestrator.doorbell import Ring
from orchestrator.entries import PROBES, Direction
from orchestrator.storage.rows import AttemptId
from workers.hand_off import task_name

MAX_ATTEMPT = 2**31 - 1
"""The column is an integer of Postgres."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """What a step's task stands for."""

    definition: str
    step: str
    direction: str
    queue: str

    @property
    def task(self) -> str:
        """The name of the task."""
        return task_name(self.definition, self.step, self.direction)


def address_of(task: object, queue: object) -> Address | None:
    """Return what the step's task of that name stands for, whether or not this process has it.

    None where no step's task can have the name.
    """
    definition, _, rest = str(task).partition(".")
    step, _, direction = rest.partition(".")
    if direction not in ("", Direction.COMPENSATE, *PROBES):
        return None
    if not (NAME.fullmatch(definition) and NAME.fullmatch(step)):
        return None
    return Address(
        definition=definition,
        step=step,
        direction=direction or Direction.FORWARD,
        queue=str(queue),
    )


def attempt_of(address: Address, arguments: Mapping[str, Any]) -> AttemptId | None:
    """Return the attempt that a message's arguments name, or None when they name none."""
    saga_id, number = arguments.get("saga_id"), arguments.get("attempt")
    if not isinstance(saga_id, str) or type(number) is not int:
        return None
    if not 0 < number <= MAX_ATTEMPT:
        return None
    try:
        identity = UUID(saga_id)
    except ValueError:
        return None
    return AttemptId(
        saga_id=identity, step=address.step, direction=address.direction, number=number
    )


def ring_of(address: Address, attempt: AttemptId) -> Ring:
    """Return the ring that the message of an attempt is."""
    return Ring(
        definition=address.definition,
        saga_id=attempt.saga_id,
        step=attempt.step,
        direction=attempt.direction,
        attempt=attempt.number,
        queue=address.queue,
    )
