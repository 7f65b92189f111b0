"""A participant with a database of its own: a bank that books entries, and parties that work in it.

A `Party` is one connection in a thread of its own, so that it can wait for another one's lock while
the test goes on; the test ends its transaction when it likes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

import psycopg
import pytest
import sqlalchemy
from sqlalchemy.orm import Session

from orchestrator.context import (
    Effect,
    Lease,
    Movement,
    NothingThere,
    Resources,
    StepContext,
)
from orchestrator.errors import Retriable
from orchestrator.keys import forward_key, undo_key
from orchestrator.outcomes import is_contention
from orchestrator.state import RecordedEffect
from orchestrator.storage import barrier
from orchestrator.storage.barrier import LocalConnection
from orchestrator.storage.database import create_engine
from tests.worker_processes import until
from workers.local_servers.running_servers import RunningServers

Kind = Literal["connection", "session", "psycopg"]
KINDS: tuple[Kind, ...] = ("connection", "session", "psycopg")
DEBIT, CREDIT = -100, 100

_TABLE = "CREATE TABLE entry (id bigserial PRIMARY KEY, amount int NOT NULL)"


class Bank:
    """The bank's database, with a barrier in it."""

    def __init__(self, url: str, *, lock_timeout: str = "20s") -> None:
        self.url = url
        self._options = f"-c lock_timeout={lock_timeout}"
        self.engine = create_engine(url, pool_size=12, session={"lock_timeout": lock_timeout})
        self._watcher = psycopg.connect(url.replace("+psycopg", ""), autocommit=True)

    def create(self) -> None:
        with self.engine.begin() as connection:
            connection.exec_driver_sql(_TABLE)
            barrier.create_barrier(connection)

    def empty(self) -> Bank:
        with self.engine.begin() as connection:
            connection.exec_driver_sql("TRUNCATE entry, amends.barrier")
        return self

    def close(self) -> None:
        self._watcher.close()
        self.engine.dispose()

    def open(self, kind: Kind, isolation: str = "READ COMMITTED") -> LocalConnection:
        """A connection on which no transaction has begun yet."""
        if kind == "psycopg":
            plain = psycopg.connect(self.url.replace("+psycopg", ""), options=self._options)
            plain.isolation_level = psycopg.IsolationLevel[isolation.replace(" ", "_")]
            return plain
        connection = self.engine.connect().execution_options(isolation_level=isolation)
        return connection if kind == "connection" else Session(connection)

    @contextmanager
    def transaction(self, kind: Kind = "connection") -> Iterator[LocalConnection]:
        """One transaction, committed at the end."""
        connection = self.open(kind)
        try:
            yield connection
            connection.commit()
        finally:
            close(connection)

    def look(self, statement: str, *values: Any) -> list[Any]:
        """What is committed."""
        return self._watcher.execute(statement, values).fetchall()

    @property
    def entries(self) -> list[int]:
        return [row[0] for row in self.look("SELECT amount FROM entry ORDER BY id")]

    @property
    def states(self) -> list[str]:
        """The states of the barrier's rows, in the order they were made."""
        return [row[0] for row in self.look("SELECT state FROM amends.barrier ORDER BY written_at")]

    def is_blocked(self, pid: int) -> bool:
        """Whether a session waits for another one's lock."""
        return bool(self.look("SELECT cardinality(pg_blocking_pids(%s)) > 0", pid)[0][0])


_NUMBERS = itertools.count(1)


@pytest.fixture
def bank(servers: RunningServers) -> Iterator[Bank]:
    """A database of the participant's own."""
    servers.postgres.start()
    name = f"bank_{next(_NUMBERS)}"
    opened = Bank(servers.postgres.create_database(name))
    opened.create()
    yield opened
    opened.close()
    servers.postgres.drop_database(name)


class Party:
    """One connection to the bank, and what it does in its transaction."""

    def __init__(self, bank: Bank, kind: Kind, isolation: str = "READ COMMITTED") -> None:
        self._bank = bank
        self._thread = ThreadPoolExecutor(max_workers=1)
        self.connection = bank.open(kind, isolation)
        self.pid: int = execute(self.connection, "SELECT pg_backend_pid()")[0][0]
        self.connection.rollback()
        self.doing: Future[Any] | None = None

    def does(self, operation: Callable[[LocalConnection], Any]) -> Party:
        """Begin `operation` and return when it has ended or waits for somebody else."""
        self.doing = self._thread.submit(operation, self.connection)
        self.settle()
        return self

    def settle(self) -> None:
        """Return when nothing moves any more by itself."""
        until(lambda: self.has_ended or self.is_blocked, what="an end, or a lock")

    @property
    def has_ended(self) -> bool:
        assert self.doing is not None
        return self.doing.done()

    @property
    def is_blocked(self) -> bool:
        return not self.has_ended and self._bank.is_blocked(self.pid)

    @property
    def answer(self) -> Any:
        assert self.doing is not None
        return self.doing.result(timeout=20)

    @property
    def error(self) -> BaseException | None:
        assert self.doing is not None
        return self.doing.exception(timeout=20)

    def commit(self) -> None:
        self._thread.submit(self.connection.commit).result(timeout=20)

    def commits(self) -> bool:
        """Commit; False where Postgres refused it because of others (it may, if serializable)."""
        error = self._thread.submit(self.connection.commit).exception(timeout=20)
        if error is not None and not is_contention(error):
            raise error
        return error is None

    def rollback(self) -> None:
        self._thread.submit(self.connection.rollback).result(timeout=20)

    def close(self) -> None:
        self._thread.submit(close, self.connection).result(timeout=40)
        self._thread.shutdown()


def close(connection: LocalConnection) -> None:
    """End a connection as `Bank.open` made it."""
    if isinstance(connection, Session):
        lent = connection.get_bind()
        connection.close()
        assert isinstance(lent, sqlalchemy.Connection)
        lent.close()
    else:
        connection.close()


def execute(connection: LocalConnection, statement: str, **values: Any) -> list[Any]:
    """One statement on whichever kind of connection."""
    return barrier._run(connection, statement, values)


def book(connection: LocalConnection, amount: int) -> int:
    """The local effect; return the entry's number."""
    entry = "INSERT INTO entry (amount) VALUES (%(amount)s) RETURNING id"
    number: int = execute(connection, entry, amount=amount)[0][0]
    return number


def nothing(_: LocalConnection) -> None:
    """Between the effect and the answer."""


Pause = Callable[[LocalConnection], None]


def debits(connection: LocalConnection, *, pause: Pause = nothing, **attempt: Any) -> Effect:
    """Try to debit; the answer is of this try, so that a repetition shows."""

    def action() -> Effect:
        number = book(connection, DEBIT)
        pause(connection)
        moved = Movement(kind="capture", amount_minor=100, currency="EUR")
        return Effect(value={"entry": number}, reference=f"entry-{number}", movements=[moved])

    return barrier.act(connection, context(**attempt), action)


def credits_back(
    connection: LocalConnection, *, pause: Pause = nothing, **attempt: Any
) -> Effect | NothingThere:
    """Try to take the debit back."""

    def undoing(effect: Effect) -> dict[str, int]:
        number = book(connection, CREDIT)
        pause(connection)
        return {"entry": number, "took back": effect.value["entry"]}

    return barrier.undo(connection, context(direction="compensate", **attempt), undoing)


def is_no_verdict(error: BaseException | None) -> bool:
    """Whether an error says only that others were in the way; no budget is spent."""
    return isinstance(error, Retriable) and not error.spends_budget


def context(
    *,
    order: str = "A-1",
    direction: str = "forward",
    effect: str | None = None,
    generation: int = 1,
    undo_generation: int = 1,
) -> StepContext[Any]:
    """One attempt of the step `debit`, or of its compensation for the effect of that reference."""
    key = forward_key("transfer", order, "debit", generation)
    undoing = direction == "compensate"
    known = None if effect is None else RecordedEffect(seq=3, attempt=1, reference=effect)
    return StepContext(
        saga_id=UUID(int=1),
        definition="transfer",
        saga_key=order,
        step="debit",
        direction=direction,
        attempt=1,
        idempotency_key=undo_key(key, effect, undo_generation) if undoing else key,
        step_key=key,
        payload=None,
        results={},
        effect=known,
        signal=None,
        now=datetime.now(UTC),
        resources=Resources(),
        lease=Lease(valid_until=float("inf"), ends_at=float("inf")),
    )
