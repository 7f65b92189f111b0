"""A worker that stands still inside a request until another has finished its step, then goes on."""

from __future__ import annotations

import signal
from uuid import UUID

from orchestrator.entries import LateOutcomeRecorded, StepStarted
from orchestrator.state import State
from tests.chaos.sizes import sizes
from tests.deployment import Deployment, Member, measured, spread
from tests.worker_processes import until


def _stop_inside_a_request(deployment: Deployment, key: str) -> tuple[UUID, Member]:
    """Have one worker stand still while another ends the saga; return the saga and the first."""
    [saga_id] = deployment.start_held(1, prefix=key)
    [holder] = [each for each in deployment.wait_held(1) if each.saga_id == saga_id]
    stopped = deployment.member_of(holder.pid)
    stopped.signal(signal.SIGSTOP)
    until(
        lambda: deployment.client.get(saga_id).is_terminal,
        seconds=30,
        what="the end of the saga at the other worker",
    )
    deployment.judge.release()
    return saga_id, stopped


def _late(deployment: Deployment, saga_id: UUID) -> list[LateOutcomeRecorded]:
    found = [each.entry for each in deployment.entries(saga_id)]
    return [each for each in found if isinstance(each, LateOutcomeRecorded)]


@sizes(1, 20)
def test_a_stale_result_is_refused_and_kept(deployment: Deployment, size: int) -> None:
    deployment.variables |= {"lease_seconds": 1, "sweep_seconds": 0.5}
    workers = deployment.start_workers(2)
    took = []

    for number in range(size):
        saga_id, stopped = _stop_inside_a_request(deployment, f"stale-{number}")
        stopped.signal(signal.SIGCONT)
        until(lambda: _late(deployment, saga_id), what="the late outcome")  # noqa: B023 - at once

        [late] = _late(deployment, saga_id)
        starts = [
            (each.entry.attempt, each.at)
            for each in deployment.entries(saga_id)
            if isinstance(each.entry, StepStarted) and each.entry.step == "authorize_payment"
        ]
        assert (late.step, late.attempt) == ("authorize_payment", 1)
        assert [number for number, _ in starts] == [1, 2]
        took.append((starts[1][1] - starts[0][1]).total_seconds())

    refused = [line for each in workers for line in each.events("saga.stale_result_refused")]
    measured(f"{len(refused)} stale results refused, taken over {spread(took)} after their claim")
    assert len(refused) == size
    assert deployment.violations({State.COMPLETED: size}) == []
    effects = [each for each in deployment.judge.movements() if each.effective]
    assert len(effects) == 3 * size


def test_without_the_token_the_same_result_is_accepted_and_noticed(deployment: Deployment) -> None:
    deployment.variables |= {"lease_seconds": 1, "sweep_seconds": 0.5}
    deployment.variables["sagas"] = "tests.chaos.without_fence"
    deployment.start_workers(2)
    saga_id, stopped = _stop_inside_a_request(deployment, "unfenced")
    before = deployment.client.get(saga_id).seq

    stopped.signal(signal.SIGCONT)

    until(lambda: deployment.client.get(saga_id).seq > before, what="the accepted result")
    assert not _late(deployment, saga_id)
    found = deployment.violations({State.COMPLETED: 1})
    assert any(each.startswith("history folds") for each in found), found
