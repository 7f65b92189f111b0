"""Fixtures: a server for rates and circuits, and requests that come to it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from orchestrator.guarding import Request
from workers.resilience.shared_server import SharedServer


@pytest.fixture(autouse=True)
def _is_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine Valkey may answer late; what it guards is then let through."""
    monkeypatch.setattr("workers.resilience.shared_server.TIMEOUT_SECONDS", 30.0)


@pytest.fixture
def server(broker_url: str) -> Iterator[SharedServer]:
    """The first process's view of an empty Valkey."""
    known = SharedServer(broker_url, prefix="tests:")
    yield known
    known.close()


@pytest.fixture
def other_server(broker_url: str) -> Iterator[SharedServer]:
    """What another process sees of the same Valkey: nothing is shared but that."""
    known = SharedServer(broker_url, prefix="tests:")
    yield known
    known.close()


def request(key: str = "A-1", number: int = 1, *, takes: float = 600.0) -> Request:
    return Request(key=key, attempt=1, number=number, takes=timedelta(seconds=takes))
