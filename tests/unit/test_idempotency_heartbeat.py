"""The thread that keeps claims alive: it comes by need, goes when idle, and is never a parent's."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator import idempotency_heartbeat
from orchestrator.idempotency_heartbeat import IdempotencyHeartbeat
from orchestrator.idempotency_record import Claim
from tests.idempotency_stores import claim_of
from tests.integration.engine import events
from tests.worker_processes import until

ROOT = Path(__file__).parents[2]
NAME = "amends-idempotency-heartbeat"


class Extensions:
    """What was asked to be extended, one list for each statement."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.error: Exception | None = None

    def __call__(self, claims: Sequence[Claim]) -> None:
        self.asked.append([each.call.key for each in claims])
        if self.error is not None:
            raise self.error


def threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == NAME]


@pytest.fixture(autouse=True)
def _is_soon_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency_heartbeat, "IDLE_SECONDS", 0.05)


def test_a_short_call_is_never_extended_and_the_thread_goes() -> None:
    before = set(threads())
    extensions = Extensions()
    heartbeat = IdempotencyHeartbeat(extensions)
    first, second = (claim_of(lease_seconds=30) for _ in range(2))
    with heartbeat.kept(first), heartbeat.kept(second):
        [thread] = set(threads()) - before
    until(lambda: not thread.is_alive())
    assert extensions.asked == []
    with heartbeat.kept(claim_of(lease_seconds=0.03)):
        until(lambda: len(extensions.asked) > 1)


def test_claims_that_are_due_together_are_extended_together() -> None:
    def are_together() -> bool:
        extensions = Extensions()
        heartbeat = IdempotencyHeartbeat(extensions)
        with (
            heartbeat.kept(claim_of("slow", lease_seconds=3000)),
            heartbeat.kept(claim_of("a", lease_seconds=0.3)),
            heartbeat.kept(claim_of("b", lease_seconds=0.3)),
        ):
            until(lambda: {"a", "b"} <= {key for keys in extensions.asked for key in keys})
        assert not any("slow" in each for each in extensions.asked)
        return extensions.asked[0] == ["a", "b"]

    until(are_together)  # where "b" was claimed so late that "a" was due, once more


def test_no_error_ends_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency_heartbeat, "RETRY_SECONDS", 0.01)
    extensions = Extensions()
    extensions.error = RuntimeError("a bug")
    heartbeat = IdempotencyHeartbeat(extensions)
    with events() as heard, heartbeat.kept(claim_of(lease_seconds=0.03)):
        until(lambda: len(extensions.asked) > 2)
    assert heard[0] == ("heartbeat.failed", {"error": "RuntimeError: a bug"})


FORK = """
import os, threading, time
from orchestrator.idempotency_heartbeat import IdempotencyHeartbeat
from tests.idempotency_stores import claim_of

asked = []
heartbeat = IdempotencyHeartbeat(lambda claims: asked.extend(each.call.key for each in claims))
with heartbeat.kept(claim_of("parents", lease_seconds=0.03)):
    while not asked:
        time.sleep(0.01)
    heartbeat._changed.acquire()  # as if the thread was at work at the moment of the fork
    if (child := os.fork()) == 0:
        asked.clear()
        with heartbeat.kept(claim_of("childs", lease_seconds=0.03)):
            while len(asked) < 2:
                time.sleep(0.01)
        print(*sorted(set(asked)), flush=True)
        os._exit(0)
    heartbeat._changed.release()
    os.waitpid(child, 0)
"""


def test_a_child_keeps_its_own_claims_and_not_its_parents() -> None:
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert answer.stdout == "childs\n"
