"""A file of orders becomes sagas by the command line: once each, whatever happens on the way."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.state import State
from tests.acceptance.orders_file import write_orders
from tests.chaos.sizes import sizes
from tests.deployment import Deployment, Member, measured
from tests.worker_processes import until

ORDERS = os.environ.get("AMENDS_TEST_ORDERS")
"""A .csv or .csv.gz with the columns of `orders_file.COLUMNS`; one is made up where unset."""


def _start(deployment: Deployment, path: Path, limit: int) -> Member:
    """Run ``amends start checkout --from FILE``."""
    options = ["--key", "order_id", "--set", "payment_method=tok_ok", "--limit", str(limit)]
    arguments = ["-m", "recovery.cli", "start", "checkout", "--from", str(path), *options]
    return deployment.start("start", [*arguments, "--json"])


def _report(member: Member) -> dict[str, Any]:
    assert member.wait_end(600) == 0, member.log
    lines = [line for line in member.log.splitlines() if line.startswith("{")]
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def _rows(path: Path, limit: int) -> list[Mapping[str, str]]:
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    return list(itertools.islice(csv.DictReader(text.splitlines()), limit))


def _sagas(deployment: Deployment) -> int:
    return deployment.counts().total()


@sizes(120, 5_000)
def test_a_file_of_orders_is_paid_and_shipped_once(
    deployment: Deployment, tmp_path: Path, size: int
) -> None:
    path = Path(ORDERS) if ORDERS else write_orders(tmp_path / "orders.csv.gz", size)
    rows = _rows(path, size)
    deployment.start_workers(2)
    began = time.monotonic()

    interrupted = _start(deployment, path, size)
    until(
        lambda: _sagas(deployment) >= size // 2 or not interrupted.is_alive,
        seconds=300,
        what="half of the sagas",
    )
    interrupted.kill()
    there = _sagas(deployment)
    second = _report(_start(deployment, path, size))
    deployment.wait_at_rest(1_200)
    seconds = time.monotonic() - began
    third = _report(_start(deployment, path, size))

    measured(
        f"{size} orders from a file: start killed at {there} sagas, all ended after {seconds:.1f} s"
        f" ({size / seconds:.0f} sagas/s), {dict(deployment.counts())}"
    )
    assert (second["created"] + second["existing"], second["refused"]) == (size, 0)
    assert second["existing"] == there
    assert (third["created"], third["existing"], third["refused"]) == (0, size, 0)
    assert _sagas(deployment) == size
    ends = deployment.counts()
    assert set(ends) <= {State.COMPLETED, State.COMPENSATED}
    assert ends[State.COMPLETED] >= 0.9 * size
    assert deployment.violations(ends) == []
    assert _kept_at_the_gateway(deployment) == _sold(deployment, rows)


def _kept_at_the_gateway(deployment: Deployment) -> Counter[str]:
    """What every order's payer has paid in the end, in minor units."""
    totals = deployment.judge.totals()
    return Counter({each.order_reference: each.kept_minor for each in totals if each.kept_minor})


def _sold(deployment: Deployment, rows: list[Mapping[str, str]]) -> Counter[str]:
    """What the file asks for the orders whose saga completed, in minor units."""
    completed = {each.key for each in deployment.histories() if each.state is State.COMPLETED}
    sold = {row["order_id"]: int(row["amount_minor"]) for row in rows}
    return Counter({key: amount for key, amount in sold.items() if key in completed and amount})
