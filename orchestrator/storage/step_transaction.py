"""The transaction that a transactional step writes in and its log entry closes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy
from sqlalchemy import event

from orchestrator.errors import LogUnavailableError
from orchestrator.seam import durable
from orchestrator.storage.database import Database


class TransactionLostError(Exception):
    """The transaction ended before its log entry was in it: nothing of it happened.

    `sqlstate` is the server's reason, if it gave one.
    """

    def __init__(self, message: str, *, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class CommitRefusedError(Exception):
    """Somebody who was lent the connection tried to commit it."""


class StepTransaction:
    """One READ COMMITTED transaction; the engine alone ends it."""

    def __init__(self, connection: sqlalchemy.Connection) -> None:
        self.connection = connection
        self._transaction = connection.begin()

    @contextmanager
    def lent(self) -> Iterator[sqlalchemy.Connection]:
        """Lend the connection to a step: a commit of it is refused before it reaches Postgres."""

        def refuse(_connection: sqlalchemy.Connection) -> None:
            raise CommitRefusedError("the engine commits this transaction; the step may not")

        event.listen(self.connection, "commit", refuse)
        try:
            yield self.connection
        finally:
            event.remove(self.connection, "commit", refuse)

    @property
    def is_intact(self) -> bool:
        """Whether the transaction that was begun is still the one that is open."""
        is_same = self.connection.get_transaction() is self._transaction
        return is_same and self._transaction.is_active

    def abandon(self) -> None:
        """Roll back, or drop the connection where a step left it in no state for that."""
        if self.is_intact:
            self._transaction.rollback()
        else:
            self.connection.invalidate()

    def commit(self) -> None:
        """Commit.

        Raises:
            LogUnavailableError: it may or may not have been committed. The connection is dropped,
                so that its locks do not stand in the way of reading back.
        """
        try:
            durable("transaction.commit", self.connection.commit)
        except (sqlalchemy.exc.DBAPIError, LogUnavailableError) as error:
            self.connection.invalidate()
            raise LogUnavailableError("the answer to a commit was lost") from error


@contextmanager
def step_transaction(database: Database) -> Iterator[StepTransaction]:
    """Open a transaction; leaving the block without a commit rolls back.

    Raises:
        TransactionLostError: Postgres or the step ended it before it was committed.
    """
    try:
        with database.engine.connect() as connection:
            connection.execution_options(isolation_level="READ COMMITTED")
            yield StepTransaction(connection)
    except sqlalchemy.exc.SQLAlchemyError as error:
        sqlstate = getattr(getattr(error, "orig", None), "sqlstate", None)
        raise TransactionLostError(
            f"{type(error).__name__}: transaction lost", sqlstate=sqlstate
        ) from error
