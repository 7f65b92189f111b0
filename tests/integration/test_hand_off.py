"""The doorbell on a real Valkey that was away a moment ago, or does not answer."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from uuid import uuid4

import pytest
import redis

from orchestrator.doorbell import Doorbell, DoorbellError, Ring
from workers.bootstrap import build_doorbell
from workers.local_servers.running_servers import RunningServers
from workers.settings import Settings

QUEUE = "amends"
RING = Ring(
    definition="shop", saga_id=uuid4(), step="pay", direction="forward", attempt=1, queue=QUEUE
)


@pytest.fixture
def doorbell(broker_url: str) -> Doorbell:
    return build_doorbell(Settings.load(broker_url=broker_url))


@contextmanager
def _away(servers: RunningServers) -> Iterator[None]:
    """A broker that is down for a while, and comes back empty."""
    servers.valkey.kill()
    try:
        yield
    finally:
        servers.valkey.start()
        with redis.Redis.from_url(servers.broker_url) as client:
            client.flushall()


@contextmanager
def _stopped(servers: RunningServers) -> Iterator[None]:
    """A broker that takes connections and answers nothing."""
    with redis.Redis.from_url(servers.broker_url) as client:
        pid = int(client.info("server")["process_id"])
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _from_many_threads(use: Callable[[], object]) -> None:
    """Use four connections at once; what the broker refuses is refused."""
    together = threading.Barrier(4)

    def run() -> None:
        together.wait(20)
        with suppress(DoorbellError):
            use()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(20)


@pytest.mark.parametrize("meanwhile", ["nothing", "depth", "ring"])
def test_the_depth_is_read_at_the_first_try_after_an_outage(
    doorbell: Doorbell, servers: RunningServers, meanwhile: str
) -> None:
    uses = {"depth": lambda: doorbell.depth(QUEUE), "ring": lambda: doorbell.ring([RING])}
    doorbell.ring([RING] * 3)
    assert doorbell.depth(QUEUE) == 3
    for _ in range(2):
        with _away(servers):
            _from_many_threads(uses.get(meanwhile, lambda: None))
        assert doorbell.depth(QUEUE) == 0


@pytest.mark.parametrize("is_used", [True, False])
def test_a_ring_after_an_outage_is_heard_on_whichever_connection(
    doorbell: Doorbell, servers: RunningServers, is_used: bool
) -> None:
    _from_many_threads(lambda: doorbell.ring([RING]))
    with _away(servers):
        if is_used:
            _from_many_threads(lambda: doorbell.ring([RING]))
            _from_many_threads(lambda: doorbell.depth(QUEUE))
    for number in range(1, 6):
        doorbell.ring([RING] * 2)
        assert doorbell.depth(QUEUE) == 2 * number


def test_a_broker_that_is_down_is_refused_at_once(
    doorbell: Doorbell, servers: RunningServers
) -> None:
    doorbell.ring([RING])
    servers.valkey.kill()
    began = time.monotonic()
    with pytest.raises(DoorbellError):
        doorbell.ring([RING])
    assert doorbell.depth(QUEUE) is None
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("is_known", [True, False])
def test_a_silent_broker_holds_a_start_for_no_more_than_two_seconds(
    doorbell: Doorbell, servers: RunningServers, is_known: bool
) -> None:
    if is_known:
        doorbell.ring([RING])
    with _stopped(servers):
        began = time.monotonic()
        with pytest.raises(DoorbellError):
            doorbell.ring([RING])
        assert time.monotonic() - began < 2.2
