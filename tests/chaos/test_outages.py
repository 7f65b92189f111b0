"""The broker flushed, away or deaf, and Postgres gone: later, but everything, and once."""

from __future__ import annotations

import time
from dataclasses import dataclass

from orchestrator.entries import StepStarted
from orchestrator.state import State
from orchestrator.storage.rows import RING_PATIENCE_SECONDS
from steps.checkout import checkout
from tests.chaos.sizes import sizes
from tests.deployment import Deployment, expected, measured, mixed, spread
from tests.worker_processes import until
from workers import connect
from workers.local_servers.running_servers import RunningServers

TWICE_SECONDS = 45.0
"""Two incidents in a row: what every saga may still need once the broker is back for good."""

RING_NOW = "UPDATE amends.attempt SET ring_at = clock_timestamp() WHERE token IS NULL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """`outage` in seconds; `is_aged`: rings are made old by hand instead of waiting for it."""

    sagas: int
    sweep: float = 5.0
    outage: float = 0.0
    is_aged: bool = False
    seconds: float = 120.0
    slack: float = 5.0


@sizes(Size(sagas=40, sweep=1), Size(sagas=500, seconds=300))
def test_a_flushed_broker_loses_nothing(deployment: Deployment, size: Size) -> None:
    deployment.variables |= {"sweep_seconds": size.sweep, "hand_off": "broker"}
    deployment.start_workers(2, concurrency=2)
    orders = mixed(size.sagas)
    deployment.judge.script("slow_before", times=None, operation="authorize", delay_ms=1_000)
    deployment.start_orders(orders)
    until(lambda: deployment.ended() > 0, what="the first end")

    lost = deployment.queue_length()
    deployment.broker.flushall()
    rest = deployment.wait_at_rest(size.seconds)

    measured(f"FLUSHALL with {lost} messages of {size.sagas} sagas: at rest after {rest:.1f} s")
    assert lost > 0
    assert deployment.violations(expected(orders)) == []
    assert deployment.counts() == expected(orders)


@sizes(Size(sagas=24, sweep=1, outage=3, is_aged=True), Size(sagas=500, outage=30, seconds=300))
def test_sagas_start_and_move_while_the_broker_is_down(
    deployment: Deployment, servers: RunningServers, size: Size
) -> None:
    deployment.variables |= {"sweep_seconds": size.sweep}
    deployment.start_workers(2)
    orders = mixed(size.sagas)
    servers.valkey.kill()
    down_since = time.monotonic()

    took = []
    for order in orders:
        began = time.monotonic()
        assert deployment.client.start(checkout, order.payload, key=order.key).created
        took.append(time.monotonic() - began)
    if size.is_aged:
        deployment.execute(RING_NOW)
    until(
        lambda: deployment.ended() > 0 and time.monotonic() - down_since > size.outage,
        seconds=size.outage + 90,
        what="ends without a broker",
    )
    ended = deployment.ended()
    servers.valkey.start()
    rest = deployment.wait_at_rest(size.seconds)

    measured(
        f"broker down: {size.sagas} starts took {spread(took)}, {ended} ended meanwhile, "
        f"at rest {rest:.1f} s after it was back"
    )
    assert deployment.violations(expected(orders)) == []
    assert deployment.counts() == expected(orders)


@sizes(Size(sagas=60, sweep=1, outage=1, is_aged=True), Size(sagas=800, outage=20, seconds=400))
def test_a_broker_lost_twice_delays_nothing_for_longer_than_45_seconds(
    deployment: Deployment, servers: RunningServers, size: Size
) -> None:
    deployment.variables |= {"sweep_seconds": size.sweep, "hand_off": "broker"}
    deployment.start_workers(2)
    orders = mixed(size.sagas)
    deployment.judge.script("slow_before", times=None, operation="authorize", delay_ms=1_000)
    deployment.start_orders(orders)
    until(lambda: deployment.ended() > 0, what="the first end")

    def lose_the_broker() -> int:
        lost = deployment.queue_length()
        servers.valkey.kill()
        until(lambda: "Connection to broker lost" in deployment.members[0].log, what="the loss")
        time.sleep(size.outage)  # an outage lasts
        servers.valkey.start()
        deployment.broker.flushall()
        return lost

    lost = [lose_the_broker()]
    if size.is_aged:
        deployment.execute(RING_NOW)
    until(lambda: deployment.queue_length() > 0, what="rings after the first outage")
    lost.append(lose_the_broker())
    deployment.judge.clear_faults()
    rest = deployment.wait_at_rest(size.seconds)

    measured(f"broker lost twice, with {lost} messages: at rest {rest:.1f} s after the second")
    assert min(lost) > 0
    assert rest <= TWICE_SECONDS
    assert deployment.violations(expected(orders)) == []
    assert deployment.counts() == expected(orders)


@sizes(Size(sagas=40, sweep=1), Size(sagas=200, seconds=300))
def test_postgres_restarted_immediately_loses_and_doubles_nothing(
    deployment: Deployment, servers: RunningServers, size: Size
) -> None:
    deployment.variables |= {"sweep_seconds": size.sweep}
    workers = [
        *deployment.start_workers(1),
        *deployment.start_workers(1, pool="prefork", concurrency=2),
    ]
    orders = mixed(size.sagas)
    deployment.judge.script("slow_before", times=None, operation="authorize", delay_ms=1_000)
    deployment.start_orders(orders)
    until(lambda: deployment.ended() >= size.sagas // 8, what="the first ends")

    left = size.sagas - deployment.ended()
    servers.postgres.restart("immediate")
    rest = deployment.wait_at_rest(size.seconds)

    measured(f"Postgres restarted with {left} sagas in flight: at rest after {rest:.1f} s")
    assert left > 0
    assert all(each.is_alive for each in workers)
    assert deployment.violations(expected(orders)) == []
    assert deployment.counts() == expected(orders)


@sizes(Size(sagas=5, sweep=1, slack=30), Size(sagas=200))
def test_a_message_lost_after_the_commit_is_missed_within_patience_and_a_sweep(
    deployment: Deployment, size: Size
) -> None:
    deployment.variables |= {"sweep_seconds": size.sweep}
    deployment.start_worker()
    url = deployment.settings.broker_url
    assert url is not None
    nowhere = deployment.settings.model_copy(update={"broker_url": f"{url.removesuffix('/0')}/5"})
    client = connect(nowhere)
    orders = mixed(size.sagas)

    started = [client.start("checkout", each.payload, key=each.key) for each in orders]
    client.close()
    deployment.wait_at_rest(size.seconds)

    waits = []
    for each in started:
        entries = deployment.entries(each.id)
        first = next(row for row in entries if isinstance(row.entry, StepStarted))
        waits.append((first.at - entries[0].at).total_seconds())
    measured(f"message lost: first step after {spread(waits)}")
    assert min(waits) > RING_PATIENCE_SECONDS - 1, "the message was not lost"
    assert max(waits) <= RING_PATIENCE_SECONDS + size.sweep + size.slack
    assert deployment.violations(expected(orders)) == []
    assert deployment.counts()[State.STUCK] == 0
