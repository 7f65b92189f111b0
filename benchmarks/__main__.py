"""``make bench``: CPU per saga of four no-op steps, inline and brokered, beside a Celery chain.

All sides run in one call, on the same servers, with fsync and synchronous commits on. The chain is
measured in Celery's default pool (prefork) and in threads. Work is
queued first and then worked off, so that the clock sees workers that are never idle; CPU is read
from the kernel for every process that took part, the client that queued included.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import redis
from celery import chain

from benchmarks import history, noop
from benchmarks.cpu import Tree, cpu_seconds
from orchestrator.client import SagaClient
from orchestrator.state import State
from orchestrator.storage import migrate
from orchestrator.storage.database import Database, create_engine
from orchestrator.storage.reads import Reads
from workers.bootstrap import build_doorbell
from workers.local_servers.running_servers import RunningServers, start
from workers.settings import Settings

SIDES = ("inline", "brokered", "chain", "chain_prefork")
POOLS = {"chain": "threads", "chain_prefork": "prefork"}
STEPS = 4
WARM_UP = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One side of the comparison; times per saga, CPU in milliseconds."""

    name: str
    sagas: int
    per_second: float
    cpu_ms: float
    cpu_ms_by_process: dict[str, float]


def main() -> None:
    """Measure and print; ``history`` as the first word asks for `benchmarks.history`."""
    if sys.argv[1:2] == ["history"]:
        history.main(sys.argv[2:])
    arguments = _arguments()
    os.environ["AMENDS_SAGAS"] = "benchmarks.noop"
    directory = Path(tempfile.mkdtemp(prefix="amends-bench-"))
    results: list[Measured] = []
    with start(directory, durable=True, watchdog=True, ephemeral=True) as servers:
        for _ in range(arguments.rounds):
            for name in arguments.sides:
                results.append(_measure(servers, directory, name, arguments))
                _print(results[-1], as_json=arguments.json)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--sagas", type=int, default=2000, help="sagas per side")
    parser.add_argument("--rounds", type=int, default=2, help="how often all sides are measured")
    parser.add_argument("--workers", type=int, default=2, help="worker processes")
    parser.add_argument("--concurrency", type=int, default=4, help="threads per worker")
    parser.add_argument("--sides", nargs="+", default=SIDES, choices=SIDES, help="what to measure")
    parser.add_argument("--json", action="store_true", help="one JSON object per result")
    return parser.parse_args()


def _measure(
    servers: RunningServers, directory: Path, name: str, arguments: argparse.Namespace
) -> Measured:
    url = servers.postgres.create_database(f"bench_{time.monotonic_ns()}")
    settings = Settings(
        database_url=url,
        broker_url=servers.broker_url,
        sagas=("benchmarks.noop",),
        concurrency=arguments.concurrency,
    )
    with redis.Redis.from_url(servers.broker_url) as broker:
        broker.flushall()
    engine = create_engine(url)
    migrate.upgrade(engine)
    if name in POOLS:
        return _measure_chain(servers, directory, name, arguments)
    client = SagaClient(engine, build_doorbell(settings))
    reads = Reads(Database(engine))
    definition = noop.inline if name == "inline" else noop.brokered

    def queue(first: int, count: int) -> None:
        for number in range(first, first + count):
            client.start(definition, {"number": number}, key=str(number))

    def done() -> int:
        return reads.counts().get(definition.name, {}).get(State.COMPLETED, 0)

    environment = {
        "AMENDS_DATABASE_URL": url,
        "AMENDS_BROKER_URL": servers.broker_url,
        "AMENDS_CONCURRENCY": str(arguments.concurrency),
        "AMENDS_LOG_LEVEL": "warning",
    }
    command = [sys.executable, "-m", "celery", "-A", "workers", "--quiet", "worker"]
    with _workers(command, environment, directory, arguments.workers) as trees:
        measured = _run(name, servers, trees, arguments.sagas, queue, done)
    engine.dispose()
    return measured


def _measure_chain(
    servers: RunningServers, directory: Path, name: str, arguments: argparse.Namespace
) -> Measured:
    os.environ["CHAIN_BROKER_URL"] = servers.broker_url
    from benchmarks.chain import step  # noqa: PLC0415 - reads its broker at import

    counter = redis.Redis.from_url(servers.broker_url)

    def queue(first: int, count: int) -> None:
        for number in range(first, first + count):
            links = [step.si(number) for _ in range(STEPS - 1)]
            chain(*links, step.si(number, "chain-done")).apply_async()

    def done() -> int:
        value = counter.get("chain-done")
        return int(str(value, "ascii")) if isinstance(value, bytes) else 0

    command = [sys.executable, "-m", "celery", "-A", "benchmarks.chain", "--quiet", "worker"]
    command += ["--pool", POOLS[name], "--concurrency", str(arguments.concurrency)]
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    environment = {"CHAIN_BROKER_URL": servers.broker_url}
    with _workers(command, environment, directory, arguments.workers) as trees, counter:
        return _run(name, servers, trees, arguments.sagas, queue, done)


def _run(
    name: str,
    servers: RunningServers,
    workers: list[Tree],
    sagas: int,
    queue: Callable[[int, int], None],
    done: Callable[[], int],
) -> Measured:
    queue(0, WARM_UP)
    _until(lambda: done() >= WARM_UP)
    trees = [
        *workers,
        Tree(name="postgres", pid=_pid(servers.postgres.pid)),
        Tree(name="valkey", pid=_pid(servers.valkey.pid)),
        Tree(name="client", pid=os.getpid()),
    ]
    before, began = _cpu(trees), time.monotonic()
    queue(WARM_UP, sagas)
    _until(lambda: done() >= WARM_UP + sagas)
    took, after = time.monotonic() - began, _cpu(trees)
    used = {each: (after[each] - before[each]) / sagas * 1000 for each in after}
    return Measured(
        name=name,
        sagas=sagas,
        per_second=sagas / took,
        cpu_ms=sum(used.values()),
        cpu_ms_by_process=used,
    )


def _cpu(trees: list[Tree]) -> dict[str, float]:
    """CPU by kind of process. The client's own tree holds the workers and servers: taken out."""
    seconds = cpu_seconds(trees)
    workers = sum(value for name, value in seconds.items() if name.startswith("worker"))
    own = time.process_time()
    return {
        "client": own,
        "workers": workers,
        "postgres": seconds["postgres"],
        "valkey": seconds["valkey"],
    }


def _pid(pid: int | None) -> int:
    assert pid is not None, "the servers run"
    return pid


@contextmanager
def _workers(
    command: list[str], environment: dict[str, str], directory: Path, count: int
) -> Iterator[list[Tree]]:
    log = (directory / "workers.log").open("ab")
    running = [
        subprocess.Popen(
            [*command, "--hostname", f"bench-{number}@%h"],
            env={**os.environ, **environment},
            stdout=log,
            stderr=log,
        )
        for number in range(count)
    ]
    try:
        yield [Tree(name=f"worker {each.pid}", pid=each.pid) for each in running]
    finally:
        for each in running:
            each.terminate()
        for each in running:
            each.wait(30)
        log.close()


def _until(condition: Callable[[], bool], seconds: float = 600.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError("the workers did not get done; see workers.log")
        time.sleep(0.2)


def _print(measured: Measured, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(measured)), flush=True)
        return
    parts = ", ".join(f"{name} {ms:.2f}" for name, ms in measured.cpu_ms_by_process.items())
    print(
        f"{measured.name:13} {measured.cpu_ms:6.2f} ms CPU per saga ({parts}), "
        f"{measured.per_second:6.1f}/s over {measured.sagas}",
        flush=True,
    )


if __name__ == "__main__":
    main()
