"""Postgres as the engine uses it: single statements in autocommit, and short transactions.

Every transition of a saga is one data-modifying statement, so autocommit makes it its own
transaction in one round trip. READ COMMITTED is set, not assumed: under a stricter level the
compare-and-set statements would fail instead of seeing what they lost to.
"""

from __future__ import annotations

import itertools
import select
import weakref
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, cast

import psycopg
import sqlalchemy
from psycopg import errors
from sqlalchemy.engine import make_url

from orchestrator.errors import LogUnavailableError
from orchestrator.seam import durable

Row = tuple[Any, ...]

MOVED = (errors.SerializationFailure, errors.DeadlockDetected, errors.LockNotAvailable)
"""Somebody else changed the rows first (40001, 40P01, 55P03): read again and decide again."""

OURS = (psycopg.ProgrammingError, psycopg.DataError, psycopg.IntegrityError)
"""What the server says of our statement and not of itself; the connection is as good as before."""

SESSION = {
    "default_transaction_isolation": "read committed",
    "synchronous_commit": "on",
    "statement_timeout": "10s",
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "15s",
}
"""The last one is part of recovery: a process that was stopped inside a transaction holds its
saga's row, and nobody can take over before Postgres has ended that session."""


_MADE: MutableMapping[sqlalchemy.Engine, int] = weakref.WeakKeyDictionary()


class Moved(Exception):  # noqa: N818 - a control-flow answer between storage and coordinator
    """The statement lost a race inside Postgres and changed nothing."""


class Locked(Moved):
    """Somebody holds the rows in an open transaction; trying again at once would only wait."""


class LockHeld(Exception):  # noqa: N818 - an answer, as `Moved`
    """Another saga holds the semantic lock; nothing was written."""


def create_engine(
    url: str,
    *,
    pool_size: int = 5,
    application_name: str = "amends",
    session: Mapping[str, str] | None = None,
) -> Any:
    """Return an engine whose sessions have the settings the engine relies on; opens nothing.

    Accepts ``postgres://`` and ``postgresql://`` URLs too. Session settings travel as start-up
    options; a connection pooler that refuses those needs ``ALTER ROLE ... SET`` instead. `session`
    overrides some of them.
    """
    parsed = make_url(url.replace("postgres://", "postgresql://", 1))
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    options = " ".join(
        f"-c {name}={value.replace(' ', chr(92) + ' ')}"
        for name, value in {**SESSION, **(session or {})}.items()
    )
    engine = sqlalchemy.create_engine(
        parsed,
        isolation_level="READ COMMITTED",
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_recycle=1800,
        hide_parameters=True,
        connect_args={
            "options": options,
            "application_name": application_name,
            "connect_timeout": 5,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 15000,
        },
    )
    made = itertools.count(1)
    _MADE[engine] = 0

    def count(*_: object) -> None:
        _MADE[engine] = next(made)

    sqlalchemy.event.listen(engine, "connect", count)
    sqlalchemy.event.listen(engine, "checkout", _refuse_hung_up)
    return engine


def connections_made(engine: sqlalchemy.Engine) -> int:
    """Return how many connections an engine of `create_engine` has opened; of others 0."""
    return _MADE.get(engine, 0)


class Database:
    """Runs statements for the storage modules."""

    def __init__(self, engine: sqlalchemy.Engine) -> None:
        self.engine = engine

    def run(
        self, statement: str, values: Mapping[str, Any], *, writes: str | None = None
    ) -> list[Row]:
        """Run one statement in its own transaction and return its rows.

        Args:
            writes: name of the durable action, when the statement commits anything.

        Raises:
            Moved: lost to a concurrent transaction; nothing changed.
            LogUnavailableError: Postgres did not answer. A write may or may not have taken effect.
        """
        if writes is None:
            return self._run(statement, values)
        return durable(writes, lambda: self._run(statement, values))

    def _run(self, statement: str, values: Mapping[str, Any]) -> list[Row]:
        try:
            pooled = self._connection()
        except (psycopg.Error, sqlalchemy.exc.DBAPIError, sqlalchemy.exc.TimeoutError) as error:
            raise LogUnavailableError(f"no connection to Postgres: {_brief(error)}") from error
        try:
            connection = cast("psycopg.Connection[Row]", pooled.driver_connection)
            connection.autocommit = True
            try:
                return _fetch(connection, statement, values)
            finally:
                if not connection.closed:
                    connection.autocommit = False
        except errors.LockNotAvailable as error:
            raise Locked(str(error)) from error
        except MOVED as error:
            raise Moved(str(error)) from error
        except OURS:
            raise
        except psycopg.Error as error:
            # Also an answer of a server that is a standby since a fail-over (25006): it takes a new
            # connection to reach the primary.
            pooled.invalidate()
            raise LogUnavailableError(f"Postgres did not answer: {_brief(error)}") from error
        except BaseException:
            # Interrupted half-way (a shutdown): nobody knows what the connection still expects.
            pooled.invalidate()
            raise
        finally:
            pooled.close()

    def _connection(self) -> sqlalchemy.PoolProxiedConnection:
        """Return a connection, of any engine, whose server has not hung up while it was pooled."""
        pooled = self.engine.raw_connection()
        while _has_hung_up(pooled.driver_connection):
            pooled.invalidate()
            pooled.close()
            pooled = self.engine.raw_connection()
        return pooled


def _has_hung_up(connection: Any) -> bool:
    """Whether there is something to read in an idle session: then the server has ended it.

    Asks the kernel and not the server, so it costs no round trip. A network that was cut does not
    show; there the first statement fails.
    """
    if connection.closed:
        return True
    poller = select.poll()
    poller.register(connection.fileno(), select.POLLIN)
    return bool(poller.poll(0))


def _refuse_hung_up(connection: Any, *_: object) -> None:
    """Called when the pool hands a connection out; SQLAlchemy then tries others, and new ones.

    Raises:
        InvalidatePoolError: the server has hung up, and so on all that are as old.
    """
    if _has_hung_up(connection):
        raise sqlalchemy.exc.InvalidatePoolError


def run_inside(
    connection: sqlalchemy.Connection, statement: str, values: Mapping[str, Any]
) -> Sequence[Row]:
    """Run one statement inside a transaction that somebody else began."""
    result = connection.exec_driver_sql(statement, dict(values))
    return cast("Sequence[Row]", result.fetchall())


def _fetch(
    connection: psycopg.Connection[Row], statement: str, values: Mapping[str, Any]
) -> list[Row]:
    cursor = connection.execute(cast("Any", statement), values)
    return cursor.fetchall() if cursor.description else []


def _brief(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
