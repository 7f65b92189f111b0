"""Steps side by side: they join, and when one fails the saga turns round once, and in order."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from orchestrator.definitions import Definitions
from orchestrator.entries import (
    Direction,
    Outcome,
    Recorded,
    StepStarted,
    StepUnknown,
    UnwindingStarted,
)
from orchestrator.state import State
from recovery.invariants.collect import check, collect
from tests.acceptance.tours import PRICES, TOUR
from tests.chaos.sizes import sizes
from tests.deployment import Deployment, Member, measured
from tests.outside_world import World
from tests.worker_processes import until

STEPS = [each.name for each in TOUR.steps]
BRANCHES = ("flight", "hotel", "car")


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    sagas: int
    kills: int


def knows_it(deployment: Deployment, module: str = "tests.acceptance.tours") -> None:
    deployment.definitions.append(TOUR)
    deployment.variables["sagas"] = module


def start(deployment: Deployment, **payload: Any) -> UUID:
    return deployment.client.start(TOUR, payload, key="tour-1").id


def span(entries: Sequence[Recorded], step: str, direction: str) -> tuple[int, int]:
    """Where in the log the last attempt of a step began and where it ended."""
    began = [
        each.seq
        for each in entries
        if isinstance(each.entry, StepStarted)
        and (each.entry.step, each.entry.direction) == (step, direction)
    ]
    ended = [
        each.seq
        for each in entries
        if isinstance(each.entry, Outcome)
        and (each.entry.step, each.entry.direction) == (step, direction)
    ]
    return began[-1], ended[-1]


def undo_span(entries: Sequence[Recorded], step: str) -> tuple[int, int]:
    return span(entries, step, Direction.COMPENSATE)


def overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def turns(entries: Sequence[Recorded]) -> list[int]:
    return [each.seq for each in entries if isinstance(each.entry, UnwindingStarted)]


def test_branches_run_side_by_side_and_their_results_are_joined(
    deployment: Deployment, world: World
) -> None:
    knows_it(deployment)
    for branch in BRANCHES:
        world.says("hold", branch)
    deployment.start_worker()
    saga_id = start(deployment)
    for branch in BRANCHES:
        world.wait_called(branch)  # all three at the same time
    world.relents()

    assert deployment.client.wait(saga_id).state is State.COMPLETED
    results = deployment.client.results(saga_id)
    assert results["hotel"] == {"place": "hotel of 0", "price": 120}
    assert results["invoice"] == sum(PRICES.values())
    entries = deployment.entries(saga_id)
    spans = [span(entries, each, Direction.FORWARD) for each in STEPS]
    assert spans[-2][0] > max(ended for _, ended in spans[:-2])
    assert deployment.violations({State.COMPLETED: 1}) == []
    assert world.violations(TOUR) == []


def test_a_failed_branch_waits_for_its_siblings_and_then_the_saga_turns_round_once(
    deployment: Deployment, world: World
) -> None:
    knows_it(deployment)
    world.says("hold", "flight")
    world.says("decline", "hotel")
    world.says("hold_after", "car")
    deployment.start_worker(queues="amends")
    garage = deployment.start_worker(queues="garage")
    saga_id = start(deployment)
    for branch in ("flight", "car"):
        world.wait_called(branch)
    until(lambda: "declined" in str(deployment.entries(saga_id)), what="the declined hotel")
    garage.kill()  # it had the car, and told nobody

    until(
        lambda: any(isinstance(each.entry, StepUnknown) for each in deployment.entries(saga_id)),
        what="the unknown car",
    )
    world.relents("car")
    deployment.start_worker(queues="garage")
    until(lambda: deployment.client.results(saga_id).get("car"), seconds=60, what="the car")
    assert turns(deployment.entries(saga_id)) == []  # the flight still runs

    for branch in ("flight", "car"):
        world.says("hold_after", branch, direction="compensate")
    world.relents("flight", direction="forward")
    for branch in ("flight", "car"):
        world.wait_called(branch, direction="compensate")
    world.relents()
    assert deployment.client.wait(saga_id).state is State.COMPENSATED

    entries = deployment.entries(saga_id)
    [turn] = turns(entries)
    assert turn > max(span(entries, each, Direction.FORWARD)[1] for each in BRANCHES)
    assert [each.step for each in world.calls() if each.step in ("seat", "invoice")] == []
    assert overlap(undo_span(entries, "flight"), undo_span(entries, "car"))
    assert undo_span(entries, "draft")[0] > max(undo_span(entries, e)[1] for e in BRANCHES)
    assert deployment.violations({State.COMPENSATED: 1}) == []
    assert world.violations(TOUR) == []


@sizes(Size(sagas=60, kills=2), Size(sagas=500, kills=8))
def test_whatever_fails_and_whoever_is_killed_every_tour_ends_whole(
    deployment: Deployment, world: World, size: Size
) -> None:
    knows_it(deployment)
    workers = deployment.start_workers(2)
    ends = start_tours(deployment, size.sagas)
    for number in range(size.kills):
        wanted = size.sagas * (number + 1) // (size.kills + 2)
        until(lambda: deployment.ended() >= wanted, seconds=120, what=f"{wanted} ends")  # noqa: B023 - at once
        workers.append(replaced(deployment, workers.pop(0)))
    rest = deployment.wait_at_rest(240)

    unknown = Counter(
        each.entry.reason
        for saga in deployment.histories()
        for each in saga.entries
        if isinstance(each.entry, StepUnknown)
    )
    measured(f"{size}: at rest {rest:.1f} s after the last worker came; {dict(unknown)} unknown")
    assert deployment.counts() == ends
    assert deployment.violations(ends) == []
    assert world.violations(TOUR) == []


def start_tours(deployment: Deployment, count: int) -> Counter[State]:
    """Start tours of which every second meets some trouble; how many must end in which state."""
    dice = random.Random(7)  # noqa: S311 - repeatable, not secret
    rows = []
    for number in range(count):
        trouble = {
            "declines": dice.choice([None, None, *STEPS]),
            "loses": dice.choice([None, None, None, *STEPS]),
        }
        rows.append((f"tour-{number}", {"slow_ms": dice.randint(0, 30), **trouble}))
    list(deployment.client.start_many(TOUR, rows))
    return Counter(
        State.COMPENSATED if payload["declines"] else State.COMPLETED for _, payload in rows
    )


def replaced(deployment: Deployment, worker: Member) -> Member:
    """Kill a worker, start another one, and do not wait until the lost messages are missed."""
    worker.kill()
    started = deployment.start_worker()
    deployment.execute("UPDATE amends.attempt SET ring_at = clock_timestamp() WHERE token IS NULL")
    return started


def test_without_waiting_for_siblings_the_judge_notices(
    deployment: Deployment, world: World
) -> None:
    knows_it(deployment, "tests.acceptance.early_unwinding")
    world.says("hold", "flight")
    world.says("decline", "hotel")
    deployment.start_worker()
    start(deployment)

    world.wait_called("flight")
    until(lambda: world.calls("hotel", "compensate"), what="an undo beside the flight")

    evidence = collect(deployment.engine, deployment.judge)
    found = check(evidence, Definitions([TOUR]), at_rest=False)
    assert any(each.invariant == "no undo beside a forward attempt" for each in found), found
