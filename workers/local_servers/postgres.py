"""A real PostgreSQL on this machine: started, found again, restarted, stopped.

It listens on the loopback address only, with a random password (SCRAM), and opens no Unix socket:
so no path can be too long for one, and no other user of the machine gets in.
"""

import re
import signal
import subprocess
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Literal

from workers.local_servers.daemon import Daemon, Escalation, clean_environment
from workers.local_servers.data_directory import DataDirectory
from workers.local_servers.discovery import Source, find_postgres
from workers.local_servers.errors import StatementFailedError
from workers.local_servers.ports import LOOPBACK
from workers.local_servers.postgres_cluster import USER, PostgresCluster

DATABASE = "amends"
StopMode = Literal["fast", "immediate"]

_START_TIMEOUT = timedelta(seconds=120)  # initdb on a flooded disk has taken half a minute
_STATEMENT_SECONDS = 60
_NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}
_FAST: Escalation = (
    (signal.SIGINT, timedelta(seconds=20)),
    (signal.SIGQUIT, timedelta(seconds=10)),
    (signal.SIGKILL, timedelta(seconds=10)),
)
_IMMEDIATE: Escalation = _FAST[1:]


class Postgres:
    """The PostgreSQL of one directory. Creating the object starts and creates nothing.

    `durable=False` turns fsync off: what is committed survives the death of every process, but not
    of the machine. `settings` go to the server's command line at the next start; a server that
    already runs keeps its own. It runs on after the end of this process: see `running_servers`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        durable: bool = True,
        max_connections: int = 100,
        settings: Mapping[str, str] | None = None,
        binaries: Source | None = None,
        start_timeout: timedelta = _START_TIMEOUT,
    ) -> None:
        self.directory = DataDirectory(directory)
        self._binaries = binaries
        self._cluster = PostgresCluster(
            self.directory,
            settings={
                "max_connections": str(max_connections),
                **({} if durable else _NOT_DURABLE),
                **(settings or {}),
            },
            binaries=binaries,
        )
        self._daemon = Daemon(self._cluster, start_timeout=start_timeout)

    @property
    def bin_dir(self) -> Path:
        """Where `psql`, `pg_dump`, `pgbench` and the like are.

        Raises:
            BinariesNotFoundError: no PostgreSQL is installed; the message names the fixes.
        """
        return find_postgres(self._binaries)

    @property
    def port(self) -> int:
        return self._cluster.port

    @property
    def url(self) -> str:
        """The SQLAlchemy URL of the database `amends`, with the password."""
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        password = self.directory.password
        return f"postgresql+psycopg://{USER}:{password}@{LOOPBACK}:{self.port}/{database}"

    @property
    def pid(self) -> int | None:
        """The postmaster's pid, if it runs."""
        return self._daemon.pid

    def is_running(self) -> bool:
        return self._daemon.is_ready()

    def start(self) -> bool:
        """Return when the database takes connections; True if the server had to be started.

        Idempotent: a server that already runs in the directory is used, whoever started it.

        Raises:
            LocalServerError: no programs, or the server did not come up; the message says why.
        """
        has_started = self._daemon.start()
        if not self._has_database.exists():
            self._create_own_database()
        return has_started

    def stop(self, mode: StopMode = "fast") -> None:
        """Return when no process of the server is left. `immediate` skips the clean shutdown.

        Raises:
            ServerStopError: it outlived every signal, or belongs to another user.
        """
        self._daemon.stop(_FAST if mode == "fast" else _IMMEDIATE)

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop and start; after `immediate` the server recovers from its log. The URL stays."""
        self.stop(mode)
        self.start()

    def kill(self) -> None:
        """SIGKILL the postmaster and wait until its processes have noticed and are gone."""
        self._daemon.kill()

    def create_database(self, name: str, *, template: str = "template0") -> str:
        """Create a database as a copy of `template` and return its URL.

        Raises:
            StatementFailedError: it exists already, or somebody is connected to the template.
        """
        self._execute(f"CREATE DATABASE {_identifier(name)} TEMPLATE {_identifier(template)}")
        return self.url_of(name)

    def drop_database(self, name: str) -> None:
        """Drop a database, ending its connections; one that is not there is fine."""
        self._execute(f"DROP DATABASE IF EXISTS {_identifier(name)} WITH (FORCE)")

    @property
    def _has_database(self) -> Path:
        return self.directory.path / "database.created"

    def _create_own_database(self) -> None:
        try:
            self.create_database(DATABASE)
        except StatementFailedError as error:  # another starter, or our predecessor, was faster
            if "already exists" not in error.answer:
                raise
        self._has_database.touch()

    def _execute(self, statement: str) -> None:
        """By `psql`, which is there wherever the server is, and keeps SQL libraries out of here."""
        server = ["-h", LOOPBACK, "-p", str(self.port), "-U", USER, "-d", "postgres"]
        timeouts = f"-c statement_timeout={_STATEMENT_SECONDS}s -c lock_timeout=10s"
        told = subprocess.run(  # noqa: S603 - programs that discovery has found
            [str(self.bin_dir / "psql"), *server, "-X", "-q", "-c", statement],
            env=clean_environment()
            | {
                "PGPASSWORD": self.directory.password,
                "PGCONNECT_TIMEOUT": "10",
                "PGOPTIONS": timeouts,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if told.returncode != 0:
            raise StatementFailedError(server="PostgreSQL", answer=told.stderr.strip())


def _identifier(name: str) -> str:
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", name):
        raise ValueError(
            f"A database name is lower-case letters, digits and _, at most 63: not {name!r}"
        )
    return f'"{name}"'
