"""The whole demo: stage, scenes, verdict."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from orchestrator.state import State
from recovery.demo.narrator import Narrator
from recovery.demo.scenarios.playing import SCENARIOS, played
from recovery.demo.scenarios.table import Row, failures
from recovery.demo.scenes import Scenes
from recovery.demo.stage import WORKERS, Stage, open_stage
from recovery.invariants.collect import check, collect
from recovery.invariants.evidence import Evidence

SEED = 20_261_124
SWEEP_SECONDS = 0.5
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long the show is."""

    orders: int = 200
    lease_seconds: float = 3.0


FULL = Pace()
FAST = Pace(orders=100, lease_seconds=2.0)


def run(narrator: Narrator, pace: Pace, *, scenarios: bool = False, keep: bool = False) -> bool:
    """Play the demo; True when every promise held. Leaves no process behind.

    With `scenarios` only the scenes of the table are played.
    """
    began = time.monotonic()
    with _ending_once(), narrator:
        narrator.scene("0", "Starting PostgreSQL, Valkey, a gateway, 2 workers, a sweeper, HTTP")
        with open_stage(lease_seconds=pace.lease_seconds, sweep_seconds=SWEEP_SECONDS) as stage:
            _raise_curtain(stage, narrator, pace)
            holds = _play(stage, narrator, None if scenarios else pace)
            narrator.say(f"{time.monotonic() - began:.1f} s in all", ok=holds)
            if keep:
                _keep(stage, narrator)
    return holds


def _raise_curtain(stage: Stage, narrator: Narrator, pace: Pace) -> None:
    for _ in range(WORKERS):
        stage.start_worker()
    stage.start_sweeper()
    stage.start_server()
    stage.wait_until_ready()
    pids = {each.name: each.pid for each in stage.children}
    narrator.say(
        ", ".join(f"{name} is process {pid}" for name, pid in pids.items()),
        processes={**pids, "gateway": stage.gateway.pid},
    )
    narrator.say(
        f"for a quick show leases last {pace.lease_seconds:g} s (else 15 s), and the database does "
        "not sync to disk"
    )


def _play(stage: Stage, narrator: Narrator, pace: Pace | None) -> bool:
    verdicts = _Verdicts(narrator)
    expected = Counter[State]() if pace is None else _acts(stage, verdicts, pace)
    rows = _scenarios(stage, verdicts)
    verdicts.scene("f", "Do the books balance?")
    evidence = collect(stage.engine, stage.judge)
    violations = check(evidence, stage.definitions, at_rest=True, at_least=expected)
    for each in violations[:20]:
        verdicts.say(str(each), ok=False)
    _tell_books(evidence, verdicts, balances=not violations)
    verdicts.table(rows)
    return verdicts.all_hold


def _acts(stage: Stage, narrator: Narrator, pace: Pace) -> Counter[State]:
    scenes = Scenes(stage, narrator)
    expected: Counter[State] = Counter()
    expected += scenes.completes()
    expected += scenes.declined()
    expected += scenes.killed()
    expected += scenes.crowd(pace.orders, SEED)
    return expected


def _scenarios(stage: Stage, narrator: Narrator) -> list[Row]:
    """Play them; the table itself comes at the end of the show."""
    narrator.scene("e", f"{len(SCENARIOS)} scenarios: what they leave in log, ledger, stock, logs")
    rows = []
    for row in played(stage):
        rows.append(row)
        narrator.say(f"{row.number} {row.title}", ok=row.holds)
        for each in failures([row]):
            narrator.say(each, ok=False)
    return rows


def _tell_books(evidence: Evidence, narrator: Narrator, *, balances: bool) -> None:
    moved = Counter[str]()
    for row in evidence.movements:
        moved[row.operation] += row.amount_minor if row.effective else 0
    orders = sum(
        each.entries[0].entry.payload["amount_minor"]  # type: ignore[union-attr]
        for each in evidence.sagas
        if each.state is State.COMPLETED
    )
    kept = moved["capture"] - moved["refund"]
    reserved = sum(each.reserved for each in evidence.stock)
    narrator.say(
        f"money kept by the shop {_euro(kept)} = completed orders {_euro(orders)}; "
        f"still held {_euro(moved['authorize'] - moved['void'] - moved['capture'])}; "
        f"goods still put aside {reserved}",
        ok=kept == orders and reserved == 0,
        kept_minor=kept,
        completed_minor=orders,
        reserved_units=reserved,
    )
    narrator.say(
        f"{len(evidence.sagas)} sagas and {len(evidence.movements)} movements of the gateway "
        "checked against each other: at most one effect per key, intent before effect, money "
        "conserved, stock in order, every saga ended",
        ok=balances,
        sagas=len(evidence.sagas),
        movements=len(evidence.movements),
    )


def _euro(minor: int) -> str:
    return f"{minor // 100:,}.{minor % 100:02} EUR"


class _Verdicts:
    """Passes everything on and remembers whether anything was said to be wrong."""

    def __init__(self, narrator: Narrator) -> None:
        self._narrator = narrator
        self.all_hold = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._narrator, name)

    def say(self, text: str, *, ok: bool | None = None, **facts: Any) -> None:
        self.all_hold = self.all_hold and ok is not False
        self._narrator.say(text, ok=ok, **facts)


def _keep(stage: Stage, narrator: Narrator) -> None:
    narrator.scene("+", "Everything keeps running until Ctrl-C. In another terminal:")
    database, broker = stage.servers.database_url, stage.servers.broker_url
    gateway = stage.gateway.base_url
    narrator.command(f"export AMENDS_DATABASE_URL={database}", database_url=database)
    narrator.command(f"export AMENDS_BROKER_URL={broker}", broker_url=broker)
    narrator.command(f"export AMENDS_GATEWAY_URL={gateway}", gateway_url=gateway)
    narrator.command("amends list; amends show C-1; amends doctor")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        narrator.say("stopping")


@contextmanager
def _ending_once() -> Iterator[None]:
    """The first signal unwinds the stage; a second one does not interrupt that."""

    def end(number: int, _frame: object) -> None:
        for each in ENDING:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    before = {each: signal.signal(each, end) for each in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
