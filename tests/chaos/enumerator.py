"""Runs one checkout many times, failing at each of its durable actions in turn.

A checkout is driven in this process over a real Postgres, a real broker queue and a real gateway
process, one durable action after the other. The seam counts them; then the same checkout runs again
for every action and every way to fail there:

    before      the process dies and the action never happens
    after       the action happens and the process dies
    ambiguous   the action happens and is reported as failed
    stalled     the process stops before the action, others finish the saga, then it goes on

"Dies" is an exception that nothing may catch; what the process held is left to its lease, and a new
process with a new owner goes on from the rows. Then the invariants are judged.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

import redis
import sqlalchemy
from celery import Celery

from orchestrator.client import SagaClient
from orchestrator.definition import SagaDefinition
from orchestrator.definitions import Definitions
from orchestrator.doorbell import DoorbellError
from orchestrator.errors import LogUnavailableError
from orchestrator.seam import intercepted
from orchestrator.storage.database import Database
from orchestrator.storage.reads import SagaSummary
from orchestrator.storage.rows import AttemptId
from recovery.sweeper import Sweeper
from steps.gateways.errors import GatewayTimeoutError
from steps.gateways.sandbox.judge import SandboxJudge
from workers.bootstrap import build_coordinator
from workers.hand_off import CeleryDoorbell
from workers.settings import Settings

T = TypeVar("T")

LEASE_SECONDS = 0.3
RING_PATIENCE_SECONDS = 0.2
END_SECONDS = 90.0

MODES = ("before", "after", "ambiguous", "stalled")


class Died(BaseException):
    """The process is gone: nothing may catch this but the enumerator."""


@dataclass(slots=True)
class Fault:
    """Counts durable actions and fails at the `at`-th (from 0) in one `mode`.

    `resume` lets a stalled action go on; `is_stalled` tells that it waits.
    """

    at: int | None = None
    mode: str = "before"
    names: list[str] = field(default_factory=list)
    is_stalled: threading.Event = field(default_factory=threading.Event)
    resume: threading.Event = field(default_factory=threading.Event)

    def __call__(self, name: str, action: Callable[[], T]) -> T:
        index = len(self.names)
        self.names.append(name)
        if index != self.at:
            return action()
        match self.mode:
            case "before":
                raise Died(name)
            case "after":
                _whatever_it_says(action)
                raise Died(name)
            case "ambiguous":
                _whatever_it_says(action)
                raise _reported_failure(name)
            case _:
                self.is_stalled.set()
                assert self.resume.wait(END_SECONDS), "a stalled action was never resumed"
                return action()


def _whatever_it_says(action: Callable[[], Any]) -> None:
    try:
        action()
    except Exception:  # noqa: BLE001 - the process dies before it could read the answer
        return


def _reported_failure(name: str) -> Exception:
    """What the library in use raises when an action's answer is lost."""
    if name.startswith(("gateway.", "carrier.")):
        return GatewayTimeoutError("the answer was lost")
    if name == "ring.publish":
        return DoorbellError("the answer was lost")
    return LogUnavailableError("the answer was lost")


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The servers one run stands on."""

    engine: sqlalchemy.Engine
    app: Celery
    broker: redis.Redis
    queue_keys: tuple[str, ...]
    judge: SandboxJudge
    settings: Settings
    definition: SagaDefinition[Any]
    in_place: bool = True


class Process:
    """A worker process with its sweeper, played in a thread of this one."""

    def __init__(self, world: World, owner: str) -> None:
        self._world = world
        database = Database(world.engine)
        self.coordinator = build_coordinator(
            world.settings,
            database=database,
            doorbell=CeleryDoorbell(world.app),
            definitions=Definitions([world.definition]),
            owner=lambda: owner,
        )
        self.sweeper = Sweeper(
            self.coordinator, database, ring_patience_seconds=RING_PATIENCE_SECONDS
        )

    def answer_one_message(self) -> bool:
        """Take a message off the queue and do what it asks; False when the queue is empty."""
        attempt = _pop(self._world)
        if attempt is None:
            return False
        claim = self.coordinator.claim(attempt)
        while claim is not None:
            claim = self.coordinator.execute(claim, lambda _: self._world.in_place)
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One run: the fault, the durable actions it saw, and the saga it left."""

    fault: Fault
    saga: SagaSummary


def run_checkout(world: World, key: str, payload: dict[str, Any], fault: Fault) -> Outcome:
    """Run one checkout to its end through `fault` and whatever recovery that needs."""
    with intercepted(fault):
        if fault.mode == "stalled" and fault.at is not None:
            saga_id = _run_beside_a_stalled_process(world, key, payload, fault)
        else:
            saga_id = _started(world, key, payload)
            _drive(world, saga_id, "process")
    return Outcome(fault=fault, saga=SagaClient(world.engine).get(saga_id))


def _run_beside_a_stalled_process(
    world: World, key: str, payload: dict[str, Any], fault: Fault
) -> UUID:
    """One process stops at the fault; another takes over and ends the saga; the first goes on."""
    found: list[UUID] = []
    errors: list[BaseException] = []

    def first() -> None:
        try:
            found.append(_started(world, key, payload))
            _drive(world, found[0], "first", unless=fault.is_stalled)
        except BaseException as error:  # noqa: BLE001 - handed to the test's thread
            errors.append(error)

    thread = threading.Thread(target=first, name="first", daemon=True)
    thread.start()
    while thread.is_alive() and not fault.is_stalled.wait(0.01):
        pass
    if fault.is_stalled.is_set():
        saga_id = _started(world, key, payload)
        _drive(world, saga_id, "second")
        fault.resume.set()
    thread.join(END_SECONDS)
    assert not thread.is_alive(), "the stalled process did not end"
    if errors:
        raise errors[0]
    saga_id = _started(world, key, payload)
    _drive(world, saga_id, "third")
    return saga_id


def _started(world: World, key: str, payload: dict[str, Any]) -> UUID:
    """Start as a caller would: again with the same key until an answer comes back."""
    while True:
        try:
            client = SagaClient(world.engine, CeleryDoorbell(world.app))
            return client.start(world.definition, payload, key=key).id
        except (Died, LogUnavailableError):
            continue


def _drive(world: World, saga_id: UUID, owner: str, unless: threading.Event | None = None) -> None:
    """Answer messages, and sweep when there are none, until the saga is at rest."""
    lives = 1
    process = Process(world, f"{owner}-{lives}")
    client = SagaClient(world.engine)
    until = time.monotonic() + END_SECONDS
    while time.monotonic() < until:
        try:
            if process.answer_one_message():
                continue
            saga = client.get(saga_id)
            if saga.is_terminal or saga.is_parked:
                return
            process.sweeper.run_once()
        except Died:
            lives += 1
            process = Process(world, f"{owner}-{lives}")
        except LogUnavailableError:
            continue
        if unless is not None and unless.is_set():
            return
    raise AssertionError(f"saga {saga_id} is {client.get(saga_id)} after {END_SECONDS} s")


def _pop(world: World) -> AttemptId | None:
    """Take a message off the broker as a worker that forgets what it popped would."""
    for key in world.queue_keys:
        raw: Any = world.broker.rpop(key)
        if raw is not None:
            return _attempt_of(json.loads(raw))
    return None


def _attempt_of(message: dict[str, Any]) -> AttemptId:
    _, kwargs, _ = json.loads(base64.b64decode(message["body"]))
    _, step, *undo = message["headers"]["task"].split(".")
    return AttemptId(
        saga_id=UUID(kwargs["saga_id"]),
        step=step,
        direction="compensate" if undo else "forward",
        number=kwargs["attempt"],
    )


@dataclass(slots=True)
class Counts:
    """What the outside saw during a run."""

    commits: int = 0
    requests: int = 0
    publishes: int = 0


@contextmanager
def counted_outside(world: World) -> Iterator[Counts]:
    """Count write transactions, gateway requests and published messages while the block runs."""
    counts = Counts()
    before = _readings(world)
    yield counts
    after = _readings(world)
    counts.commits, counts.requests, counts.publishes = (
        now - then for now, then in zip(after, before, strict=True)
    )


def _readings(world: World) -> tuple[int, int, int]:
    with world.engine.connect() as connection:
        xid = connection.exec_driver_sql("SELECT pg_snapshot_xmax(pg_current_snapshot())").scalar()
    requests = sum(1 for _ in world.judge.requests())
    stats: Any = world.broker.info("commandstats")
    publishes = stats.get("cmdstat_lpush", {}).get("calls", 0)
    return int(str(xid)), requests, publishes
