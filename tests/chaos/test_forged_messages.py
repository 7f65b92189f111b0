"""Thousands of forged and broken messages: nothing happens, and the worker stays as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.state import State
from tests.chaos.forgeries import forgeries
from tests.chaos.sizes import sizes
from tests.deployment import QUEUE, Deployment, Order, measured, payload
from tests.worker_processes import until

MEGABYTE = 2**20
COMPLETED = 10
WARMING = 1_000
"""So many that every child of a prefork worker has built what it needs before we measure."""


def _busy_and_not_due(deployment: Deployment) -> list[Order]:
    """Ten sagas that have ended, and one whose next attempt is an hour away."""
    orders = [Order(payload=payload(f"done-{n}"), ends=State.COMPLETED) for n in range(COMPLETED)]
    deployment.judge.script(
        "rate_limited", order_reference="later", operation="authorize", retry_after_seconds=3600
    )
    return [*orders, Order(payload=payload("later"), ends=State.RUNNING)]


@sizes(300, 10_000)
@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_forged_messages_have_no_effect(
    deployment: Deployment, tmp_path: Path, pool: str, size: int
) -> None:
    worker = deployment.start_worker(pool=pool)
    sagas = deployment.start_orders(_busy_and_not_due(deployment))
    later = sagas[-1]
    until(
        lambda: deployment.ended() == COMPLETED and len(deployment.entries(later)) == 7,
        what="sagas that are not due",
    )
    touched = tmp_path / "touched"
    for message in forgeries(WARMING, sagas, touched):
        deployment.broker.lpush(QUEUE, message)
    until(lambda: deployment.queue_length() == 0, seconds=60, what="an empty queue")
    before, memory = _everything(deployment), worker.memory()

    for message in forgeries(size, sagas, touched, seed=2):
        deployment.broker.lpush(QUEUE, message)
    until(lambda: deployment.queue_length() == 0, seconds=600, what="an empty queue")
    [last] = deployment.start_orders([Order(payload=payload("last"), ends=State.COMPLETED)])
    until(lambda: deployment.client.get(last).is_terminal, what="a saga after all that")

    after = worker.memory()
    grown = max(after[pid] - was for pid, was in memory.items() if pid in after) / MEGABYTE
    measured(
        f"{size} forged messages ({pool}): RSS {memory[worker.pid] / MEGABYTE:.0f} MB, "
        f"the process that grew most {grown:+.1f} MB"
    )
    assert worker.is_alive
    assert not touched.exists()
    assert {name for name, _ in _everything(deployment) - before} == {"last"}
    assert grown <= 20
    assert deployment.client.get(last).state is State.COMPLETED


def _everything(deployment: Deployment) -> set[tuple[str, int]]:
    """How long every log is, and every request that the gateway has received."""
    logs = {(each.key, each.seq) for each in deployment.histories()}
    requests = deployment.judge.requests()
    return logs | {(each.order_reference or "last", each.id) for each in requests}
