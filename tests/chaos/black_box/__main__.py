"""``make chaos SEED=1 SAGAS=15000 MINUTES=20``: checkouts under faults from outside, and a verdict.

Real processes, servers and a gateway with its own faults; a supervisor starts again what ends. One
incident after the other, now and then a second on top of the first, all chosen by the seed. Then
everything is mended, and what must hold is judged: each checkout ended or stands in front of a
person, books and stock agree with the gateway's ledger to the cent, nothing stalled for longer than
its family of faults allows.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from orchestrator.errors import AmendsError
from orchestrator.storage import migrate
from orchestrator.storage.database import Database, create_engine
from recovery.reconciliation.storage.schema import RECONCILIATION_SCHEMA
from steps.gateways.sandbox.process import SandboxProcess
from steps.storage.schema import SHOP_SCHEMA
from tests.chaos.black_box.crew import Crew
from tests.chaos.black_box.faults import FAMILIES, World, harass
from tests.chaos.black_box.payers import Payers
from tests.chaos.black_box.stalls import Stall, in_flight, watch
from tests.deployment import Deployment, Order, mixed, payload, spread
from tests.http_edge import TOKENS, WEBHOOK_SECRET
from tests.servers import scratch
from workers.local_servers.ports import LOOPBACK, free_port
from workers.local_servers.running_servers import start
from workers.settings import Settings

SECOND_INCIDENT = 0.25
"""How often a second incident comes before the first is mended."""

REST_SECONDS = 180.0
"""Faults over and servers up: how long until everything has ended or asks a person."""

WATCH_SECONDS = 120.0
SLOWEST = 3
BATCH = 10


def main() -> int:
    """Run, print what was found, and return 1 if something does not hold."""
    arguments = _arguments()
    dice = random.Random(arguments.seed)  # noqa: S311 - repeatable, not secret
    directory = Path(tempfile.mkdtemp(prefix="amends-chaos-"))
    print(f"seed {arguments.seed}, profile {arguments.profile}, logs in {directory}", flush=True)
    with _world(directory, dice, arguments.profile) as world:
        code = _Run(world, arguments).judge()
    if code == 0:
        shutil.rmtree(directory)
    return code


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="which faults, and when")
    parser.add_argument("--sagas", type=int, default=3_000, help="checkouts to start")
    parser.add_argument("--minutes", type=float, default=5.0, help="no new incident after that")
    parser.add_argument("--rate", type=float, default=20.0, help="checkouts started per second")
    parser.add_argument("--profile", choices=("fast", "redeliver"), default="fast")
    parser.add_argument("--only", choices=sorted(FAMILIES), help="this family of faults alone")
    return parser.parse_args()


@contextmanager
def _world(directory: Path, dice: random.Random, profile: str) -> Iterator[World]:
    with (
        start(scratch("amends-chaos-"), durable=False, watchdog=True, ephemeral=True) as servers,
        SandboxProcess.start(directory / "ledger.sqlite") as gateway,
    ):
        url = servers.postgres.create_database("chaos")
        engine = create_engine(url)
        for schema in ((), (SHOP_SCHEMA,), (RECONCILIATION_SCHEMA,)):
            migrate.upgrade(engine, *schema)
        engine.dispose()
        settings = Settings.load(database_url=url, broker_url=servers.broker_url)
        deployment = Deployment(settings, directory, gateway)
        port = free_port()
        deployment.variables |= {
            "broker_profile": profile,
            "sandbox_webhook_secrets": WEBHOOK_SECRET,
            "http_tokens": TOKENS,
            "edge_port": port,
        }
        deployment.judge.announce_to(f"http://{LOOPBACK}:{port}/webhooks/sandbox", WEBHOOK_SECRET)
        world = World(
            deployment=deployment,
            servers=servers,
            gateway=gateway,
            crew=Crew(deployment),
            dice=dice,
        )
        try:
            yield world
        finally:
            servers.valkey.start()
            servers.postgres.start()
            deployment.close()
            world.gateway.stop()


class _Run:
    """One run, from the first start to the verdict."""

    def __init__(self, world: World, arguments: argparse.Namespace) -> None:
        self._world = world
        self._arguments = arguments
        self._orders = _orders(arguments.sagas, arguments.seed)
        self._stalls: list[Stall] = []
        self._faulted: set[str] = set()
        self._incidents = 0
        self._started = 0
        self._mended_at = 0.0

    def judge(self) -> int:
        world, deployment = self._world, self._world.deployment
        world.crew.muster()
        harass(world)
        payers = Payers(deployment, world.dice.randrange(10_000))
        feeding = threading.Thread(target=self._feed)
        began = time.monotonic()
        feeding.start()
        while feeding.is_alive() and time.monotonic() - began < self._arguments.minutes * 60:
            self._incident()
            world.seconds(0.5, 4)
            payers.answer()
        feeding.join()
        self._mend()
        rested = self._rest(payers)
        return self._verdict(rested, time.monotonic() - began)

    def _feed(self) -> None:
        """Start the checkouts at a steady pace; a batch that could not be told of is repeated."""
        deployment, pause = self._world.deployment, BATCH / self._arguments.rate
        for place in range(0, len(self._orders), BATCH):
            batch = self._orders[place : place + BATCH]
            while True:
                try:
                    deployment.start_orders(batch)
                except (AmendsError, AssertionError):
                    time.sleep(0.2)
                    continue
                break
            self._started += len(batch)
            time.sleep(pause)

    def _incident(self) -> None:
        world, deployment = self._world, self._world.deployment
        names, weights = zip(*((n, each.weight) for n, each in FAMILIES.items()), strict=True)
        chosen = [self._arguments.only or world.dice.choices(names, weights)[0]]
        if world.dice.random() < SECOND_INCIDENT:
            chosen.append(self._arguments.only or world.dice.choices(names, weights)[0])
        self._faulted |= in_flight(deployment)
        for name in chosen:
            FAMILIES[name].fault(world)
        self._incidents += len(chosen)
        self._faulted |= in_flight(deployment)
        world.crew.fill()
        stall = watch(
            deployment,
            " then ".join(chosen),
            WATCH_SECONDS,
            self._living(),
            lost_messages=any(FAMILIES[name].loses_messages for name in chosen),
        )
        self._stalls.append(stall)
        world.crew.fill()
        print(
            f"{stall.name}: interrupted work was scheduled again after {spread(stall.scheduled)}, "
            f"what was queued was claimed after {spread(stall.queued)}"
            + (f", {stall.left} STALLED" if stall.left else ""),
            flush=True,
        )

    def _living(self) -> set[int]:
        dead = {pid for _, pid in self._world.killed}
        return {each.pid for each in self._world.deployment.holders()} - dead

    def _mend(self) -> None:
        self._mended_at = time.time()
        self._world.deployment.judge.clear_faults()
        self._world.deployment.judge.release()

    def _rest(self, payers: Payers) -> float | None:
        """Return after how many seconds everything had ended or asked a person, or None."""
        began = time.monotonic()
        while time.monotonic() - began < REST_SECONDS:
            self._world.crew.fill()
            payers.answer(everybody=True)
            if self._world.deployment.is_at_rest():
                return time.monotonic() - began
            time.sleep(1)
        return None

    def _verdict(self, rested: float | None, seconds: float) -> int:
        deployment = self._world.deployment
        found = self._found(rested)
        struck = {each.order_reference for each in deployment.judge.requests() if each.faults} - {
            None
        }
        faulted = len(self._faulted | {each for each in struck if each})
        counts = deployment.counts()
        print()
        for name, family in _families(self._stalls).items():
            print(name.ljust(60), family)
        print(f"ends: {', '.join(f'{state} {count}' for state, count in counts.items())}")
        print(
            f"{self._started} checkouts, {faulted} of them under a fault, {self._incidents} "
            f"incidents, {self._world.crew.restarts} processes started again, {seconds:.0f} s; "
            f"at rest {'never' if rested is None else f'{rested:.1f} s'} after the last fault"
        )
        for told in _slowest(deployment, self._mended_at):
            print(told)
        for each in found[:50]:
            print(f"VIOLATION {each}")
        more = f"; 0 of {faulted} means fewer than {3 / max(faulted, 1):.2%}" if not found else ""
        print(f"violations: {len(found)}{more}")
        return 1 if found or not self._stalls or counts.total() < self._started else 0

    def _found(self, rested: float | None) -> Sequence[str]:
        deployment = self._world.deployment
        found = [] if rested is not None else ["not everything came to rest"]
        found += deployment.violations({})
        found += _unasked(deployment)
        for each in self._stalls:
            bound = max(FAMILIES[name].bound_seconds for name in each.name.split(" then "))
            bound = 45.0 if " then " in each.name else bound
            longest = max(each.scheduled, default=0.0)
            if each.left:
                found.append(f"{each.name}: {each.left} attempts stalled for {WATCH_SECONDS:g} s")
            elif longest > bound:
                found.append(f"{each.name}: {longest:.1f} s until scheduled again, not {bound:g} s")
        return found


def _orders(count: int, seed: int) -> list[Order]:
    """Orders of every sort; one in twenty has a payer who must pass a challenge."""
    dice = random.Random(seed)  # noqa: S311 - repeatable, not secret
    return [
        Order(payload=payload(each.key, payment_method="tok_challenge"), ends=each.ends)
        if dice.random() < 1 / 20
        else each
        for each in mixed(count, seed=seed)
    ]


def _slowest(deployment: Deployment, since: float) -> list[str]:
    """The checkouts that took longest after the last fault, with the pauses they made."""
    sagas = sorted(deployment.histories(), key=lambda each: each.entries[-1].at, reverse=True)
    told = []
    for saga in sagas[:SLOWEST]:
        pauses = " ".join(
            f"{each.at.timestamp() - since:+.1f}:{type(each.entry).__name__}"
            for each in saga.entries[-8:]
        )
        told.append(f"slowest: {saga.key} {saga.state}: {pauses}")
    return told


def _unasked(deployment: Deployment) -> list[str]:
    """Parked checkouts of which nobody was told."""
    rows = Database(deployment.engine).run(
        "SELECT s.key FROM amends.saga s WHERE s.state IN ('stuck', 'failed_compensation') "
        "AND NOT EXISTS (SELECT FROM amends.alert a WHERE a.saga_id = s.id)",
        {},
    )
    return [f"{row[0]} is parked, and nobody was told" for row in rows]


def _families(stalls: Sequence[Stall]) -> dict[str, str]:
    """What each family of faults cost: how often, and until things were scheduled again."""
    by_name: dict[str, list[Stall]] = defaultdict(list)
    for each in stalls:
        by_name[each.name if " then " not in each.name else "two incidents"].append(each)
    return {name: _told(each) for name, each in sorted(by_name.items())}


def _told(stalls: Sequence[Stall]) -> str:
    scheduled = [seconds for each in stalls for seconds in each.scheduled]
    queued = max((seconds for each in stalls for seconds in each.queued), default=0.0)
    times = f"{len(stalls)} times"
    if not scheduled:
        return f"{times}, nothing interrupted, longest in a queue {queued:.1f} s"
    return (
        f"{times}, {len(scheduled)} interrupted, scheduled again after "
        f"{median(scheduled):.1f} s (p50) {max(scheduled):.1f} s (max), "
        f"longest in a queue {queued:.1f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
