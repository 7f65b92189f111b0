"""``make simulation N=20000 SEED=1``: walk sagas through faults, judge them by the world's book.

Half of them are checkouts with the checkout's own payment steps, half are random sagas. Each has a
seed of its own, so one that violated something is walked again with ``--only``. The exit code is 1
when anything was violated.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import Any

from orchestrator.definition import SagaDefinition
from steps.payload import CheckoutPayload
from tests.histories import Order
from tests.simulation.profiles import PROFILES, Profile
from tests.simulation.shapes import SHAPES, paying, random_shape, sparing_shapes
from tests.simulation.walk import Clock, Engine, Walked, virtual_time, walked

BATCH = 500
SHOWN = 3
ORDER = CheckoutPayload(
    order_id="o-1",
    customer_id="c-1",
    sku="cd",
    units=1,
    amount_minor=1990,
    currency="EUR",
    payment_method="tok_ok",
)


@dataclass(slots=True)
class Tally:
    """What a number of walks came to."""

    sagas: int = 0
    checkouts: int = 0
    faulted: int = 0
    faulted_checkouts: int = 0
    beyond: int = 0
    entries: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    slowest: timedelta = timedelta(0)
    cpu_seconds: float = field(default=0.0, compare=False)
    violations: list[tuple[int, Walked]] = field(default_factory=list)

    def add(self, number: int, walk: Walked) -> None:
        is_checkout = walk.shape == "checkout"
        self.sagas += 1
        self.checkouts += is_checkout
        self.faulted += bool(walk.faults)
        self.faulted_checkouts += bool(walk.faults) and is_checkout
        self.beyond += walk.is_beyond
        self.entries += walk.entries
        self.faults.update(walk.faults)
        self.ends[walk.end] += 1
        self.slowest = max(self.slowest, walk.quiet_after)
        if walk.violation is not None:
            self.violations.append((number, walk))

    def merge(self, other: Tally) -> None:
        for name in ("sagas", "checkouts", "faulted", "faulted_checkouts", "beyond", "entries"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.faults.update(other.faults)
        self.ends.update(other.ends)
        self.slowest = max(self.slowest, other.slowest)
        self.cpu_seconds += other.cpu_seconds
        self.violations.extend(other.violations)


def walk_batch(seed: int, first: int, last: int) -> Tally:
    """Walk the sagas of these numbers."""
    tally = Tally()
    began = time.process_time()
    clock = Clock()
    with virtual_time(clock):
        engine = Engine(clock)
        for number in range(first, last):
            tally.add(number, walked(engine, *_shape(seed, number)))
    tally.cpu_seconds = time.process_time() - began
    return tally


def _shape(seed: int, number: int) -> tuple[SagaDefinition[Any], Any, Random, Profile]:
    rng = Random(f"{seed}/{number}")  # noqa: S311 - it has to be repeatable
    profile = PROFILES[number // 2 % len(PROFILES)]
    if number % 2:
        return paying(), ORDER, rng, profile
    shapes = sparing_shapes() if profile.spares else range(SHAPES)
    return random_shape(rng.choice(shapes)), Order(), rng, profile


def main() -> int:
    """Walk, print what was walked and the verdict, and return the exit code."""
    parser = argparse.ArgumentParser(prog="make simulation", description=__doc__)
    parser.add_argument("--sagas", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", type=int, help="walk the saga of this number alone, and show it")
    options = parser.parse_args()
    began = time.monotonic()
    if options.only is not None:
        tally = walk_batch(options.seed, options.only, options.only + 1)
    else:
        tally = _all(options.sagas, options.seed, options.jobs)
    _show(tally, time.monotonic() - began, options)
    return 1 if tally.violations else 0


def _all(sagas: int, seed: int, jobs: int) -> Tally:
    tally = Tally()
    with ProcessPoolExecutor(jobs) as pool:
        batches = [
            pool.submit(walk_batch, seed, first, min(first + BATCH, sagas))
            for first in range(0, sagas, BATCH)
        ]
        for each in batches:
            tally.merge(each.result())
    return tally


def _show(tally: Tally, seconds: float, options: argparse.Namespace) -> None:
    print("\n".join(_lines(tally, seconds, options)))


def _lines(tally: Tally, seconds: float, options: argparse.Namespace) -> Iterator[str]:
    yield (
        f"{tally.sagas} sagas, {tally.checkouts} of them checkouts, in {seconds:.0f} s "
        f"({tally.sagas / max(tally.cpu_seconds, 0.001):.0f} per second of CPU), "
        f"{tally.entries} entries, "
        f"seed {options.seed}"
    )
    yield (
        f"{tally.faulted} met faults ({tally.faulted_checkouts} checkouts), "
        f"{tally.beyond} of them in a world that breaks its contract"
    )
    yield "faults: " + ", ".join(f"{name} {n}" for name, n in sorted(tally.faults.items()))
    yield "ends: " + ", ".join(f"{name} {n}" for name, n in sorted(tally.ends.items()))
    yield f"quiet after the last fault within {tally.slowest} at most"
    for number, walk in tally.violations[:SHOWN]:
        yield f"\nVIOLATION in saga {number} ({walk.shape}): {walk.violation}"
        yield from (f"    {line}" for line in walk.log)
        yield f"    again: python -m tests.simulation --seed {options.seed} --only {number}"
    n = max(tally.faulted, 1)
    if tally.violations:
        yield f"{len(tally.violations)} violations in {tally.faulted} faulted sagas: NOT held"
    else:
        yield (
            f"0 violations in {tally.faulted} faulted sagas: held; 0 of {n} means less than "
            f"{3 / n:.1e} with 95 % confidence"
        )


if __name__ == "__main__":
    sys.exit(main())
