"""Two workers at one gateway: its rate is kept and used, and its outage costs nobody an order."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from orchestrator.entries import StepFailed, StepStarted
from orchestrator.state import State
from steps.gateways.sandbox.judge import RequestRow, SandboxJudge
from steps.gateways.sandbox.process import SandboxProcess
from tests.deployment import Deployment, Order, expected, measured, payload
from tests.worker_processes import until

LIMIT, WINDOW = 80, timedelta(seconds=4)
AT_THE_GATEWAY = ("authorize", "capture", "void", "refund", "find")


def orders(count: int, *, ends: State = State.COMPLETED, prefix: str = "order") -> list[Order]:
    changes = {} if ends is State.COMPLETED else {"payment_method": "tok_declined"}
    return [Order(payload=payload(f"{prefix}-{n}", **changes), ends=ends) for n in range(count)]


def arrivals(requests: Sequence[RequestRow]) -> list[datetime]:
    return sorted(each.received_at for each in requests if each.operation in AT_THE_GATEWAY)


def most_in_any_window(moments: Sequence[datetime]) -> int:
    return max(sum(each <= other < each + WINDOW for other in moments) for each in moments)


def told(deployment: Deployment, event: str) -> list[dict[str, Any]]:
    """What all workers together say of an event."""
    return [line for member in deployment.members for line in member.events(event)]


def all_asked(deployment: Deployment, prefix: str) -> datetime:
    """Since when every saga of a batch has asked for the gateway: the backlog is whole."""
    return max(
        next(
            each.at
            for each in saga.entries
            if isinstance(each.entry, StepStarted) and each.entry.step == "authorize_payment"
        )
        for saga in deployment.histories()
        if saga.key.startswith(prefix)
    )


def test_two_workers_use_the_rate_and_never_exceed_it(deployment: Deployment) -> None:
    """On a machine that stood still for seconds, once more: nobody uses what passes meanwhile."""
    batches: list[Order] = []
    deployment.start_workers(2, gateway_rate="80/4 seconds")
    for number in range(5):
        batch = orders(240, prefix=f"batch-{number}")
        deployment.start_orders(batch)
        deployment.wait_at_rest(150)
        batches += batch
        assert len(list(deployment.judge.requests())) >= 2 * len(batches)
        if use_of_the_rate(deployment, f"batch-{number}") >= 0.9:
            break
    else:
        pytest.fail("it was never used well")
    assert deployment.violations(expected(batches)) == []


def use_of_the_rate(deployment: Deployment, prefix: str) -> float:
    moments = arrivals(list(deployment.judge.requests()))
    assert most_in_any_window(moments) <= LIMIT
    since = all_asked(deployment, prefix)
    # As long as there is a backlog: a window before the end it runs dry.
    backlog = [each for each in moments if since <= each <= moments[-1] - WINDOW]
    use = (len(backlog) - 1) / (LIMIT * ((backlog[-1] - backlog[0]) / WINDOW))
    refused = sum(
        isinstance(each.entry, StepFailed)
        for saga in deployment.histories()
        for each in saga.entries
    )
    measured(
        f"at most {most_in_any_window(moments)} of {LIMIT} in any {WINDOW}; {use:.1%} used over "
        f"{(backlog[-1] - backlog[0]) / WINDOW:.1f} windows of backlog; "
        f"{refused / len(moments):.2f} refusals per request"
    )
    return use


@pytest.mark.long
def test_without_the_rate_the_gateway_gets_more_than_was_agreed(deployment: Deployment) -> None:
    deployment.start_orders(orders(150))
    deployment.start_workers(2)
    deployment.wait_at_rest(60)

    assert most_in_any_window(arrivals(list(deployment.judge.requests()))) > LIMIT


def test_fifty_declined_customers_stop_nobody(deployment: Deployment) -> None:
    declined = orders(50, ends=State.COMPENSATED, prefix="declined")
    others = orders(20)
    deployment.start_orders([*declined, *others])
    deployment.start_workers(2, breaker_failures=5)
    deployment.wait_at_rest(60)

    assert told(deployment, "circuit.opened") == []
    assert deployment.violations(expected(declined, others)) == []


def test_an_outage_opens_the_circuit_once_and_then_costs_one_request_per_trial(
    deployment: Deployment,
) -> None:
    batch = orders(60)
    deployment.judge.script("drop_after", times=None)  # done, and nobody is told
    deployment.start_orders(batch)
    deployment.start_workers(2, breaker_open_seconds=1)
    until(lambda: told(deployment, "circuit.opened"), seconds=60, what="the open circuit")
    until(lambda: len(told(deployment, "circuit.trial_failed")) >= 4, seconds=60, what="trials")
    deployment.judge.clear_faults()
    deployment.wait_at_rest(60)

    opened = told(deployment, "circuit.opened")
    failed, closed = told(deployment, "circuit.trial_failed"), told(deployment, "circuit.closed")
    dropped = [each for each in deployment.judge.requests() if "drop_after" in each.faults]
    before_it_opened = len(dropped) - len(failed)
    measured(f"{before_it_opened} requests until it opened, then {len(failed)} trials")
    assert (len(opened), len(closed)) == (1, 1)
    assert 10 <= before_it_opened <= 10 + 8  # what had been let through already
    assert deployment.violations(expected(batch)) == []


@pytest.mark.parametrize(
    "is_protected",
    [True, pytest.param(False, marks=pytest.mark.long)],
    ids=["protected", "without"],
)
def test_a_gateway_that_is_down_for_a_while_costs_no_order(
    deployment: Deployment, tmp_path: Path, *, is_protected: bool
) -> None:
    batch = orders(40)

    def given_up() -> int:
        return deployment.counts()[State.COMPENSATING]

    with SandboxProcess.start(tmp_path / "second.sqlite") as gateway:
        url, port = gateway.base_url, gateway.port
    deployment.start_orders(batch)
    deployment.start_workers(
        2,
        gateway_url=url,
        breaker_open_seconds=1,
        breaker_failures=10 if is_protected else 0,
    )
    if is_protected:
        until(lambda: told(deployment, "circuit.opened"), seconds=60, what="the open circuit")
        time.sleep(15)  # two to three times as long as all tries of a saga would take
    else:
        until(given_up, seconds=60, what="an order that is given up")

    with SandboxProcess.start(tmp_path / "second.sqlite", port=port), SandboxJudge(url) as judge:
        deployment.judge.close()
        deployment.judge = judge
        deployment.wait_at_rest(90)
        lost = deployment.counts()[State.COMPENSATED]

        assert bool(lost) is not is_protected
        if is_protected:
            assert len(told(deployment, "circuit.opened")) == 1
            assert deployment.violations(expected(batch)) == []
