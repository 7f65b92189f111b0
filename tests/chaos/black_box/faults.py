"""What may go wrong from outside, one function each: it breaks something and mends it again.

A fault returns when what it broke answers again, so that whoever calls it knows the moment from
which recovery counts. It tells which processes it killed, and when.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import psutil
import redis

from steps.gateways.sandbox.process import SandboxProcess
from tests.chaos.black_box.crew import Crew
from tests.deployment import Deployment, Member
from workers.local_servers.running_servers import RunningServers


@dataclass(slots=True, kw_only=True)
class World:
    """All that can be broken."""

    deployment: Deployment
    servers: RunningServers
    gateway: SandboxProcess
    crew: Crew
    dice: random.Random
    killed: list[tuple[float, int]] = field(default_factory=list)

    def seconds(self, least: float, most: float) -> None:
        """Let some time pass."""
        time.sleep(self.dice.uniform(least, most))


def _family(member: Member) -> list[int]:
    with suppress(psutil.NoSuchProcess):
        return [each.pid for each in psutil.Process(member.pid).children(recursive=True)]
    return []


def _kill(world: World, member: Member) -> None:
    pids = [member.pid, *_family(member)]
    at = member.kill()
    world.killed += [(at, pid) for pid in pids]
    world.crew.fill()


def worker_killed(world: World) -> None:
    """``kill -9`` of a worker with threads."""
    _kill(world, world.crew.one_of("threads", world.dice))


def prefork_worker_killed(world: World) -> None:
    """``kill -9`` of a prefork worker with its children."""
    _kill(world, world.crew.one_of("prefork", world.dice))


def child_killed(world: World) -> None:
    """``kill -9`` of one child of a prefork worker."""
    children = _family(world.crew.one_of("prefork", world.dice))
    if children:
        pid = world.dice.choice(children)
        world.killed.append((time.time(), pid))
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def every_worker_killed(world: World) -> None:
    """``kill -9`` of all workers at once."""
    members = [each for post in ("threads", "prefork") for each in world.crew.at()[post]]
    for each in members:
        pids = [each.pid, *_family(each)]
        world.killed += [(time.time(), pid) for pid in pids]
        each.signal(signal.SIGKILL)
    for each in members:
        each.kill()
    world.crew.fill()


def worker_stopped_for_a_while(world: World) -> None:
    """SIGSTOP beyond its lease, then SIGCONT: it does not know that it was away."""
    member = world.crew.one_of("threads", world.dice)
    member.signal(signal.SIGSTOP)
    world.seconds(3, 12)
    member.signal(signal.SIGCONT)


def worker_deployed(world: World) -> None:
    """SIGTERM, as a deploy sends it; its successor starts beside it."""
    member = world.crew.one_of(world.dice.choice(["threads", "prefork"]), world.dice)
    member.terminate()
    member.wait_end(60)
    world.crew.fill()


def sweeper_killed(world: World) -> None:
    """``kill -9`` of the process that sweeps."""
    _kill(world, world.crew.one_of("sweeper", world.dice))


def broker_flushed(world: World) -> None:
    """FLUSHALL: every message is gone."""
    world.deployment.broker.flushall()


def broker_flushed_twice(world: World) -> None:
    """FLUSHALL, and once more while the first is being mended."""
    world.deployment.broker.flushall()
    world.seconds(2, 10)
    world.deployment.broker.flushall()


def broker_down(world: World) -> None:
    """The broker dies and comes back empty or not."""
    _broker_away(world)


def broker_lost_twice(world: World) -> None:
    """Two broker incidents within a quarter of a minute."""
    _broker_away(world)
    world.seconds(3, 10)
    _broker_away(world)


def _broker_away(world: World) -> None:
    world.servers.valkey.kill()
    world.seconds(2, 8)
    world.servers.valkey.start()
    if world.dice.random() < 0.7:
        with suppress(redis.ConnectionError):
            world.deployment.broker.flushall()


def broker_deaf(world: World) -> None:
    """The broker takes connections and answers nothing."""
    pid = world.servers.valkey.pid
    if pid is not None:
        os.kill(pid, signal.SIGSTOP)
        world.seconds(3, 8)
        os.kill(pid, signal.SIGCONT)


def postgres_restarted(world: World) -> None:
    """An immediate restart: every session and every transaction under way is gone."""
    world.servers.postgres.restart("immediate")


def postgres_down(world: World) -> None:
    """Postgres is away for some seconds."""
    world.servers.postgres.kill()
    world.seconds(2, 6)
    world.servers.postgres.start()


def sessions_terminated(world: World) -> None:
    """Every session ends at once, as behind a proxy that restarts; the server lives."""
    world.deployment.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


def gateway_down(world: World) -> None:
    """The gateway dies in the middle of its requests, and comes back with its ledger."""
    world.gateway.kill()
    world.seconds(1, 5)
    world.gateway = SandboxProcess.start(world.gateway.ledger, port=world.gateway.port)
    harass(world)


def gateway_hangs(world: World) -> None:
    """The gateway does what it is asked and answers nobody: every slot hangs."""
    for operation in ("authorize", "capture"):
        world.deployment.judge.script("hold_after", times=None, operation=operation)
    world.seconds(4, 10)
    world.deployment.judge.clear_faults()
    world.deployment.judge.release()
    harass(world)


def harass(world: World) -> None:
    """Put the faults in force that a gateway has on any day: some of every sort, by its dice."""
    calls = ("authorize", "capture", "void", "refund", "ship")
    for fault, rate in (
        ("drop_before", 0.02),
        ("drop_after", 0.02),
        ("error_before", 0.02),
        ("error_after", 0.02),
        ("stored_500", 0.01),
        ("slow_before", 0.03),
        ("rate_limited", 0.01),
    ):
        for operation in calls:
            world.deployment.judge.script(
                fault,
                times=None,
                operation=operation,
                rate=rate,
                seed=world.dice.randrange(10_000),
                delay_ms=400,
                lands=world.dice.random() < 0.5,
            )


Fault = Callable[[World], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Faults of one sort, and within how many seconds everything must move again.

    Args:
        weight: how often it is chosen, among all.
        bound_seconds: from when servers answer until every interrupted attempt is scheduled again.
        loses_messages: the broker forgets what waits in it.
    """

    fault: Fault
    weight: int
    bound_seconds: float
    loses_messages: bool = False


FAMILIES: Mapping[str, Family] = {
    each.fault.__name__: each
    for each in (
        Family(fault=worker_killed, weight=5, bound_seconds=6),
        Family(fault=prefork_worker_killed, weight=3, bound_seconds=6),
        Family(fault=child_killed, weight=3, bound_seconds=6),
        Family(fault=every_worker_killed, weight=2, bound_seconds=45),
        Family(fault=sweeper_killed, weight=2, bound_seconds=45),
        Family(fault=worker_stopped_for_a_while, weight=2, bound_seconds=45),
        Family(fault=worker_deployed, weight=3, bound_seconds=45),
        Family(loses_messages=True, fault=broker_flushed, weight=3, bound_seconds=45),
        Family(loses_messages=True, fault=broker_flushed_twice, weight=2, bound_seconds=45),
        Family(loses_messages=True, fault=broker_down, weight=2, bound_seconds=45),
        Family(loses_messages=True, fault=broker_lost_twice, weight=4, bound_seconds=45),
        Family(fault=broker_deaf, weight=2, bound_seconds=45),
        Family(fault=postgres_restarted, weight=2, bound_seconds=45),
        Family(fault=postgres_down, weight=2, bound_seconds=45),
        Family(fault=sessions_terminated, weight=2, bound_seconds=45),
        Family(fault=gateway_down, weight=2, bound_seconds=45),
        Family(fault=gateway_hangs, weight=2, bound_seconds=45),
    )
}
