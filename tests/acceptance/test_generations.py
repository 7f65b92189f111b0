"""Sagas that start sagas: what befalls one generation reaches the others through killed workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from uuid import UUID

import pytest
import sqlalchemy

from orchestrator.client import SagaClient
from orchestrator.definitions import Definitions
from orchestrator.entries import SagaParked, SagaUnparked
from orchestrator.installation import Installation
from orchestrator.mover import Mover
from orchestrator.state import State
from orchestrator.storage.database import Database
from orchestrator.storage.saga_log import SagaLog
from orchestrator.storage.set_aside import SetAside
from orchestrator.storage.signals import Signals
from orchestrator.storage.tombstones import Tombstones
from orchestrator.troubles import Troubles
from tests.acceptance.parcels import BOX, ORDER, PARCEL
from tests.deployment import Deployment, Member
from tests.outside_world import World
from tests.worker_processes import until

DEFINITIONS = Definitions([ORDER, PARCEL, BOX])
END_WORKERS_SESSIONS = """
    SELECT pg_terminate_backend(pid, 9000) FROM pg_stat_activity
    WHERE application_name = 'amends worker' AND datname = current_database()"""
RING_NOW = "UPDATE amends.attempt SET ring_at = clock_timestamp() WHERE token IS NULL"


@pytest.fixture
def family(deployment: Deployment, world: World) -> Deployment:
    """A deployment whose client and workers know all three generations."""
    deployment.definitions += [ORDER, PARCEL, BOX]
    deployment.variables["sagas"] = "tests.acceptance.parcels"
    deployment.client = SagaClient(deployment.engine, deployment.doorbell, definitions=DEFINITIONS)
    return deployment


def start(family: Deployment, key: str = "order-1", **payload: object) -> UUID:
    return family.client.start(ORDER, payload, key=key).id


def child(family: Deployment, parent: UUID, step: str) -> UUID:
    found = until(lambda: family.client.child_of(parent, step), what=f"the {step}")
    assert found is not None
    return found.id


def generations(family: Deployment, order: UUID) -> list[UUID]:
    parcel = child(family, order, "parcel")
    return [order, parcel, child(family, parcel, "box")]


def states(family: Deployment, sagas: list[UUID]) -> list[State]:
    return [family.client.get(each).state for each in sagas]


def wait_states(family: Deployment, sagas: list[UUID], state: State) -> None:
    until(lambda: set(states(family, sagas)) == {state}, seconds=90, what=f"{state} for all")


def wait_waiting(family: Deployment, order: UUID) -> list[UUID]:
    """The three, once the box waits to be picked up and the others for it."""
    sagas = generations(family, order)
    wait_states(family, sagas, State.WAITING)
    return sagas


def replace(family: Deployment, worker: Member) -> Member:
    """Kill a worker, start another one, and do not wait until the lost messages are missed."""
    worker.kill()
    started = family.start_worker()
    family.execute(RING_NOW)
    return started


@contextmanager
def locked(family: Deployment, saga_id: UUID) -> Iterator[None]:
    """Keep everybody from moving a saga, but not from starting a child of it."""
    statement = sqlalchemy.text("SELECT 1 FROM amends.saga WHERE id = :id FOR SHARE")
    with family.engine.connect() as connection, connection.begin():
        connection.execute(statement, {"id": saga_id})
        yield


def undone_in_order(world: World, *steps: str) -> bool:
    undone = {each.step: each.undone_at for each in world.deeds()}
    moments = [undone[each] for each in steps]
    return None not in moments and moments == sorted(moments)  # type: ignore[type-var]


def test_a_cancel_reaches_all_generations_through_killed_workers(
    family: Deployment, world: World
) -> None:
    world.says("hold", "parcel")
    worker = family.start_worker()
    order = start(family)
    world.wait_called("parcel")
    with locked(family, order):  # the child is started, and nobody can record it
        world.relents()
        child(family, order, "parcel")
        worker.kill()
        family.execute(END_WORKERS_SESSIONS)  # what it had sent is not recorded after its death
    worker = replace(family, worker)
    sagas = wait_waiting(family, order)
    assert "StepUnknown" in kinds(family, order)

    world.says("hold_after", "pack", direction="compensate")
    family.client.cancel(order, reason="changed my mind")
    world.wait_called("pack", direction="compensate")
    replace(family, worker)
    world.relents()

    wait_states(family, sagas, State.COMPENSATED)
    assert len(family.histories()) == 3
    assert undone_in_order(world, "pack", "label", "pay")
    is_sound(family, world, State.COMPENSATED)


def test_a_failure_after_a_completed_child_takes_it_back_through_killed_workers(
    family: Deployment, world: World
) -> None:
    worker = family.start_worker()
    order = start(family, declines="thank")
    sagas = wait_waiting(family, order)
    for step in ("label", "pay"):
        world.says("hold", step, direction="compensate")
    family.client.signal(sagas[2], "picked_up", dedup_id="van 7")

    for step in ("label", "pay"):
        world.wait_called(step, direction="compensate")
        worker = replace(family, worker)
        world.relents(step)

    wait_states(family, sagas, State.COMPENSATED)
    assert ["SagaCompleted" in kinds(family, each) for each in sagas] == [False, True, True]
    assert undone_in_order(world, "pack", "label", "pay")
    is_sound(family, world, State.COMPENSATED)


def test_a_parked_grandchild_parks_all_and_all_go_on_when_it_is_answered(
    family: Deployment, world: World
) -> None:
    world.says("lose", "pack")
    worker = family.start_worker()
    order = start(family)
    sagas = generations(family, order)
    wait_states(family, sagas, State.STUCK)
    for parent, parked in pairwise(sagas):
        assert str(parked) in question(family, parent)
    worker = replace(family, worker)
    world.relents()

    operator_retries(family, sagas[2], "pack")

    wait_states(family, sagas, State.WAITING)
    family.client.signal(sagas[2], "picked_up", dedup_id="van 7")
    wait_states(family, sagas, State.COMPLETED)
    is_sound(family, world, State.COMPLETED)


def test_a_grandchild_that_cannot_be_undone_parks_all_and_all_go_on_when_it_is_answered(
    family: Deployment, world: World
) -> None:
    worker = family.start_worker()
    order = start(family)
    sagas = wait_waiting(family, order)
    world.says("decline", "pack", direction="compensate")
    family.client.cancel(order, reason="changed my mind")
    wait_states(family, sagas, State.FAILED_COMPENSATION)
    for parent, parked in pairwise(sagas):
        assert str(parked) in question(family, parent)
    assert not undone_in_order(world, "pay")
    replace(family, worker)
    world.relents()

    operator_retries(family, sagas[2], "pack")

    wait_states(family, sagas, State.COMPENSATED)
    assert undone_in_order(world, "pack", "label", "pay")
    is_sound(family, world, State.COMPENSATED)


def kinds(family: Deployment, saga_id: UUID) -> list[str]:
    return [type(each.entry).__name__ for each in family.entries(saga_id)]


def question(family: Deployment, saga_id: UUID) -> str:
    found = (each.entry for each in reversed(family.entries(saga_id)))
    return next(each.question for each in found if isinstance(each, SagaParked))


def operator_retries(family: Deployment, saga_id: UUID, step: str) -> None:
    """Write what the operator's verb writes."""
    database = Database(family.engine)
    mover = Mover(
        SagaLog(database),
        Signals(database),
        Tombstones(database),
        DEFINITIONS,
        family.doorbell,
        Troubles(SetAside(database)),
        Installation(database),
    )
    mover.add(saga_id, SagaUnparked(by="ada", fresh=[step]), unless=lambda _, __: False)


def is_sound(family: Deployment, world: World, state: State) -> None:
    assert family.violations({state: 3}) == []
    assert world.violations(ORDER, PARCEL, BOX) == []
