"""A deployment for tests: servers, gateway, workers, beat and sweepers, all of them real processes.

Every process that a test starts is a `Member` with a process group of its own, so that a signal can
hit one child, one worker with its children, or nobody else. All of them end with the test.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, cast
from uuid import UUID

import psutil
import pytest
import redis
from kombu.transport.redis import Channel

from orchestrator.client import NotStarted, SagaClient
from orchestrator.definition import SagaDefinition
from orchestrator.definitions import Definitions
from orchestrator.entries import (
    Outcome,
    Recorded,
    StepFailed,
    StepStarted,
    StepUnknown,
    UnknownReason,
)
from orchestrator.errors import LogUnavailableError
from orchestrator.state import PARKED, TERMINAL, State
from orchestrator.storage.database import Database, create_engine
from orchestrator.storage.histories import Histories, SagaHistory
from orchestrator.storage.reads import Reads
from recovery.invariants.collect import check, collect
from recovery.isolation import child_environment
from steps.checkout import checkout
from steps.gateways.sandbox.judge import SandboxJudge
from steps.gateways.sandbox.process import SandboxProcess
from steps.storage.stock import restock
from tests.forkserver import ForkedProcess
from tests.worker_processes import until
from workers.bootstrap import build_doorbell
from workers.broker import NEW
from workers.local_servers.running_servers import RunningServers
from workers.settings import Settings

QUEUE = "amends:amends"
"""The broker's list of the default queue."""

READY_SECONDS = 60.0


class Member:
    """One process of a deployment with all its children, and their common log."""

    def __init__(
        self, name: str, command: Sequence[str], *, environment: Mapping[str, str], log: Path
    ) -> None:
        self.name = name
        self.log_path = log
        python, minus_m, *arguments = command
        assert (python, minus_m) == (sys.executable, "-m"), command
        self._process = ForkedProcess(arguments, environment=environment, cwd=log.parent, log=log)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def memory(self) -> dict[int, int]:
        """Resident bytes of the process and of each of its children, by process id."""
        family = [psutil.Process(self.pid), *self._family()]
        return {each.pid: int(each.memory_info().rss) for each in family}

    def events(self, name: str) -> list[dict[str, Any]]:
        """The lines of its log about one kind of event."""
        found = []
        for line in self.log.splitlines():
            if f'"event": "{name}"' in line:
                with suppress(ValueError):
                    found.append(json.loads(line))
        return found

    def owns(self, pid: int) -> bool:
        """Whether a process is this one or a child of it."""
        try:
            return os.getpgid(pid) == self.pid
        except ProcessLookupError:
            return False

    def wait_ready(self) -> Member:
        """Return once it says that it takes messages."""
        until(
            lambda: " ready." in self.log or not self.is_alive,
            seconds=READY_SECONDS,
            what=f"readiness of {self.name}",
        )
        assert self.is_alive, self.log
        return self

    def terminate(self) -> None:
        """Ask the process itself to end, as a supervisor does."""
        self._process.terminate()

    def signal(self, number: int) -> None:
        """Signal the process and all its children."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def wait_end(self, seconds: float = 60.0) -> int:
        """Return its exit code."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self.name} did not end within {seconds:g} s:\n{self.log[-4000:]}")

    def kill(self) -> float:
        """End it with all its children as ``kill -9`` does; return the moment."""
        at = time.time()
        family = self._family()
        self.signal(signal.SIGKILL)
        self._process.wait(60)
        psutil.wait_procs(family, timeout=60)
        return at

    def _family(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds an attempt now: the process named in its row as ``host/nonce/pid``."""

    saga_id: UUID
    step: str
    direction: str
    number: int
    owner: str

    @property
    def pid(self) -> int:
        return int(self.owner.rpartition("/")[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """An attempt whose process died: seconds until that was recorded, and until it went on."""

    key: str
    step: str
    given_up_after: float
    went_on_after: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A checkout's payload and the state it must end in."""

    payload: Mapping[str, Any]
    ends: State

    @property
    def key(self) -> str:
        return str(self.payload["order_id"])


class Deployment:
    """One database, one broker, one gateway, and whatever processes a test starts on them.

    `variables` are settings, by their ``AMENDS_*`` names in lower case, of the processes that are
    started from then on.
    """

    def __init__(self, settings: Settings, directory: Path, gateway: SandboxProcess) -> None:
        assert settings.broker_url is not None
        self.settings = settings
        self.members: list[Member] = []
        self.variables: dict[str, Any] = {
            "database_url": settings.require_database_url(),
            "broker_url": settings.broker_url,
            "gateway_url": gateway.base_url,
            "log_format": "json",
            "log_level": "info",
            "grace_seconds": 5,
        }
        self.engine = create_engine(settings.require_database_url(), pool_size=4)
        self.judge = SandboxJudge(gateway.base_url)
        self.broker = redis.Redis.from_url(settings.broker_url)
        self.definitions: list[SagaDefinition[Any]] = [checkout]
        self.doorbell = build_doorbell(settings)
        self.client = SagaClient(self.engine, self.doorbell)
        self._directory = directory
        restock(self.engine, "cd", 10_000_000)

    # -- processes ---------------------------------------------------------------------------------

    def start_worker(
        self,
        *,
        pool: str = "threads",
        concurrency: int = 4,
        is_ready: bool = True,
        **variables: object,
    ) -> Member:
        """Start ``amends worker``, and wait until it takes messages if `is_ready`."""
        command = ["-m", "recovery.cli", "worker", "-P", pool, "-c", str(concurrency)]
        number = 1 + sum(each.name.startswith("worker") for each in self.members)
        worker = self.start(f"worker-{number}", [*command, "-n", f"w{number}@%h"], **variables)
        return worker.wait_ready() if is_ready else worker

    def start_workers(self, count: int, **choices: Any) -> list[Member]:
        """Start several workers at once and return when all take messages."""
        started = [self.start_worker(is_ready=False, **choices) for _ in range(count)]
        return [each.wait_ready() for each in started]

    def start_beat(self) -> Member:
        """Start ``celery -A workers beat``."""
        command = ["-m", "celery", "-A", "workers", "beat", "-s", "beat", "--pidfile="]
        beat = self.start("beat", command)
        until(lambda: "beat: Starting" in beat.log, seconds=READY_SECONDS, what="beat")
        return beat

    def start_sweeper(self, interval_seconds: float) -> Member:
        """Start ``amends sweep --interval``."""
        command = ["-m", "recovery.cli", "sweep", "--interval", str(interval_seconds)]
        return self.start("sweeper", command)

    def start(self, name: str, arguments: Sequence[str], **variables: object) -> Member:
        """Start a process of this interpreter with the deployment's settings."""
        known = {each: v for each, v in os.environ.items() if not each.startswith("AMENDS_")}
        chosen = self.variables | variables
        known |= {f"AMENDS_{each.upper()}": str(value) for each, value in chosen.items()}
        known["PYTHONWARNINGS"] = "ignore"
        log = self._directory / f"{len(self.members):02}-{name}.log"
        member = Member(
            name, [sys.executable, *arguments], environment=child_environment(known), log=log
        )
        self.members.append(member)
        return member

    def member_of(self, pid: int) -> Member:
        """The member that a process belongs to."""
        return next(each for each in self.members if each.owns(pid))

    def close(self) -> None:
        """End every process and connection."""
        for each in self.members:
            each.signal(signal.SIGCONT)
            each.kill()
        self.judge.close()
        self.broker.close()
        self.engine.dispose()

    # -- work --------------------------------------------------------------------------------------

    def start_orders(self, orders: Iterable[Order]) -> list[UUID]:
        """Start a checkout for each order; the ids in their order."""
        rows = ((each.key, each.payload) for each in orders)
        return [_id(each) for each in self.client.start_many(checkout, rows)]

    def start_held(self, count: int, *, prefix: str, operation: str = "authorize") -> list[UUID]:
        """Start checkouts whose first call to `operation` has its effect and gets no answer."""
        plain = [
            Order(payload=payload(f"{prefix}-{n}"), ends=State.COMPLETED) for n in range(count)
        ]
        for each in plain:
            self.judge.script("hold_after", operation=operation, order_reference=each.key)
        return self.start_orders(plain)

    def release_held(self) -> None:
        """Answer what is held, and hold nothing that comes later: a lost message comes late."""
        self.judge.clear_faults()
        self.judge.release()

    def counts(self) -> Counter[State]:
        """How many sagas are in which state; empty while Postgres does not answer."""
        try:
            found = Reads(Database(self.engine)).counts()
        except LogUnavailableError:
            return Counter()
        return sum((Counter(each) for each in found.values()), Counter())

    def ended(self) -> int:
        """How many sagas have ended."""
        return sum(count for state, count in self.counts().items() if state in TERMINAL)

    def is_at_rest(self) -> bool:
        """Whether every saga has ended or is parked, and no request is open at the gateway."""
        counts = self.counts()
        moving = [state for state in counts if state not in TERMINAL | PARKED]
        return bool(counts) and not moving and not self.judge.open_requests()

    def wait_at_rest(self, seconds: float) -> float:
        """Return once everything is at rest, and how many seconds that took."""
        began = time.monotonic()
        try:
            until(self.is_at_rest, seconds=seconds, what="rest")
        except pytest.fail.Exception:
            logs = "\n".join(f"{each.name}: {each.log[-1500:]}" for each in self.members)
            pytest.fail(f"not at rest after {seconds:g} s: {dict(self.counts())}\n{logs}")
        return time.monotonic() - began

    def knowing_client(self) -> SagaClient:
        """A client that has the definitions, so that it can decide what a fact leads to."""
        return SagaClient(self.engine, self.doorbell, definitions=Definitions(self.definitions))

    # -- looking -----------------------------------------------------------------------------------

    def holders(self) -> list[Holder]:
        """Who holds which attempts now."""
        rows = Database(self.engine).run(
            "SELECT saga_id, step, direction, number, owner FROM amends.attempt "
            "WHERE token IS NOT NULL AND owner IS NOT NULL",
            {},
        )
        names = ("saga_id", "step", "direction", "number", "owner")
        return [Holder(**dict(zip(names, row, strict=True))) for row in rows]

    def wait_held(self, count: int, *, seconds: float = 60.0) -> list[Holder]:
        """Return the living holders of outside steps once so many of their requests are open."""
        outside = ("authorize_payment", "capture_payment", "create_shipment")

        def look() -> list[Holder]:
            living = [
                each
                for each in self.holders()
                if each.step in outside and psutil.pid_exists(each.pid)
            ]
            is_open = min(len(living), len(self.judge.open_requests())) >= count
            return living if is_open else []

        return until(look, seconds=seconds, what=f"{count} open requests")

    def histories(self) -> list[SagaHistory]:
        """Every saga with its whole log."""
        return list(Histories(Database(self.engine)).all())

    def entries(self, saga_id: UUID) -> list[Recorded]:
        """One saga's log."""
        return self.client._log.entries(saga_id)

    def queue_length(self) -> int:
        """How many messages wait in the default queue."""
        lists = [QUEUE, f"{QUEUE}{Channel.sep}{NEW}"]
        return sum(int(cast("Any", self.broker.llen(each))) for each in lists)

    def execute(self, statement: str) -> None:
        """Change the database behind everybody's back, so that a test need not wait for hours."""
        with self.engine.begin() as connection:
            connection.exec_driver_sql(statement)

    def violations(self, at_least: Mapping[State, int]) -> list[str]:
        """What the invariants find once everything is at rest."""
        evidence = collect(self.engine, self.judge)
        found = check(evidence, Definitions(self.definitions), at_least=at_least)
        return [str(each) for each in found]

    def recoveries(self, pids: Iterable[int], killed_at: float) -> list[Recovery]:
        """What became of the attempts that these processes held when they were killed."""
        dead = {str(each) for each in pids}
        return [
            recovery for saga in self.histories() for recovery in _recoveries(saga, dead, killed_at)
        ]


def _recoveries(saga: SagaHistory, dead: set[str], killed_at: float) -> Iterator[Recovery]:
    for recorded in saga.entries:
        start = recorded.entry
        if not isinstance(start, StepStarted):
            continue
        # By owner, not by time: a commit under way at the kill lands after it.
        if start.owner.rpartition("/")[2] not in dead:
            continue
        given_up: float | None = None
        went_on: float | None = None
        for later in saga.entries[recorded.seq :]:
            entry = later.entry
            if not isinstance(entry, Outcome | StepStarted):
                continue
            if (entry.step, entry.direction) != (start.step, start.direction):
                continue
            after = later.at.timestamp() - killed_at
            if isinstance(entry, StepStarted):
                went_on = after
                break
            if entry.attempt == start.attempt and _says_it_was_lost(entry):
                given_up = after
        if given_up is not None:
            yield Recovery(
                key=saga.key, step=start.step, given_up_after=given_up, went_on_after=went_on
            )


def _says_it_was_lost(outcome: Outcome) -> bool:
    """Whether others recorded it for a process that could not any more."""
    lost = (UnknownReason.CRASHED, UnknownReason.LEASE_LOST)
    return (isinstance(outcome, StepUnknown) and outcome.reason in lost) or (
        isinstance(outcome, StepFailed) and outcome.crashed
    )


def _id(answer: Any) -> UUID:
    assert not isinstance(answer, NotStarted), answer
    found: UUID = answer.id
    return found


def payload(order_id: str, **changes: Any) -> dict[str, Any]:
    """One order of one CD that nothing is wrong with, but for `changes`."""
    return {
        "order_id": order_id,
        "customer_id": "customer-1",
        "units": 1,
        "amount_minor": 1_990,
        "currency": "EUR",
        "payment_method": "tok_ok",
    } | changes


_KINDS: tuple[tuple[int, State, dict[str, Any]], ...] = (
    (75, State.COMPLETED, {}),
    (6, State.COMPLETED, {"amount_minor": 0, "payment_method": None}),
    (8, State.COMPENSATED, {"payment_method": "tok_declined"}),
    (5, State.COMPENSATED, {"payment_method": "tok_insufficient_funds"}),
    (6, State.COMPENSATED, {"amount_minor": 9_000_000}),  # blocked as fraud
)


def mixed(count: int, *, seed: int = 1, prefix: str = "order") -> list[Order]:
    """Orders of every sort, the same ones for the same seed; the first is declined."""
    dice = random.Random(seed)  # noqa: S311 - repeatable, not secret
    chosen = dice.choices(_KINDS, [each[0] for each in _KINDS], k=count - 1)
    orders = []
    for number, (_, ends, changes) in enumerate([_KINDS[2], *chosen]):
        amount = {"amount_minor": dice.randint(500, 9_900), "units": dice.randint(1, 3)}
        order = payload(f"{prefix}-{number}", **(amount | changes))
        orders.append(Order(payload=order, ends=ends))
    return orders


def expected(*batches: Sequence[Order]) -> Counter[State]:
    """How many sagas must end in which state."""
    return Counter(each.ends for batch in batches for each in batch)


def spread(seconds: Iterable[float | None]) -> str:
    """The shortest, the middle and the longest of some durations."""
    known = sorted(each for each in seconds if each is not None)
    if not known:
        return "none"
    return f"{known[0]:.2f}/{median(known):.2f}/{known[-1]:.2f} s (min/median/max of {len(known)})"


def measured(text: str) -> None:
    """Print a figure that a run has measured."""
    print(f"\nmeasured: {text}")


def measured_recoveries(what: str, recoveries: Sequence[Recovery]) -> None:
    """Print how long interrupted attempts took to be given up and to go on."""
    given_up = spread(each.given_up_after for each in recoveries)
    went_on = spread(each.went_on_after for each in recoveries)
    measured(f"{what}: given up after {given_up}, went on after {went_on}")


@pytest.fixture
def deployment(
    database: str, broker_url: str, servers: RunningServers, tmp_path: Path
) -> Iterator[Deployment]:
    settings = Settings.load(database_url=database, broker_url=broker_url)
    with SandboxProcess.start(tmp_path / "ledger.sqlite") as gateway:
        deployed = Deployment(settings, tmp_path, gateway)
        yield deployed
        servers.valkey.start()
        servers.postgres.start()
        deployed.close()
