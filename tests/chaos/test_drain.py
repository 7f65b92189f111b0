"""A worker told to end under load, with a request of its own that is not answered in time."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from dataclasses import dataclass
from uuid import UUID

import pytest

from orchestrator.entries import StepStarted, StepUnknown, UnknownReason
from orchestrator.state import State
from orchestrator.storage.histories import SagaHistory
from orchestrator.storage.rows import RING_PATIENCE_SECONDS
from tests.chaos.sizes import sizes
from tests.deployment import Deployment, Holder, expected, measured, mixed
from tests.worker_processes import until

SIGNAL_SECONDS = 0.5
"""Until what was on its way to Postgres when the handler ran has arrived."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    sagas: int
    grace: float
    seconds: float
    slack: float = 5.0


@sizes(Size(sagas=30, grace=2, seconds=120, slack=15), Size(sagas=500, grace=4, seconds=300))
@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_drained_worker_claims_nothing_and_hands_on_what_runs(
    deployment: Deployment, pool: str, size: Size
) -> None:
    deployment.variables |= {"grace_seconds": size.grace}
    deployment.start_workers(2, pool=pool)
    [held] = deployment.start_held(1, prefix="held")
    orders = mixed(size.sagas)
    deployment.start_orders(orders)
    holder = until(lambda: next(iter(_holders(deployment, held)), None), what="the held call")
    assert holder is not None
    worker = deployment.member_of(holder.pid)
    pids = {str(worker.pid), *(str(each.pid) for each in worker._family())}

    at = time.time()
    worker.terminate()
    until(lambda: "shutdown (MainProcess)" in worker.log, what="the signal")
    signalled = time.time()
    code = worker.wait_end(size.grace + 60)
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
        and entry.at.timestamp() > signalled + SIGNAL_SECONDS
    ]
    measured(
        f"drained under load ({pool}, grace {size.grace:g} s): gone after {gone_after:.2f} s, "
        f"given up after {given_up.at.timestamp() - at:.2f} s, "
        f"went on {(went_on.at - given_up.at).total_seconds():.2f} s later"
    )
    if size.sagas < 100:  # more of them wait longer for their turn
        assert max(map(_longest_pause, deployment.histories())) < RING_PATIENCE_SECONDS - 1
    assert code == 0
    assert isinstance(given_up.entry, StepUnknown)
    assert given_up.entry.reason == UnknownReason.DRAINED
    assert gone_after <= size.grace + size.slack
    assert claimed_late == []
    ends = expected(orders) + Counter({State.COMPLETED: 1})
    assert deployment.violations(ends) == []
    assert deployment.counts() == ends


def test_what_waits_for_a_thread_is_handed_back_at_the_end_of_grace(deployment: Deployment) -> None:
    deployment.variables |= {"grace_seconds": 1}
    worker = deployment.start_worker()
    deployment.start_held(4, prefix="held")
    deployment.wait_held(4)
    orders = mixed(10)
    deployment.start_orders(orders)
    until(lambda: deployment.queue_length() == 0, what="messages fetched by a busy worker")

    worker.terminate()
    assert worker.wait_end() == 0
    deployment.judge.release()
    waiting = deployment.queue_length()
    deployment.start_worker()
    rest = deployment.wait_at_rest(90)

    measured(f"{waiting} of {len(orders)} messages there after a drain; at rest {rest:.1f} s on")
    assert waiting == len(orders)  # the four given up are due, and rung for by the next sweep
    ends = expected(orders) + Counter({State.COMPLETED: 4})
    assert deployment.violations(ends) == []
    assert deployment.counts() == ends


def _holders(deployment: Deployment, saga_id: UUID) -> list[Holder]:
    return [each for each in deployment.wait_held(1) if each.saga_id == saga_id]


def _longest_pause(saga: SagaHistory) -> float:
    """Seconds between two entries: as long as a lost message is missed, where one was lost."""
    moments = [each.at.timestamp() for each in saga.entries]
    return max(after - before for before, after in itertools.pairwise(moments))
