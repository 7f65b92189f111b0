"""A worker told to end under load, with a request of its own that is not answered in time."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

import pytest

from orchestrator.entries import StepStarted, StepUnknown, UnknownReason
from orchestrator.state import State
from tests.chaos.sizes import sizes
from tests.deployment import Deployment, expected, measured, mixed

SIGNAL_SECONDS = 0.5
"""Until the handler has run and what was on its way to Postgres has arrived."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    sagas: int
    grace: float
    seconds: float


@sizes(Size(sagas=30, grace=2, seconds=60), Size(sagas=500, grace=4, seconds=300))
@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_drained_worker_claims_nothing_and_hands_on_what_runs(
    deployment: Deployment, pool: str, size: Size
) -> None:
    deployment.variables |= {"grace_seconds": size.grace}
    deployment.start_workers(2, pool=pool)
    [held] = deployment.start_held(1, prefix="held")
    orders = mixed(size.sagas)
    deployment.start_orders(orders)
    [holder] = [each for each in deployment.wait_held(1) if each.saga_id == held]
    worker = deployment.member_of(holder.pid)
    pids = {str(worker.pid), *(str(each.pid) for each in worker._family())}

    at = time.time()
    worker.terminate()
    code = worker.wait_end(size.grace + 10)
    gone_after = time.time() - at
    deployment.judge.release()
    deployment.wait_at_rest(size.seconds)

    entries = deployment.entries(held)
    [given_up] = [each for each in entries if isinstance(each.entry, StepUnknown)]
    went_on = next(
        each for each in entries if each.seq > given_up.seq and isinstance(each.entry, StepStarted)
    )
    claimed_late = [
        entry.at.timestamp() - at
        for saga in deployment.histories()
        for entry in saga.entries
        if isinstance(entry.entry, StepStarted)
        and entry.entry.owner.rpartition("/")[2] in pids
        and entry.at.timestamp() > at + SIGNAL_SECONDS
    ]
    measured(
        f"drained under load ({pool}, grace {size.grace:g} s): gone after {gone_after:.2f} s, "
        f"given up after {given_up.at.timestamp() - at:.2f} s, "
        f"went on {(went_on.at - given_up.at).total_seconds():.2f} s later"
    )
    assert code == 0
    assert isinstance(given_up.entry, StepUnknown)
    assert given_up.entry.reason == UnknownReason.DRAINED
    assert gone_after <= size.grace + 5
    assert claimed_late == []
    ends = expected(orders) + Counter({State.COMPLETED: 1})
    assert deployment.violations(ends) == []
    assert deployment.counts() == ends
