"""A person hears of it: real processes, a real receiver, and everything in between that breaks."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from uuid import UUID

import pytest

from orchestrator.state import State
from orchestrator.storage.alert_statements import MOVED_ON
from orchestrator.storage.alerts import Alert, Alerts
from orchestrator.storage.database import Database
from orchestrator.storage.processes import Processes
from recovery.alerts.sinks import SEND_SECONDS
from recovery.alerts.webhook import CONNECT_SECONDS
from recovery.sweep_loop import KIND
from tests.acceptance.pledge import PLEDGE
from tests.alert_receiver import SECRET, Receiver
from tests.deployment import Deployment, Member
from tests.worker_processes import until

SWEEP_SECONDS = 0.5


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as serving:
        yield serving


@pytest.fixture
def told(deployment: Deployment) -> Deployment:
    """A deployment that has the saga, and no sink yet."""
    deployment.variables |= {"sagas": "tests.acceptance.pledge", "sweep_seconds": SWEEP_SECONDS}
    return deployment


def sink(url: str) -> dict[str, Any]:
    return {"alert_url": url, "alert_secret": SECRET}


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def alerts(deployment: Deployment) -> list[Alert]:
    return Alerts(Database(deployment.engine)).find(closed_too=True, limit=10)


def the_alert(deployment: Deployment) -> Alert:
    [found] = alerts(deployment)
    return found


def park(deployment: Deployment) -> UUID:
    started = deployment.client.start(PLEDGE, {"name": "Ada Lovelace"}, key="P-1")
    until(
        lambda: deployment.client.get(started.id).state == State.FAILED_COMPENSATION,
        what="the parked saga",
    )
    return started.id


def hurry(deployment: Deployment) -> None:
    """Let its next pause be over."""
    deployment.execute(
        "UPDATE amends.alert SET due_at = clock_timestamp() WHERE due_at IS NOT NULL"
    )


def amends(deployment: Deployment, *arguments: str) -> Member:
    return deployment.start("cli", ["-m", "recovery.cli", *arguments])


def sweepers(deployment: Deployment) -> dict[str, Any]:
    """When each sweeper was last seen."""
    seen = Processes(Database(deployment.engine)).all()
    return {each.process.owner: each.seen_at for each in seen if each.process.kind == KIND}


def sweeps_pass(deployment: Deployment, count: int) -> None:
    for _ in range(count):
        before = sweepers(deployment)
        until(lambda before=before: sweepers(deployment) != before, what="a sweep")  # type: ignore[misc]


def test_an_alert_arrives_whatever_the_receiver_does_until_it_is_acknowledged(
    told: Deployment,
) -> None:
    port = free_port()
    told.variables |= sink(f"http://127.0.0.1:{port}/alerts")
    told.start_worker()
    saga_id = park(told)
    until(lambda: "ConnectError" in str(alerts(told)), what="a refused connection")

    with Receiver(port, status=500) as receiver:
        hurry(told)
        until(lambda: "500" in (the_alert(told).last_error or ""), what="a failing receiver")
        receiver.status = 200
        hurry(told)
        until(lambda: the_alert(told).sent_at, what="the alert")
        hurry(told)
        until(lambda: len(receiver.taken()) == 2, what="the reminder")

        assert all(each.is_genuine for each in receiver.calls)
        assert {each.id for each in receiver.calls} == {str(the_alert(told).id)}
        told_of = receiver.taken()[0].data
        assert told_of == {
            "id": str(the_alert(told).id),
            "kind": "saga_parked",
            "saga_id": str(saga_id),
            "saga": "pledge",
            "key": "P-1",
            "state": "failed_compensation",
            "reason": "compensation_exhausted",
            "question": told_of["question"],
            "money_at_risk": {"EUR": {"held_minor": 1990, "captured_minor": 0}},
            "next": f"amends show {saga_id}",
        }
        assert "hold" in told_of["question"]
        assert "Lovelace" not in str([each.body for each in receiver.calls])

        prefix = str(the_alert(told).id)[:8]
        done = amends(told, "acknowledge", prefix, "--reason", "on it", "--actor", "ada")
        assert done.wait_end() == 0
        count = len(receiver.calls)
        hurry(told)
        sweeps_pass(told, 4)
        assert len(receiver.calls) == count
    assert the_alert(told).closed_by == "ada"


def test_a_sender_killed_before_it_sent_is_followed_by_another(
    told: Deployment, receiver: Receiver
) -> None:
    told.start_worker()
    park(told)
    doomed = told.start(
        "doomed",
        ["-m", "tests.acceptance.dies_sending", "sweep", "--interval", str(SWEEP_SECONDS)],
        **sink(receiver.url),
    )
    assert doomed.wait_end() == -9
    assert receiver.open_calls == 0
    assert (the_alert(told).send_count, the_alert(told).sent_at) == (1, None)

    told.variables |= sink(receiver.url)
    told.start_sweeper(SWEEP_SECONDS)
    hurry(told)
    until(lambda: the_alert(told).sent_at, what="the alert")
    [call] = receiver.calls
    assert (call.is_genuine, call.id) == (True, str(the_alert(told).id))


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_worker_that_does_not_sweep_tells_of_a_silent_sweeper(
    told: Deployment, receiver: Receiver, pool: str
) -> None:
    told.variables |= sink(receiver.url) | {"alert_missed_sweeps": 1}
    sweeper = told.start_sweeper(SWEEP_SECONDS)
    told.start_worker(pool=pool, workers_sweep="false")
    sweeps_pass(told, 3)
    assert len(sweepers(told)) == 1
    assert alerts(told) == []

    sweeper.kill()
    until(receiver.taken, seconds=60, what="the alert")
    [call] = receiver.taken()
    assert call.is_genuine
    assert (call.data["kind"], call.data["next"]) == ("sweeper_silent", "amends doctor")

    told.start_sweeper(SWEEP_SECONDS)
    until(lambda: the_alert(told).closed_by == MOVED_ON, what="the end of the silence")


def test_a_hanging_receiver_holds_no_sweep_up(told: Deployment, receiver: Receiver) -> None:
    told.start_worker(workers_sweep="false")
    told.variables |= sink(receiver.url)
    receiver.may_answer.clear()
    told.start_sweeper(SWEEP_SECONDS)
    park(told)

    def seconds_of_sweeps() -> float:
        until(lambda: receiver.open_calls, what="a call")
        began = time.monotonic()
        sweeps_pass(told, 4)
        return time.monotonic() - began

    is_open_for = SEND_SECONDS - CONNECT_SECONDS
    until(lambda: seconds_of_sweeps() < is_open_for, what="sweeps while the call is open")


def test_a_sweep_from_cron_sends_too(told: Deployment, receiver: Receiver) -> None:
    told.start_worker()
    park(told)
    told.variables |= sink(receiver.url)
    assert amends(told, "sweep", "--once").wait_end() == 0
    assert [each.is_genuine for each in receiver.taken()] == [True]
    assert any("/once/" in each for each in sweepers(told))
