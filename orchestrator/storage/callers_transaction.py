"""Starting a saga inside a transaction that belongs to the caller."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from uuid import UUID

import sqlalchemy
from sqlalchemy import event
from sqlalchemy.orm import Session

from orchestrator.storage.database import MOVED
from orchestrator.storage.rows import NewSaga
from orchestrator.storage.saga_log import SagaLog

Transaction = Session | sqlalchemy.Connection

_ACTIONS = "amends.after_commit"


class HiddenHolderError(Exception):
    """The caller's isolation level hides who holds the key; the transaction goes on."""


class CallersTransaction:
    """A Session or Connection in which somebody else works; never committed or rolled back here."""

    def __init__(self, given: Transaction) -> None:
        self._given = given

    @property
    def connection(self) -> sqlalchemy.Connection:
        """The connection to write on."""
        given = self._given
        return given if isinstance(given, sqlalchemy.Connection) else given.connection()

    @property
    def tells_commit(self) -> bool:
        """Whether `after_commit` works: a bare Connection has no such moment."""
        return isinstance(self._given, Session)

    def start(self, log: SagaLog, saga: NewSaga) -> set[UUID]:
        """Write a new saga; a start that loses leaves the transaction usable.

        Raises:
            HiddenHolderError: stricter than READ COMMITTED, and another transaction was faster.
            LockHeld: another saga is at work on what this one locks.
        """
        connection = self.connection
        if _is_read_committed(connection) and not saga.lock_granted:
            return log.start([saga], connection)
        try:
            with connection.begin_nested():
                return log.start([saga], connection)
        except sqlalchemy.exc.OperationalError as error:
            if not isinstance(error.orig, MOVED):
                raise
            raise HiddenHolderError from error

    def after_commit(self, actions: Sequence[Callable[[], object]]) -> None:
        """Do these once the outermost transaction has committed; forget them if it rolls back."""
        session = self._given
        if not isinstance(session, Session):
            return
        session.info.setdefault(_ACTIONS, []).extend(actions)
        if not event.contains(session, "after_commit", _on_commit):
            event.listen(session, "after_commit", _on_commit)
            event.listen(session, "after_rollback", _on_rollback)


def _is_read_committed(connection: sqlalchemy.Connection) -> bool:
    level = connection.exec_driver_sql("SELECT current_setting('transaction_isolation')").scalar()
    return level in ("read committed", "read uncommitted")


def _on_commit(session: Session) -> None:
    if session.in_nested_transaction():
        return
    for action in session.info.pop(_ACTIONS, ()):
        action()


def _on_rollback(session: Session) -> None:
    if session.in_nested_transaction():
        return  # a savepoint: an action too many does no harm, one too few costs time
    session.info.pop(_ACTIONS, None)
