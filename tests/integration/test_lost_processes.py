"""A process that is gone is known at once; one that merely lost its session is not taken for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import psycopg
import pytest

from orchestrator.entries import StepUnknown, UnknownReason
from orchestrator.errors import LogUnavailableError
from orchestrator.storage.database import Database, create_engine
from orchestrator.storage.process_session import ProcessSession
from orchestrator.storage.processes import Process, Processes, Sight
from recovery.lost_processes import APART_SECONDS, SETTLED_SECONDS, LostProcesses
from recovery.sweeper import Sweeper
from tests.cut_connections import cut_connections
from tests.histories import doing, saga
from tests.integration.engine import Engine, wait_until
from workers.draining import Drain, PutBack
from workers.heartbeat import TICK_SECONDS, Heartbeat
from workers.hung_steps import HungSteps
from workers.local_servers.running_servers import RunningServers
from workers.owner import owner, pid_space, pid_started

SHOP = saga(doing("pay"))
OWNER = "this-worker"

LIVING = """
import sys, time
from orchestrator.errors import LogUnavailableError
from orchestrator.storage.database import Database, create_engine
from orchestrator.storage.process_session import ProcessSession
from orchestrator.storage.processes import Process, Processes
url, owner = sys.argv[1:]
session = ProcessSession(create_engine(url, pool_size=1))
session.keep()
Processes(Database(create_engine(url))).seen(Process(owner=owner, kind="worker-threads", queues=(),
    definition_hashes=(), amends_version="1", session_key=session.key))
print(session.key, flush=True)
time.sleep(600)
"""


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = Engine(database, SHOP)
    yield made
    made.close()


@contextmanager
def another_process(database: str, name: str = OWNER) -> Iterator[subprocess.Popen[str]]:
    """A process that registered and then only lives."""
    command = [sys.executable, "-c", LIVING, database, name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip().isdigit()
            yield process
        finally:
            process.kill()


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


class Watch:
    """Somebody who looks for lost processes, with one session and a clock of its own."""

    def __init__(self, database: str, *, settled_seconds: float = 0.0) -> None:
        self.engine = create_engine(database, pool_size=1)
        self.processes = Processes(Database(self.engine))
        self.clock = Clock()
        self._lost = LostProcesses(
            self.processes, settled_seconds=settled_seconds, clock=self.clock
        )

    def sights(self) -> list[Sight]:
        return self.processes.sights(pid_space(), SETTLED_SECONDS)

    def settles(self) -> None:
        """Wait until its session is old enough."""
        wait_until(lambda: all(each.is_settled for each in self.sights()))

    def look(self, after: float = 0.0) -> list[str]:
        self.clock.now += after
        return [each.owner for each in self._lost.find()]


@pytest.fixture
def watch(database: str) -> Iterator[Watch]:
    made = Watch(database)
    yield made
    made.engine.dispose()


def _held(watch: Watch, name: str = OWNER) -> bool:
    return any(each.is_held for each in watch.sights() if each.owner == name)


class Beating:
    """A heartbeat in a thread of this process, under a name and without a pid that would tell."""

    def __init__(self, engine: Engine, database: str, *, url: str | None = None) -> None:
        self.session = ProcessSession(create_engine(url or database, pool_size=1))
        self.heartbeat = Heartbeat(
            coordinator=engine.coordinator,
            processes=Processes(Database(engine.pool)),
            session=self.session,
            describe=lambda: _described(OWNER),
            drain=Drain(),
            put_back=PutBack(),
            lease_seconds=15,
            grace_seconds=5,
            hung=HungSteps(
                engine.coordinator,
                replace=lambda _ident: True,
                replaced=lambda: 0,
                limit=0,
            ),
        )

    def __enter__(self) -> Self:
        self.heartbeat.ensure()
        return self

    def __exit__(self, *_: object) -> None:
        self.heartbeat.close()


def _described(name: str) -> Process:
    return Process(
        owner=name, kind="worker-threads", queues=(), definition_hashes=(), amends_version="1"
    )


def test_a_killed_process_is_lost_when_its_lock_was_missed_twice(
    database: str, watch: Watch
) -> None:
    with another_process(database) as process:
        assert _held(watch)
        assert watch.look() == []
        process.kill()
        process.wait()
        wait_until(lambda: not _held(watch))

        assert watch.look(after=1) == []
        assert watch.look(after=APART_SECONDS / 2) == []
        assert watch.look(after=APART_SECONDS) == [OWNER]


def test_a_fresh_session_says_nothing_about_others(database: str) -> None:
    watch = Watch(database, settled_seconds=SETTLED_SECONDS)
    with another_process(database) as process:
        process.kill()
        process.wait()
        wait_until(lambda: not _held(watch))

        for _ in range(3):
            assert watch.look(after=APART_SECONDS) == []
    watch.engine.dispose()


def test_a_stopped_process_is_not_lost(database: str, watch: Watch) -> None:
    with another_process(database) as process:
        process.send_signal(signal.SIGSTOP)
        for _ in range(3):
            assert watch.look(after=5) == []


def test_a_live_process_takes_another_lock_when_its_session_is_ended(
    engine: Engine, database: str, watch: Watch
) -> None:
    with Beating(engine, database) as process:
        wait_until(lambda: _held(watch))
        assert watch.look() == []
        before = process.session.key
        _end_session(database, before)

        looked = time.monotonic()
        found = watch.look(after=APART_SECONDS)
        wait_until(lambda: process.session.key not in (None, before) and _held(watch))
        took = time.monotonic() - looked
        found += watch.look(after=APART_SECONDS)

    assert found == []
    assert took < APART_SECONDS + TICK_SECONDS


def test_what_lost_its_session_is_not_left_on_the_register_with_its_key(
    engine: Engine, database: str, watch: Watch
) -> None:
    with cut_connections(database) as (url, proxy), Beating(engine, database, url=url) as process:
        wait_until(lambda: _held(watch))
        before = process.session.key
        proxy.hides_backends = True  # whatever it gets next is of no use
        _end_session(database, before)
        wait_until(lambda: watch.sights() == [])

    assert process.session.key is None


def test_a_cut_network_is_no_death(engine: Engine, database: str, watch: Watch) -> None:
    with cut_connections(database) as (url, proxy), Beating(engine, database, url=url):
        wait_until(lambda: _held(watch))
        proxy.is_silent = True

        assert watch.look(after=5) == []
        assert watch.look(after=5) == []
        proxy.is_silent = False


def test_behind_a_pooler_leases_alone_are_trusted(
    engine: Engine, database: str, watch: Watch
) -> None:
    with cut_connections(database) as (url, proxy):
        proxy.hides_backends = True
        with Beating(engine, database, url=url) as process:
            wait_until(lambda: OWNER in watch.processes.lives([OWNER]))
            assert process.session.key is None
            assert watch.processes.lives([OWNER])[OWNER].shows_it is None
            assert watch.sights() == []


def test_not_everybody_is_lost_when_postgres_was_restarted(
    engine: Engine, database: str, servers: RunningServers
) -> None:
    watch = Watch(database, settled_seconds=SETTLED_SECONDS)
    with Beating(engine, database) as process:
        wait_until(lambda: _held(watch))
        watch.settles()
        before = process.session.key
        servers.postgres.restart("immediate")

        found: list[str] = []
        until = time.monotonic() + 2
        while time.monotonic() < until:
            try:
                found += watch.look(after=APART_SECONDS)
            except LogUnavailableError:  # its old connection is broken, as it must be
                continue
        wait_until(lambda: process.session.key not in (None, before))
        found += watch.look(after=APART_SECONDS) + watch.look(after=APART_SECONDS)
    watch.engine.dispose()

    assert found == []


def test_who_is_gone_under_its_pid_on_this_host_is_lost_at_once(
    database: str, watch: Watch
) -> None:
    if pid_space() is None:
        pytest.skip("only Linux tells")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        here = replace(
            _described("here"),
            pid_space=pid_space(),
            pid=other.pid,
            pid_started=_started(other.pid),
        )
        watch.processes.seen(here)
        watch.processes.seen(
            replace(here, owner="elsewhere", pid_space="another container", session_key=1)
        )
        watch.processes.seen(
            replace(here, owner=owner(), pid=os.getpid(), pid_started=pid_started())
        )
        assert watch.look() == []
        other.kill()
        wait_until(lambda: other.poll() is not None)

        assert watch.look() == ["here"]

    watch.processes.seen(replace(here, pid=os.getpid()))  # its pid now names a later process
    assert watch.look() == ["here"]


def _started(pid: int) -> str:
    from workers.local_servers.processes import observe  # noqa: PLC0415 - only here

    seen = observe(pid)
    assert seen is not None
    return seen.started


def test_a_sweeper_gives_up_what_a_dead_process_held_long_before_its_lease_is_over(
    engine: Engine, database: str
) -> None:
    with another_process(database) as process:
        claim = engine.claim(engine.client.start("shop", {"amount": 1}, key="order-1").id)
        sweeper = Sweeper(engine.coordinator, Database(engine.pool))
        time.sleep(SETTLED_SECONDS)
        assert sweeper.take_over_lost().taken_over == 0
        killed = time.monotonic()
        process.kill()
        process.wait()

        wait_until(lambda: sweeper.take_over_lost().taken_over == 1 or _pause())
        took = time.monotonic() - killed

    assert took < 2.5
    [lost] = [
        each for each in engine.entries(claim.attempt.saga_id) if isinstance(each, StepUnknown)
    ]
    assert lost.reason == UnknownReason.CRASHED
    assert engine.bell.messages
    assert Processes(Database(engine.pool)).lives([OWNER]) == {}


def test_what_a_dead_process_had_fetched_is_rung_again_at_once(
    engine: Engine, database: str
) -> None:
    engine.client.start("shop", {"amount": 1}, key="order-1")
    fetched = engine.bell.messages.popleft()
    engine.client.start("shop", {"amount": 1}, key="order-2")  # still waits in its queue
    gone: Any = replace(
        _described(OWNER),
        queues=[fetched.queue],
        pid_space=pid_space() or "nowhere",
        pid=2**22 + 1,
        pid_started="1",
    )
    Processes(Database(engine.pool)).seen(gone)
    sweeper = Sweeper(engine.coordinator, Database(engine.pool))

    assert sweeper.take_over_lost().rung_again == 1

    assert fetched in engine.bell.messages
    assert len(engine.bell.messages) == 2
    assert sweeper.take_over_lost().is_quiet


def _pause() -> bool:
    threading.Event().wait(0.1)
    return False


def test_what_only_others_can_give_up_keeps_its_process_on_the_register(
    engine: Engine, database: str
) -> None:
    foreign = Engine(database)
    engine.claim(engine.client.start("shop", {"amount": 1}, key="order-1").id)
    gone: Any = replace(
        _described(OWNER), pid_space=pid_space() or "nowhere", pid=2**22 + 1, pid_started="1"
    )
    Processes(Database(engine.pool)).seen(gone)
    blind = Sweeper(foreign.coordinator, Database(foreign.pool))
    assert blind.take_over_lost().taken_over == 0

    assert Sweeper(engine.coordinator, Database(engine.pool)).take_over_lost().taken_over == 1
    foreign.close()


def _end_session(database: str, key: int | None) -> None:
    assert key is not None
    with psycopg.connect(database.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' "
            "AND (classid::bigint << 32) | objid::bigint = %s",
            (key,),
        )
