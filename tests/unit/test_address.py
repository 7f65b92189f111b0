"""What a task's name says, and what a message's arguments say, whoever wrote them."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from orchestrator.definitions import Definitions
from orchestrator.entries import Direction
from tests.sagas_for_workers import INLINE
from workers.address import address_of, attempt_of
from workers.tasks import addresses


def test_the_name_of_every_step_s_task_leads_back_to_the_step() -> None:
    for each in addresses(Definitions([INLINE])):
        assert address_of(each.task, each.queue) == each


@pytest.mark.parametrize(
    "name", [None, 7, "", "amends", "a.b.c", "a.b.compensate.c", "a.", ".b", "a.b\x00", "A.b"]
)
def test_a_name_that_no_step_can_have_leads_nowhere(name: object) -> None:
    assert address_of(name, "amends") is None


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"saga_id": "no id", "attempt": 1},
        {"saga_id": 7, "attempt": 1},
        {"saga_id": str(uuid.uuid4())},
        {"saga_id": str(uuid.uuid4()), "attempt": "1"},
        {"saga_id": str(uuid.uuid4()), "attempt": True},
        {"saga_id": str(uuid.uuid4()), "attempt": 0},
        {"saga_id": str(uuid.uuid4()), "attempt": 2**31},
    ],
)
def test_arguments_that_name_no_attempt_are_none(arguments: dict[str, Any]) -> None:
    address = address_of("trip.flight.compensate", "amends")
    assert address is not None
    assert address.direction == Direction.COMPENSATE
    assert attempt_of(address, arguments) is None
