"""What a sweep costs must not depend on how many sagas wait."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple
from uuid import UUID

import pytest

from orchestrator.client import SagaClient
from orchestrator.definitions import Definitions
from orchestrator.doorbell import SilentDoorbell
from orchestrator.state import State
from orchestrator.storage.database import Database, create_engine
from recovery.alerts.notifier import Notifier
from recovery.sweep_loop import SweepLoop
from recovery.sweeper import Sweeper
from tests.acceptance.approvals import PATIENT
from tests.chaos.sizes import sizes
from tests.deployment import Deployment, measured
from tests.outside_world import World
from tests.servers import Databases
from tests.worker_processes import until
from workers.bootstrap import build_coordinator
from workers.settings import Settings

FEW = 100
ROUNDS = 9
SWEEPS = 40
BOUND = 1.2

# What a worker has written of one saga is written of all others that were started.
AS_THE_FIRST = """
WITH first AS (SELECT * FROM amends.saga WHERE id = %(first)s), others AS (
    UPDATE amends.saga s SET seq = first.seq, state = first.state, due_at = first.due_at,
        step = first.step, direction = first.direction, attempt = first.attempt
    FROM first WHERE s.id <> first.id
    RETURNING s.id
), begun AS (
    DELETE FROM amends.attempt
)
INSERT INTO amends.saga_log (saga_id, seq, kind, data)
SELECT others.id, l.seq, l.kind, l.data FROM others, amends.saga_log l
WHERE l.saga_id = %(first)s AND l.seq > 1
"""

UNLIKE_THE_FIRST = """
SELECT count(*) FROM amends.saga s, amends.saga first WHERE first.id = %(first)s
    AND to_jsonb(s) - %(own)s::text[] <> to_jsonb(first) - %(own)s::text[]
"""
OWN = ["id", "key", "fingerprint", "attributes", "created_at", "updated_at"]


class Cost(NamedTuple):
    """What some sweeps took: seconds on the wall, and of CPU here and in Postgres."""

    wall: float
    cpu: float


class Sweeping:
    """Everything that a sweeper's process does, on one connection, once a call."""

    def __init__(self, url: str) -> None:
        self.engine = create_engine(url, pool_size=1)
        database = Database(self.engine)
        settings = Settings.load(database_url=url)
        definitions = Definitions([PATIENT])
        coordinator = build_coordinator(
            settings,
            database=database,
            doorbell=SilentDoorbell(),
            definitions=definitions,
            owner=lambda: "sweeper",
        )
        self._notifier = Notifier.of(settings, database)
        self._loop = SweepLoop(
            Sweeper(coordinator, database),
            database,
            definitions=definitions,
            interval_seconds=0,
            on_report=lambda report: self._reports.append(report.is_quiet),
        )
        self._reports: list[bool] = []
        [(self._backend,)] = database.run("SELECT pg_backend_pid()", {})

    def costs(self, sweeps: int) -> Cost:
        """What so many sweeps cost that had nothing to do."""
        self._reports.clear()
        wall, cpu = time.perf_counter(), self._cpu()
        for _ in range(sweeps):
            self._loop.tick()
            self._notifier.run_once()
        cost = Cost(time.perf_counter() - wall, self._cpu() - cpu)
        assert self._reports == [True] * sweeps
        return cost

    def _cpu(self) -> float:
        in_postgres = Path(f"/proc/{self._backend}/schedstat").read_text().split()[0]
        return time.process_time() + int(in_postgres) / 1e9


@pytest.fixture
def few(databases: Databases) -> Iterator[str]:
    url = databases.create()
    yield url
    databases.drop(url)


def bring_to_waiting(url: str, first: UUID, count: int) -> None:
    """Start sagas in bulk, and have all of them wait as the first one does."""
    engine = create_engine(url)
    rows = ((f"patient-{number}", {"number": number}) for number in range(1, count))
    list(SagaClient(engine).start_many(PATIENT, rows))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("SET statement_timeout = 0")
        connection.exec_driver_sql(AS_THE_FIRST, {"first": first})
        [(unlike,)] = connection.exec_driver_sql(UNLIKE_THE_FIRST, {"first": first, "own": OWN})
        assert unlike == 0
        for table in ("saga", "saga_log", "attempt", "signal", "process", "alert"):
            connection.exec_driver_sql(f"VACUUM ANALYZE amends.{table}")  # as autovacuum does
    engine.dispose()


def first_waiting(deployment: Deployment, url: str) -> UUID:
    """One saga of that database, brought to waiting by a real worker, which then ends."""
    engine = create_engine(url)
    client = SagaClient(engine)
    saga_id = client.start(PATIENT, {"number": 0}, key="patient-0").id
    worker = deployment.start_worker(database_url=url)
    until(lambda: client.get(saga_id).state is State.WAITING, what="a waiting saga")
    worker.kill()
    engine.dispose()
    return saga_id


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the kernel tells no CPU")
@sizes(10_000, 100_000)
def test_a_sweep_costs_the_same_however_many_sagas_wait(
    deployment: Deployment, world: World, few: str, size: int
) -> None:
    deployment.variables["sagas"] = "tests.acceptance.approvals"
    many = deployment.variables["database_url"]
    for url, count in ((few, FEW), (many, size)):
        bring_to_waiting(url, first_waiting(deployment, url), count)
    sides = {FEW: Sweeping(few), size: Sweeping(many)}
    for each in sides.values():
        each.costs(SWEEPS)  # until Postgres has prepared its statements

    for _ in range(5):  # what else the machine does may fall on one side
        ratio = _ratio(sides, size)
        if max(ratio.wall, ratio.cpu) <= BOUND:
            break
    else:
        pytest.fail("beside many sagas a sweep always cost more")
    for each in sides.values():
        each.engine.dispose()
    _goes_on(deployment)


def _ratio(sides: dict[int, Sweeping], size: int) -> Cost:
    """How many times a sweep costs beside many sagas what it costs beside few."""
    found: dict[int, list[Cost]] = {FEW: [], size: []}
    for number in range(ROUNDS):
        order = [FEW, size] if number % 2 else [size, FEW]
        for count in order:
            found[count].append(sides[count].costs(SWEEPS))
    ratios = [
        Cost(large.wall / small.wall, large.cpu / small.cpu)
        for small, large in zip(found[FEW], found[size], strict=True)
    ]
    for count, costs in found.items():
        wall, cpu = (median(each) / SWEEPS * 1000 for each in zip(*costs, strict=True))
        measured(f"a sweep beside {count} waiting sagas: {wall:.2f} ms, {cpu:.2f} ms of CPU")
    wall, cpu = (median(each) for each in zip(*ratios, strict=True))
    measured(f"ratios: wall {wall:.3f}, CPU {cpu:.3f} (medians of {ROUNDS} paired rounds)")
    return Cost(wall, cpu)


def _goes_on(deployment: Deployment) -> None:
    """What was brought to waiting by a statement is a saga like any other."""
    client = SagaClient(deployment.engine)
    client.signal(("patient", "patient-7"), "approved", dedup_id="1")
    deployment.start_worker()
    [saga] = client.find(definition="patient", key="patient-7")
    assert client.wait(saga.id).state is State.COMPLETED
