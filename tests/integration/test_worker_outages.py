"""Workers without their broker, without their database, and with sagas that are not theirs."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import redis
from celery import Celery

from orchestrator.client import SagaClient
from orchestrator.definition import SagaDefinition
from orchestrator.state import State
from orchestrator.storage.processes import Process, Processes
from tests.sagas_for_workers import BROKERED, INLINE, Trip
from tests.worker_processes import StartWorker, WorkerProcess, until
from workers.local_servers.running_servers import RunningServers
from workers.settings import Settings


def _with_other_steps(definition: SagaDefinition[Trip]) -> SagaDefinition[Trip]:
    return replace(definition, steps=definition.steps[:2])


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_worker_comes_back_after_the_broker_was_restarted_empty(
    client: SagaClient,
    servers: RunningServers,
    start_worker: StartWorker,
    tmp_path: Path,
    pool: str,
) -> None:
    worker = start_worker(pool=pool)
    servers.valkey.kill()
    until(lambda: "Connection to broker lost" in worker.log, what="the loss")
    servers.valkey.start()
    until(lambda: worker.log.count("Connected to redis") > 1, what="the new connection")

    started = client.start(BROKERED, {"directory": str(tmp_path)}, key="1")

    assert client.wait(started.id).state is State.COMPLETED


@pytest.mark.parametrize(("pool", "fetched"), [("prefork", 2), ("threads", 8)])
def test_a_worker_that_had_fetched_all_it_may_comes_back_after_the_broker_was_away(
    client: SagaClient,
    servers: RunningServers,
    start_worker: StartWorker,
    tmp_path: Path,
    pool: str,
    fetched: int,
) -> None:
    worker = start_worker(
        pool=pool, concurrency="2", broker_profile="redeliver", workers_sweep="false"
    )
    payload = {"directory": str(tmp_path), "blocks": "flight"}
    for number in range(fetched):
        client.start(BROKERED, payload, key=str(number))
    with redis.Redis.from_url(servers.broker_url) as valkey:
        until(lambda: valkey.hlen("amends:unacked") == fetched, what="all that it may fetch")

    servers.valkey.kill()
    (tmp_path / "open").touch()
    until(lambda: "Couldn't ack" in worker.log, what="an answer that fails")
    servers.valkey.start()

    started = client.start(BROKERED, {"directory": str(tmp_path)}, key="later")
    assert client.wait(started.id).state is State.COMPLETED


def test_a_saga_goes_on_after_postgres_was_restarted_under_a_running_step(
    client: SagaClient, servers: RunningServers, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker()
    started = client.start(INLINE, {"directory": str(tmp_path), "blocks": "flight"}, key="1")
    until((tmp_path / "flight.forward.1").exists, what="the first step")

    servers.postgres.restart("immediate")
    (tmp_path / "open").touch()
    client.close()

    assert client.wait(started.id).state is State.COMPLETED
    assert not (tmp_path / "flight.forward.2").exists()


def test_a_worker_waits_for_a_database_that_is_not_up_yet(
    client: SagaClient, servers: RunningServers, start_worker: StartWorker, tmp_path: Path
) -> None:
    servers.postgres.stop()
    worker = start_worker(ready=False)
    until(lambda: "worker.waiting_for_database" in worker.log, what="the wait")

    servers.postgres.start()
    worker.wait_ready()

    started = client.start(INLINE, {"directory": str(tmp_path)}, key="1")
    assert client.wait(started.id).state is State.COMPLETED


def test_a_worker_refuses_changed_steps_under_a_version_that_is_in_flight(
    client: SagaClient, start_worker: StartWorker, tmp_path: Path
) -> None:
    started = client.start(_with_other_steps(INLINE), {"directory": str(tmp_path)}, key="1")

    worker = start_worker(ready=False)

    assert worker.wait_end() != 0
    assert "inline_trip v1 (1 in flight)" in worker.log
    assert client.get(started.id).state is State.RUNNING


def test_a_worker_refuses_a_database_without_a_saga_log(
    servers: RunningServers, start_worker: StartWorker
) -> None:
    empty = servers.postgres.create_database("empty_of_workers")

    worker = start_worker(ready=False, database_url=empty)

    assert worker.wait_end() != 0
    assert "amends migrate" in worker.log


def test_a_saga_of_a_definition_with_another_hash_is_left_alone(
    client: SagaClient, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker()

    foreign = client.start(_with_other_steps(INLINE), {"directory": str(tmp_path)}, key="foreign")
    until(lambda: '"message.stale"' in worker.log, what="the message of the foreign saga")

    assert client.get(foreign.id).state is State.RUNNING
    assert client.get(foreign.id).seq == 1
    assert not (tmp_path / "flight.forward.1").exists()


@pytest.mark.parametrize(("pool", "processes"), [("threads", 1), ("prefork", 4)])
def test_every_process_that_runs_steps_is_on_the_register_until_it_ends(
    client: SagaClient, start_worker: StartWorker, pool: str, processes: int
) -> None:
    register = Processes(client._log._database)
    worker = start_worker(pool=pool)

    def workers() -> list[Process]:
        found = [each.process for each in register.all()]
        return [each for each in found if each.kind == f"worker-{pool}"]

    until(lambda: len(workers()) == processes, what="the processes")

    assert {tuple(each.queues) for each in workers()} == {("amends", "elsewhere")}
    worker.terminate()
    assert worker.wait_end() == 0
    until(lambda: not workers(), what="a register without them")


def test_a_prefork_parent_tells_of_a_child_s_death_at_once(
    client: SagaClient,
    settings: Settings,
    start_worker: StartWorker,
    tmp_path: Path,
) -> None:
    assert settings.database_url is not None
    worker = start_worker(
        pool="prefork", concurrency="1", sagas="tests.sagas_for_workers,tests.tells_child_deaths"
    )
    client.start(INLINE, {"directory": str(tmp_path), "blocks": "flight"}, key="1")
    called = tmp_path / "flight.forward.1"
    child = int(until(lambda: called.exists() and called.read_text(), what="the first step"))

    os.kill(child, signal.SIGKILL)

    until(lambda: f"died {child}" in worker.log, seconds=8, what="the news of its death")


@pytest.mark.parametrize("concurrency", ["1", "2"])
def test_a_child_that_dies_at_its_start_is_replaced(
    client: SagaClient, start_worker: StartWorker, tmp_path: Path, concurrency: str
) -> None:
    died = tmp_path / "died"
    worker = start_worker(
        pool="prefork",
        concurrency=concurrency,
        sagas="tests.sagas_for_workers,tests.dies_at_start",
        test_died=str(died),
    )
    assert died.exists()

    started = client.start(INLINE, {"directory": str(tmp_path)}, key="1")

    assert client.wait(started.id).state is State.COMPLETED
    assert worker.is_alive


def test_a_killed_sweeper_beside_a_prefork_worker_is_replaced(
    client: SagaClient, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker(pool="prefork", concurrency="1", sweep_seconds="1")
    first = until(lambda: _beside(worker), what="the sweeper beside it")
    assert first is not None
    first.kill()
    until(lambda: _beside(worker) not in (None, first), what="another one")
    started = client.start(INLINE, {"directory": str(tmp_path), "blocks": "flight"}, key="1")
    called = tmp_path / "flight.forward.1"
    child = int(until(lambda: called.exists() and called.read_text(), what="the first step"))

    os.kill(child, signal.SIGKILL)
    (tmp_path / "open").touch()

    assert client.wait(started.id, timeout=90).state is State.COMPLETED


def test_the_death_of_a_child_reaches_the_sweeper_that_replaces_a_dead_one(
    client: SagaClient, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker(pool="prefork", concurrency="1")
    sweeper = until(lambda: _beside(worker), what="the sweeper beside it")
    started = client.start(INLINE, {"directory": str(tmp_path), "blocks": "flight"}, key="1")
    called = tmp_path / "flight.forward.1"
    child = int(until(lambda: called.exists() and called.read_text(), what="the first step"))

    assert sweeper is not None
    sweeper.kill()
    until(lambda: _beside(worker) != sweeper, what="its death")
    os.kill(child, signal.SIGKILL)
    (tmp_path / "open").touch()

    assert client.wait(started.id, timeout=90).state is State.COMPLETED


def _beside(worker: WorkerProcess) -> psutil.Process | None:
    """The living sweeper beside a prefork worker."""
    for each in worker.children():
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if "--beside" in each.cmdline() and each.status() != psutil.STATUS_ZOMBIE:
                return each
    return None


def test_a_saga_completes_while_the_broker_is_away(
    client: SagaClient, servers: RunningServers, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker(sweep_seconds="1")
    servers.valkey.kill()

    started = client.start(BROKERED, {"directory": str(tmp_path)}, key="1")

    assert client.wait(started.id, 90).state is State.COMPLETED


def test_a_start_by_message_survives_an_outage_of_the_database(
    client: SagaClient,
    settings: Settings,
    servers: RunningServers,
    start_worker: StartWorker,
    tmp_path: Path,
) -> None:
    start_worker()
    stranger = Celery("stranger", broker=settings.broker_url, set_as_current=False)
    stranger.conf.broker_transport_options = {"global_keyprefix": "amends:"}
    servers.postgres.stop("immediate")
    client.close()

    arguments = {"saga": INLINE.name, "key": "1", "payload": {"directory": str(tmp_path)}}
    stranger.send_task("amends.start", kwargs=arguments, queue="amends", ignore_result=True)
    stranger.close()
    until(lambda: _depth(settings) == 0, what="the worker to take the message")
    servers.postgres.start()

    until(lambda: bool(client.find(key="1")), what="the saga")


def _depth(settings: Settings) -> int:
    assert settings.broker_url is not None
    with redis.Redis.from_url(settings.broker_url) as valkey:
        return int(valkey.llen("amends:amends"))
