"""The idle session by which others see that this process lives.

A process holds one connection that does nothing but hold an advisory lock under a random key, and
writes the key down in the register. When the process dies its kernel closes the socket, Postgres
ends the session, and the lock is gone from `pg_locks`, a few milliseconds after a ``kill -9``.

What looks like a death and is none: the session alone was lost (`pg_terminate_backend`, a restart
of Postgres, a proxy). The process sees its socket end, takes a new lock under a new key and writes
that down; whoever takes it for dead must have missed *one* key twice, a while apart.

Behind a transaction pooler the lock would belong to a server connection that many clients share. It
shows by its backend's pid, which is not the one that the connection was told; then there is no key,
and leases alone say when the process is gone.
"""

from __future__ import annotations

import secrets
import select
from typing import Any

import psycopg
import sqlalchemy

from orchestrator.errors import LogUnavailableError
from orchestrator.instrumentation import emit

KEY_BITS = 62


class ProcessSession:
    """One process's session; its engine is its own, since the connection is never given back."""

    def __init__(self, engine: sqlalchemy.Engine) -> None:
        self._engine = engine
        self._pooled: Any = None
        self._key: int | None = None
        self._is_hidden = False

    @property
    def key(self) -> int | None:
        """The key of the lock that is held, as far as this side knows; None: none is."""
        return self._key if self._stands() else None

    def keep(self) -> None:
        """Have the lock, under a new key if the session was lost; free while it stands.

        Raises:
            LogUnavailableError: Postgres takes no connection; ask again soon.
        """
        if self._is_hidden or self._stands():
            return
        self.close()
        try:
            self._open()
        except (psycopg.Error, sqlalchemy.exc.DBAPIError, sqlalchemy.exc.TimeoutError) as error:
            self.close()
            raise LogUnavailableError(f"no session for this process: {error}") from error

    def close(self, *, for_good: bool = False) -> None:
        """Let the lock go, with the session; `for_good`: others do not see it, take no other."""
        if for_good:
            self._is_hidden = True
            emit("process.session_hidden", reason="a pooler stands between")
        pooled, self._pooled, self._key = self._pooled, None, None
        if pooled is not None:
            pooled.invalidate()
            pooled.close()

    def _open(self) -> None:
        self._pooled = self._engine.raw_connection()
        connection = self._connection
        connection.autocommit = True
        if not _is_direct(connection):
            self.close(for_good=True)
            return
        key = secrets.randbits(KEY_BITS)
        connection.execute("SELECT pg_advisory_lock(%s::bigint)", (key,))
        self._key = key

    @property
    def _connection(self) -> psycopg.Connection[Any]:
        found: psycopg.Connection[Any] = self._pooled.driver_connection
        return found

    def _stands(self) -> bool:
        """Whether the socket is open, without a round trip: Postgres tells when it closes it."""
        if self._pooled is None or self._key is None:
            return False
        wire = self._connection.pgconn
        try:
            while _has_news(wire.socket):  # the reason first, then the end
                wire.consume_input()
        except psycopg.Error:
            return False
        return bool(wire.status == psycopg.pq.ConnStatus.OK)


def _is_direct(connection: psycopg.Connection[Any]) -> bool:
    """Whether the backend that answers is the one that took the connection."""
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    return row is not None and row[0] == connection.info.backend_pid


def _has_news(socket: int) -> bool:
    waiting = select.poll()
    waiting.register(socket, select.POLLIN)
    return bool(waiting.poll(0))
