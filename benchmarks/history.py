"""``make bench BENCH_ARGS=history``: what a long log and a flood of due attempts cost; a verdict.

The first half claims sagas whose logs hold 10, 1,000 and 30,000 entries of signals and retries, and
compares wall time and CPU (of this process and of Postgres) per claim. The second half lets 100,000
rung attempts come due with an empty broker, as after FLUSHALL, and a lease end a moment later.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import redis
import sqlalchemy

from benchmarks.cpu import Tree, cpu_seconds
from benchmarks.noop import NOTHING, Nothing, brokered
from orchestrator.claiming import Claim
from orchestrator.client import SagaClient
from orchestrator.coordinator import Coordinator
from orchestrator.definition import SagaDefinition, step
from orchestrator.definitions import Definitions
from orchestrator.doorbell import SilentDoorbell
from orchestrator.errors import Retriable
from orchestrator.storage import migrate
from orchestrator.storage.database import Database, create_engine
from orchestrator.storage.rows import AttemptId, OpenAttempt
from recovery import sweeper as sweeping
from recovery.sweeper import Sweeper, SweepReport
from workers.bootstrap import build_doorbell
from workers.local_servers.running_servers import RunningServers, start
from workers.settings import Settings

SIZES = (10, 1_000, 30_000)
SAGAS = 10
ROUNDS = 20
MOST_TIMES = 1.5
"""A claim of the longest log may cost so many times what one of the shortest costs."""

DUE = 100_000
LONGEST_PASS = 2.5
"""Seconds: what a pass may take (`PASS_SECONDS`), and the batch that it is at then."""

FIRST_TAKE_OVER = 3.0
"""Seconds from the end of a lease that ends in the middle of a flood."""

MOMENT = timedelta(milliseconds=1)


def again(_context: Any) -> None:
    """End without effect and come due a moment later."""
    raise Retriable("again", retry_after=MOMENT, is_exact=True, spends_budget=False)


RETRYING = SagaDefinition(
    name="retrying",
    version=1,
    payload=Nothing,
    steps=[step("step_1", again, no_compensation=NOTHING)],
)

PLANT = """
WITH chosen AS (
    SELECT id FROM amends.saga WHERE definition = 'retrying'
), logged AS (
    INSERT INTO amends.saga_log (saga_id, seq, kind, data)
    SELECT c.id, n,
        CASE n % 3 WHEN 2 THEN 'StepStarted' WHEN 0 THEN 'StepFailed' ELSE 'SignalReceived' END,
        CASE n % 3
            WHEN 2 THEN jsonb_build_object('step', 'step_1', 'direction', 'forward',
                'attempt', n / 3 + 1, 'owner', 'bench')
            WHEN 0 THEN jsonb_build_object('step', 'step_1', 'direction', 'forward',
                'attempt', n / 3, 'terminal', false, 'error', '{"message": "again"}'::jsonb,
                'retry_after_seconds', 0.001, 'spends_budget', false, 'is_exact', true)
            ELSE jsonb_build_object('name', 'news', 'dedup_id', n::text, 'payload',
                jsonb_build_object('about', 'order ' || n)) END
    FROM chosen c, generate_series(2, :entries) n
), moved AS (
    UPDATE amends.saga s SET seq = :entries FROM chosen c WHERE s.id = c.id
)
UPDATE amends.attempt t SET number = :entries / 3 + 1 FROM chosen c WHERE t.saga_id = c.id
"""

FLOOD = """
WITH begun AS (
    INSERT INTO amends.saga (id, definition, version, definition_hash, key, fingerprint, state, seq,
        attributes, due_at)
    SELECT gen_random_uuid(), :name, 1, :hash, 'order-' || n, 'print', 'running', 1, '{}',
        clock_timestamp() + interval '1 hour'
    FROM generate_series(1, :count) n
    RETURNING id
), logged AS (
    INSERT INTO amends.saga_log (saga_id, seq, kind, data)
    SELECT id, 1, 'SagaStarted', '{"payload": {"number": 1}}' FROM begun
)
INSERT INTO amends.attempt (saga_id, step, direction, number, queue, due_at, ring_at, rung_count,
    timeout_for)
SELECT id, 'step_1', 'forward', 1, :queue, clock_timestamp() - interval '1 minute',
    clock_timestamp(), 1, interval '30 s'
FROM begun
"""

LEASE_ENDS = """
UPDATE amends.attempt SET lease_until = clock_timestamp() + interval '1 s',
    timeout_at = clock_timestamp() + interval '1 s'
WHERE token IS NOT NULL
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimCost:
    """What one claim costs, in milliseconds: the median by the clock, and CPU on average."""

    entries: int
    wall_ms: float
    client_ms: float
    postgres_ms: float

    @property
    def cpu_ms(self) -> float:
        return self.client_ms + self.postgres_ms


def main(argv: list[str]) -> None:
    """Measure, print, and exit with 1 where a bound was passed."""
    parser = argparse.ArgumentParser(prog="make bench BENCH_ARGS=history", description=__doc__)
    parser.add_argument("--due", type=int, default=DUE, help="attempts that are due at once")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="entries of a log")
    arguments = parser.parse_args(argv)
    directory = Path(tempfile.mkdtemp(prefix="amends-bench-"))
    with start(directory, durable=True, watchdog=True, ephemeral=True) as servers:
        kept = [_judge_claims(servers, arguments.sizes), _judge_flood(servers, arguments.due)]
    sys.exit(0 if all(kept) else 1)


# -- claims ----------------------------------------------------------------------------------------


def _judge_claims(servers: RunningServers, sizes: list[int]) -> bool:
    """All sizes round by round: whatever else the machine does, it does to each of them."""
    with ExitStack() as stack:
        logs = [
            ClaimedLogs(servers, stack.enter_context(_coordinator(servers, RETRYING)), entries)
            for entries in sizes
        ]
        for number in range(-2, ROUNDS):  # two to warm up: the first writes checkpoints
            for each in logs:
                each.claim_once(counts=number >= 0)
    costs = [each.cost() for each in logs]
    for cost in costs:
        print(
            f"claim at {cost.entries:6,} entries  {cost.wall_ms:6.2f} ms wall, "
            f"{cost.cpu_ms:5.2f} ms CPU (client {cost.client_ms:.2f}, "
            f"postgres {cost.postgres_ms:.2f})",
            flush=True,
        )
    shortest, *longer = costs
    wall = max(each.wall_ms / shortest.wall_ms for each in longer)
    cpu = max(each.cpu_ms / shortest.cpu_ms for each in longer)
    is_kept = max(wall, cpu) <= MOST_TIMES
    print(
        f"at most {wall:.2f} times the wall time and {cpu:.2f} times the CPU of a claim at "
        f"{shortest.entries} entries (bound {MOST_TIMES}): {_verdict(kept=is_kept)}",
        flush=True,
    )
    return is_kept


class ClaimedLogs:
    """Sagas whose logs are of one length, and what claiming them has cost so far."""

    def __init__(
        self, servers: RunningServers, made: tuple[Coordinator, Any], entries: int
    ) -> None:
        entries -= entries % 3 // 2  # not in the middle of an attempt
        self._servers, self._entries = servers, entries
        self._coordinator, engine = made
        client = SagaClient(engine, SilentDoorbell())
        started = [
            client.start(RETRYING, {"number": number}, key=str(number)).id
            for number in range(SAGAS)
        ]
        _plant(engine, PLANT, entries=entries)
        self._numbers = dict.fromkeys(started, entries // 3 + 1)
        self._waits: list[float] = []
        self._client = self._postgres = 0.0

    def claim_once(self, *, counts: bool) -> None:
        """Claim each saga; only that is measured, not the attempt that follows."""
        before = time.process_time(), _postgres_seconds(self._servers)
        waits: list[float] = []
        claims = [
            _claimed(self._coordinator, saga_id, self._numbers, waits) for saga_id in self._numbers
        ]
        after = time.process_time(), _postgres_seconds(self._servers)
        if counts:
            self._waits += waits
            self._client += after[0] - before[0]
            self._postgres += after[1] - before[1]
        for each in claims:
            self._coordinator.execute(each)

    def cost(self) -> ClaimCost:
        count = len(self._waits)
        return ClaimCost(
            entries=self._entries,
            wall_ms=sorted(self._waits)[count // 2] * 1000,
            client_ms=self._client / count * 1000,
            postgres_ms=self._postgres / count * 1000,
        )


def _claimed(
    coordinator: Coordinator, saga_id: UUID, numbers: dict[UUID, int], waits: list[float]
) -> Claim:
    attempt = AttemptId(
        saga_id=saga_id, step="step_1", direction="forward", number=numbers[saga_id]
    )
    began = time.perf_counter()
    claim = coordinator.claim(attempt)
    waits.append(time.perf_counter() - began)
    assert claim is not None, f"{attempt} cannot be claimed"
    numbers[saga_id] += 1
    return claim


def _postgres_seconds(servers: RunningServers) -> float:
    pid = servers.postgres.pid
    assert pid is not None, "the servers run"
    return cpu_seconds([Tree(name="postgres", pid=pid)])["postgres"]


# -- a flood ---------------------------------------------------------------------------------------


class TimedSweeper(Sweeper):
    """A sweeper that notes how long its passes take, and when it first took over."""

    longest_pass = 0.0
    took_over_at: float | None = None

    def _pass(self, work: Callable[[float], SweepReport]) -> SweepReport:
        return super()._pass(lambda until: self._timed(work, until))

    def _take_over(self, until: float) -> SweepReport:
        return self._timed(super()._take_over, until)

    def _timed(self, work: Callable[[float], SweepReport], until: float) -> SweepReport:
        began = time.monotonic()
        report = work(until)
        self.longest_pass = max(self.longest_pass, time.monotonic() - began)
        return report

    def _give_up(self, attempt: OpenAttempt, reason: Any) -> bool:
        gave_up = super()._give_up(attempt, reason)
        if gave_up and self.took_over_at is None:
            self.took_over_at = time.monotonic()
        return gave_up


def _judge_flood(servers: RunningServers, count: int) -> bool:
    with _coordinator(servers, brokered) as (coordinator, engine):
        client = SagaClient(engine, SilentDoorbell())
        started = client.start(brokered, {"number": 0}, key="lost").id
        lost = AttemptId(saga_id=started, step="step_1", direction="forward", number=1)
        assert coordinator.claim(lost) is not None
        queue = brokered.step("step_1").queue
        _plant(engine, FLOOD, name=brokered.name, hash=brokered.hash, count=count, queue=queue)
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text(LEASE_ENDS))
        with redis.Redis.from_url(servers.broker_url) as broker:
            broker.flushall()
        began = time.monotonic()
        sweeper = TimedSweeper(coordinator, Database(engine))
        report = sweeper.run_once()
        sweeps = 1
        while sweeper.has_more:
            report, sweeps = report + sweeper.run_once(), sweeps + 1
        took = time.monotonic() - began
    first = float("inf") if sweeper.took_over_at is None else sweeper.took_over_at - began - 1.0
    is_kept = sweeper.longest_pass <= LONGEST_PASS and first <= FIRST_TAKE_OVER
    print(
        f"{count:,} due after FLUSHALL: rung again for {report.rung_again:,} in {took:.1f} s and "
        f"{sweeps} sweeps; longest pass {sweeper.longest_pass:.2f} s (bound {LONGEST_PASS}, of "
        f"which {sweeping.PASS_SECONDS} are a pass's), first take-over {first:.2f} s after the end "
        f"of its lease (bound {FIRST_TAKE_OVER}): {_verdict(kept=is_kept)}",
        flush=True,
    )
    return is_kept and report.rung_again == count


# --------------------------------------------------------------------------------------------------


@contextmanager
def _coordinator(
    servers: RunningServers, definition: SagaDefinition[Any]
) -> Iterator[tuple[Coordinator, Any]]:
    """A coordinator of this process on a database of its own, and its engine."""
    url = servers.postgres.create_database(f"bench_{time.monotonic_ns()}")
    engine = create_engine(url)
    migrate.upgrade(engine)
    settings = Settings(database_url=url, broker_url=servers.broker_url)
    yield (
        Coordinator(
            database=Database(engine),
            definitions=Definitions([definition]),
            doorbell=build_doorbell(settings),
            owner=lambda: f"bench/{os.getpid()}",
            lease=timedelta(minutes=5),
        ),
        engine,
    )
    engine.dispose()


def _plant(engine: Any, statement: str, **values: Any) -> None:
    """Write rows, and have Postgres done with what they cause before anything is measured."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sqlalchemy.text("SET statement_timeout = 0"))
        connection.execute(sqlalchemy.text(statement), values)
        for settling in ("VACUUM ANALYZE", "CHECKPOINT", "RESET statement_timeout"):
            connection.execute(sqlalchemy.text(settling))


def _verdict(*, kept: bool) -> str:
    return "kept" if kept else "EXCEEDED"
