"""A deployment made by hand, verb by verb, as the documentation tells it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Databases
from tests.worker_processes import until
from workers.local_servers.running_servers import RunningServers

ROOT = Path(__file__).parents[2]
AMENDS = [sys.executable, "-P", "-m", "recovery.cli"]
ORDER = (
    *("--set", "customer_id=C-1", "--set", "units=1", "--set", "amount_minor=1990"),
    *("--set", "currency=EUR"),
)

Amends = Callable[..., list[dict[str, Any]]]


@contextmanager
def running(environment: dict[str, str], log: Path, *arguments: str) -> Iterator[None]:
    """A verb that runs until it is told to end, and then ends well."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*AMENDS, *arguments],
            env=environment,
            cwd=log.parent,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield
        process.terminate()
        assert process.wait(timeout=60) in (0, -signal.SIGTERM), log.read_text()
    finally:
        process.kill()
        process.wait()


@pytest.mark.timeout(150)
def test_from_an_empty_database_to_a_completed_and_a_compensated_order(
    servers: RunningServers, databases: Databases, broker_url: str, tmp_path: Path
) -> None:
    url = servers.postgres.create_database("by_hand")
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment = {
        **kept,
        "PYTHONPATH": str(ROOT),
        "AMENDS_DATABASE_URL": url,
        "AMENDS_BROKER_URL": broker_url,
    }
    (tmp_path / "workers").mkdir()  # a folder of the caller's own, of an unlucky name
    (tmp_path / "workers" / "__init__.py").write_text("raise RuntimeError('not ours')")

    def amends(*arguments: str) -> list[dict[str, Any]]:
        answer = subprocess.run(
            [*AMENDS, "--json", *arguments],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert answer.returncode == 0, answer.stderr
        return [json.loads(line) for line in answer.stdout.splitlines()]

    gateway_log = tmp_path / "gateway.log"
    amends("migrate", "--checkout")
    amends("restock", "--sku", "cd", "--units", "5")
    with running(environment, gateway_log, "sandbox", "--port", "0"):
        where = until(lambda: _address(gateway_log), what="the gateway's address")
        environment["AMENDS_GATEWAY_URL"] = f"http://{where}"
        with running(environment, tmp_path / "worker.log", "worker", "--concurrency", "2"):
            for key, card in (("A-1", "tok_ok"), ("A-2", "tok_declined")):
                mine = ("--set", f"order_id={key}", "--set", f"payment_method={card}")
                amends("start", "checkout", "--key", key, *ORDER, *mine)
            ended = {each["key"]: each["state"] for each in amends("wait", "A-1", "A-2")}
            findings = amends("doctor")

    assert ended == {"A-1": "completed", "A-2": "compensated"}
    verdicts = {each["check"]: each["verdict"] for each in findings}
    assert (verdicts["workers"], verdicts["sweeper"]) == ("ok", "ok")
    timeline = amends("show", "A-2")[0]["timeline"]
    assert timeline[-1]["outcome"] == "compensated"
    databases.drop(url)


def _address(log: Path) -> str | None:
    for line in log.read_text().splitlines():
        if line.startswith("listening on "):
            return line.removeprefix("listening on ").strip()
    return None
