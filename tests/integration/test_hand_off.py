"""The doorbell on a real Valkey that was away a moment ago, or does not answer."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
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


def _restart(servers: RunningServers) -> None:
    servers.valkey.kill()
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


def test_the_depth_is_read_at_the_first_try_after_an_outage(
    doorbell: Doorbell, servers: RunningServers
) -> None:
    doorbell.ring([RING] * 3)
    assert doorbell.depth(QUEUE) == 3
    for _ in range(2):
        _restart(servers)
        assert doorbell.depth(QUEUE) == 0


def test_a_ring_after_an_outage_is_heard_on_whichever_connection(
    doorbell: Doorbell, servers: RunningServers
) -> None:
    def ring_from_many_threads() -> None:
        together = threading.Barrier(4)

        def ring() -> None:
            together.wait(20)
            doorbell.ring([RING])

        threads = [threading.Thread(target=ring) for _ in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(20)

    ring_from_many_threads()
    _restart(servers)
    ring_from_many_threads()
    doorbell.ring([RING] * 2)
    assert doorbell.depth(QUEUE) == 6


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
