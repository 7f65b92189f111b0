"""Asking for a saga to be taken back, and running out of time, at every moment of its life."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from orchestrator.client import SagaClient, Started
from orchestrator.definition import SagaDefinition
from orchestrator.definitions import Definitions
from orchestrator.entries import (
    CancelRefused,
    CancelRequested,
    Direction,
    Entry,
    Outcome,
    Recorded,
    StepReleased,
    StepStarted,
    StepSucceeded,
    UnwindingStarted,
)
from orchestrator.errors import StateConflictError
from orchestrator.outside_facts import CancelStatus
from orchestrator.state import State
from orchestrator.storage.histories import SagaHistory
from tests.acceptance.errands import ERRAND, URGENT
from tests.chaos.sizes import sizes
from tests.deployment import Deployment, measured
from tests.outside_world import ANY, World
from tests.worker_processes import until

POSITIONS = 8
"""Entries of an errand that went well, before the two that end it in one commit."""

SLOTS = 8
"""So many claims may be under way when the machine stands still, and are carried out after it."""
DECISION = timedelta(seconds=0.5)
"""What may pass between a decision at its moment and the commit of its entries."""


def knows_them(deployment: Deployment) -> None:
    deployment.definitions += [ERRAND, URGENT]
    deployment.variables["sagas"] = "tests.acceptance.errands"
    deployment.client = SagaClient(
        deployment.engine, deployment.doorbell, definitions=Definitions([ERRAND, URGENT])
    )


def start(deployment: Deployment, saga: SagaDefinition[Any], count: int, prefix: str) -> list[UUID]:
    """Start errands of which every third is declined at the pivot."""
    rows = [
        (f"{prefix}-{n}", {"slow_ms": 20, "declines": "ship" if n % 3 == 2 else None})
        for n in range(count)
    ]
    answers = [e for e in deployment.client.start_many(saga, rows) if isinstance(e, Started)]
    assert len(answers) == count
    return [each.id for each in answers]


def is_sound(deployment: Deployment, world: World, ends: Mapping[State, int]) -> None:
    assert deployment.violations(ends) == []
    assert world.violations(ERRAND, URGENT) == []


def place(entries: Sequence[Recorded], kind: type[Entry], **fields: object) -> int:
    """Where the log holds the first such entry; 0 where it holds none."""
    return next(
        (
            each.seq
            for each in entries
            if isinstance(each.entry, kind)
            and all(getattr(each.entry, name) == value for name, value in fields.items())
        ),
        0,
    )


PIVOT = {"step": "ship", "direction": Direction.FORWARD}


def begun(entries: Sequence[Recorded]) -> list[Recorded]:
    """The forward attempts of steps that were called, so not those that were handed back."""
    released = {
        (each.entry.step, each.entry.attempt)
        for each in entries
        if isinstance(each.entry, StepReleased)
    }
    return [
        each
        for each in entries
        if isinstance(each.entry, StepStarted)
        and each.entry.direction == Direction.FORWARD
        and (each.entry.step, each.entry.attempt) not in released
    ]


# -- cancel ----------------------------------------------------------------------------------------


@sizes(3, 40)
def test_a_cancel_at_every_position_of_the_log_is_answered_by_where_the_pivot_is(
    deployment: Deployment, world: World, size: int
) -> None:
    knows_them(deployment)
    deployment.start_worker(concurrency=3)
    answers: dict[UUID, CancelStatus] = {}
    hit: Counter[int] = Counter()
    histories: list[SagaHistory] = []
    for round_number in range(10):
        sagas = start(deployment, ERRAND, size * POSITIONS, f"round-{round_number}")
        answers |= cancelled(deployment, {saga: n % POSITIONS + 1 for n, saga in enumerate(sagas)})
        deployment.wait_at_rest(60)
        histories = [each for each in deployment.histories() if each.id in answers]
        hit = Counter(place(each.entries, CancelRequested) - 1 for each in histories)
        if set(range(1, POSITIONS + 1)) <= set(hit):
            break

    measured(f"{len(answers)} cancels, by the position of the log they came at: {dict(hit)}")
    assert set(range(1, POSITIONS + 1)) <= set(hit)
    told = Counter(answered(each, answers[each.id]) for each in histories)
    measured(f"answers and ends: {dict(told)}")
    assert {status for status, _ in told} == set(CancelStatus)
    is_sound(deployment, world, {State.COMPLETED: 1, State.COMPENSATED: 1})


def cancelled(deployment: Deployment, targets: dict[UUID, int]) -> dict[UUID, CancelStatus]:
    """Ask for each saga to be taken back once its log is so long; what was answered."""
    answers = {}
    left = dict(targets)
    while left:
        rows = deployment.client.find(definition="errand", limit=1000)
        lengths = {each.id: each.seq for each in rows if each.id in left}
        for saga, length in lengths.items():
            if length >= left[saga]:
                del left[saga]
                try:
                    answer = deployment.client.cancel(saga, reason="changed my mind", actor="ada")
                except StateConflictError:
                    continue  # it has ended
                answers[saga] = answer.status
    return answers


def answered(saga: SagaHistory, status: CancelStatus) -> tuple[CancelStatus, State]:
    """The answer and the end, once both are what the log asks for."""
    entries = saga.entries
    asked = place(entries, CancelRequested)
    pivot_done = place(entries, StepSucceeded, **PIVOT)
    story = [type(each.entry).__name__ for each in entries]
    if pivot_done:
        assert saga.state is State.COMPLETED, story
        assert place(entries, CancelRefused) > max(asked, pivot_done), story
        assert not place(entries, UnwindingStarted), story
    else:
        assert saga.state is State.COMPENSATED, story
        assert not place(entries, CancelRefused), story
        assert [each.seq for each in begun(entries) if each.seq > asked] == [], story
    if 0 < pivot_done < asked:
        assert status is CancelStatus.REFUSED, story
    match status:
        case CancelStatus.ACCEPTED:
            assert saga.state is State.COMPENSATED, story
        case CancelStatus.REFUSED:
            assert saga.state is State.COMPLETED, story
        case CancelStatus.PENDING:
            assert asked < max(each.seq for each in entries if isinstance(each.entry, Outcome))
    return status, saga.state


@pytest.mark.parametrize("shipped", [True, False])
def test_a_cancel_while_the_pivot_is_claimed_has_the_pivots_answer(
    deployment: Deployment, world: World, shipped: bool
) -> None:
    knows_them(deployment)
    world.says("hold", "ship")
    worker = deployment.start_worker()
    [saga] = start(deployment, ERRAND, 1, "one")
    world.wait_called("ship")

    asked = deployment.client.cancel(saga, reason="perhaps")
    worker.kill()  # and nobody knows whether it left
    deployment.start_worker()
    world.wait_called("ship")
    assert deployment.client.cancel(saga, reason="and now?").status is CancelStatus.PENDING
    world.says("accept" if shipped else "decline", "ship")

    end = deployment.client.wait(saga)
    assert asked.status is CancelStatus.PENDING
    assert end.state is (State.COMPLETED if shipped else State.COMPENSATED)
    assert bool(place(deployment.entries(saga), CancelRefused)) is shipped
    is_sound(deployment, world, {end.state: 1})


def test_abandoned_is_not_cancelled(deployment: Deployment, world: World) -> None:
    knows_them(deployment)
    world.says("busy", "pay")
    deployment.start_worker()
    left, taken_back = start(deployment, ERRAND, 2, "one")
    until(lambda: len(world.calls("pay")) >= 2, what="calls of pay")
    until(lambda: abandoned(deployment, left), what="a moment without an attempt")
    log = deployment.entries(left)
    deployment.client.cancel(taken_back, reason="changed my mind")
    world.relents()
    deployment.wait_at_rest(30)

    assert deployment.client.get(left).state is State.RESOLVED
    assert deployment.client.get(taken_back).state is State.COMPENSATED
    stands = {(each.saga_key, each.step) for each in world.deeds() if each.stands}
    assert stands == {("one-0", "reserve")}
    assert deployment.entries(left) == log
    is_sound(deployment, world, {State.RESOLVED: 1, State.COMPENSATED: 1})


def abandoned(deployment: Deployment, saga: UUID) -> bool:
    try:
        deployment.client.abandon(saga, reason="a test", actor="ada")
    except StateConflictError:
        return False
    return True


# -- deadline --------------------------------------------------------------------------------------


@sizes(90, 600)
def test_a_deadline_at_any_moment_lets_no_step_begin_before_the_pivot(
    deployment: Deployment, world: World, size: int
) -> None:
    knows_them(deployment)
    deployment.variables["sweep_seconds"] = 2  # so that it is the claim that sees the deadline
    workers = deployment.start_workers(2, concurrency=2)
    for number in range(10):  # until the machine is fast enough for one
        start(deployment, URGENT, 3, f"in-time-{number}")
        until(lambda: not deployment.counts()[State.RUNNING], what="those that are alone")
        deployment.wait_at_rest(60)
        if deployment.counts()[State.COMPLETED]:
            break
    for number in range(0, size, 15):  # so that they grow old at different places of their logs
        start(deployment, URGENT, 15, f"wave-{number}")
        time.sleep(0.05)
    workers[0].kill()
    deployment.wait_at_rest(200)

    late: list[str] = []
    ends = Counter(in_time(each, late) for each in deployment.histories())
    assert len(late) <= SLOTS, late
    measured(f"{size} sagas ran out of time: {dict(ends)}")
    assert ends["deadline"] > 0
    assert ends["completed"] > 0
    is_sound(deployment, world, {State.COMPLETED: 1, State.COMPENSATED: 1})


def in_time(saga: SagaHistory, late: list[str]) -> str:
    """How the saga ended, once its log keeps to its deadline; steps that began late are noted."""
    entries = saga.entries
    assert URGENT.deadline is not None
    deadline = entries[0].at + URGENT.deadline + DECISION
    story = [type(each.entry).__name__ for each in entries]
    pivot_done = place(entries, StepSucceeded, **PIVOT)
    first_begun = {each.entry.step: each for each in reversed(begun(entries))}  # type: ignore[union-attr]
    for step, recorded in first_begun.items():
        if step != "mail" and recorded.at > deadline:
            late.append(f"{step} of {saga.key}")
    if pivot_done:
        assert saga.state is State.COMPLETED, story
        return "completed"
    assert saga.state is State.COMPENSATED, story
    turn = next(each.entry for each in entries if isinstance(each.entry, UnwindingStarted))
    return turn.cause


# -- past the pivot --------------------------------------------------------------------------------


def test_past_the_pivot_a_saga_only_repeats_and_then_is_stuck_with_nothing_undone(
    deployment: Deployment, world: World
) -> None:
    knows_them(deployment)
    world.says("hold", "mail")
    worker = deployment.start_worker()
    goes_on, stuck = start(deployment, ERRAND, 2, "one")
    world.wait_called("mail", 2)
    assert deployment.client.cancel(stuck, reason="too late").status is CancelStatus.REFUSED
    worker.kill()
    deployment.start_worker()
    world.wait_called("mail", 2)
    world.says("decline", "mail", key="one-1")
    world.relents("mail", key=ANY)

    assert deployment.client.wait(goes_on).state is State.COMPLETED
    assert deployment.client.wait(stuck).state is State.STUCK
    last = deployment.entries(stuck)[-1].entry
    assert "nothing may be taken back" in getattr(last, "question", "")
    assert deployment.client.cancel(stuck, reason="again").status is CancelStatus.REFUSED
    assert world.calls(direction="compensate") == []
    stands = {(each.saga_key, each.step) for each in world.deeds() if each.stands}
    assert stands >= {("one-1", each) for each in ("reserve", "pay", "ship")}
    is_sound(deployment, world, {State.COMPLETED: 1, State.STUCK: 1})
