"""The engine on a real Postgres, in this process: a client, a worker and a doorbell of a deque."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

import psycopg
import sqlalchemy

from orchestrator.claiming import Claim
from orchestrator.client import SagaClient
from orchestrator.coordinator import Coordinator
from orchestrator.definition import SagaDefinition
from orchestrator.definitions import Definitions
from orchestrator.doorbell import Ring
from orchestrator.entries import Entry, UnknownReason
from orchestrator.errors import LogUnavailableError
from orchestrator.instrumentation import observed
from orchestrator.seam import intercepted
from orchestrator.storage.database import Database, create_engine
from orchestrator.storage.rows import AttemptId

T = TypeVar("T")
PATIENCE_SECONDS = 60.0


class Bell:
    """A doorbell that keeps its messages in this process."""

    def __init__(self) -> None:
        self.messages: deque[Ring] = deque()

    def ring(self, rings: Sequence[Ring]) -> None:
        self.messages.extend(rings)

    def depth(self, queue: str) -> int | None:
        return sum(each.queue == queue for each in self.messages)


class Engine:
    """A client and one worker on a database."""

    def __init__(
        self,
        url: str,
        *definitions: SagaDefinition[Any],
        lease: timedelta = timedelta(seconds=15),
        installation: str | None = None,
    ) -> None:
        self.pool = create_engine(url)
        self.bell = Bell()
        self.drains = False
        known = Definitions(definitions)
        self.client = SagaClient(self.pool, self.bell, definitions=known)
        self.coordinator = Coordinator(
            database=Database(self.pool),
            definitions=known,
            doorbell=self.bell,
            owner=lambda: "this-worker",
            lease=lease,
            drains=lambda: self.drains,
            installation=installation,
        )

    def close(self) -> None:
        self.pool.dispose()

    # -- working -----------------------------------------------------------------------------------

    def claim(self, saga_id: UUID, step: str | None = None) -> Claim:
        """Claim the attempt that is scheduled; there must be one, and it must be due."""
        attempts = self.coordinator.log.read(saga_id)
        assert attempts is not None
        wanted = [each for each in attempts.attempts if step in (None, each.id.step)]
        claim = self.coordinator.claim(wanted[0].id)
        assert claim is not None, f"{wanted[0]} cannot be claimed"
        return claim

    def work(self, *, inline: bool = False) -> None:
        """Run what the bell rang for, and what follows, until it is silent."""
        while self.bell.messages:
            claim = self.coordinator.claim(attempt_of(self.bell.messages.popleft()))
            while claim is not None:
                claim = self.coordinator.execute(claim, lambda _queue: inline)

    def finish(self, saga_id: UUID, *, inline: bool = False) -> str:
        """Work, and look as the sweep does, until the saga ended or is parked; return its state."""

        def ended() -> bool:
            self.work(inline=inline)
            found = self.client.get(saga_id)
            if found.is_terminal or found.is_parked:
                return True
            self.coordinator.mover.look(saga_id)
            snapshot = self.coordinator.log.read(saga_id)
            assert snapshot is not None
            for each in snapshot.attempts:
                claim = self.coordinator.claim(each.id) if each.token is None else None
                while claim is not None:
                    claim = self.coordinator.execute(claim, lambda _queue: inline)
            return False

        wait_until(ended)
        return self.client.get(saga_id).state.value

    def gives_up(self, claim: Claim, reason: UnknownReason = UnknownReason.CRASHED) -> bool:
        """Take a claim away, as a sweep does when its worker is gone."""
        snapshot = self.coordinator.log.read(claim.attempt.saga_id)
        assert snapshot is not None
        row = next(each for each in snapshot.attempts if each.id == claim.attempt)
        return self.coordinator.mover.give_up(row, reason)

    # -- looking -----------------------------------------------------------------------------------

    def entries(self, saga_id: UUID) -> list[Entry]:
        return [each.entry for each in self.coordinator.log.entries(saga_id)]

    def kinds(self, saga_id: UUID) -> list[str]:
        return [type(each).__name__ for each in self.entries(saga_id)]

    def attempts(self, saga_id: UUID) -> list[tuple[str, str, int]]:
        snapshot = self.coordinator.log.read(saga_id)
        assert snapshot is not None
        return [(each.id.step, each.id.direction, each.id.number) for each in snapshot.attempts]

    def sql(self, statement: str, **values: Any) -> list[Any]:
        with self.pool.begin() as connection:
            result = connection.execute(sqlalchemy.text(statement), values)
            return list(result.fetchall()) if result.returns_rows else []


def attempt_of(ring: Ring) -> AttemptId:
    return AttemptId(
        saga_id=ring.saga_id, step=ring.step, direction=ring.direction, number=ring.attempt
    )


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait on a state, with a deadline."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@contextmanager
def events() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """Collect what the engine tells its observers."""
    heard: list[tuple[str, dict[str, Any]]] = []
    with observed(lambda event, fields: heard.append((event, fields))):
        yield heard


@contextmanager
def read_only(url: str) -> Iterator[None]:
    """Make the database answer as a primary does that became a standby, to old and new sessions."""
    name = sqlalchemy.make_url(url).database
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        _end_other_sessions(connection)
        try:
            yield
        finally:
            connection.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')


def _end_other_sessions(connection: psycopg.Connection[Any]) -> None:
    connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


@contextmanager
def answer_lost(name: str, *, applied: bool, times: int = 1) -> Iterator[list[str]]:
    """Lose the answer of the next durable actions of that name, applied or not."""
    lost: list[str] = []

    def interceptor(action_name: str, action: Callable[[], T]) -> T:
        if action_name != name or len(lost) >= times:
            return action()
        lost.append(action_name)
        if applied:
            action()
        raise LogUnavailableError("the connection broke")

    with intercepted(interceptor):
        yield lost
