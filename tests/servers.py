"""Real servers for tests, as fixtures that a conftest imports.

Every pytest process, so every xdist worker, has a PostgreSQL and a Valkey of its own: nothing is
shared, so nothing can race, and a test may kill, restart or flush them without hurting a neighbour.
They end with the session; a watchdog ends them, and removes their files, when pytest is killed.

`AMENDS_TEST_POSTGRES=15|18` chooses the version: Debian's programs or the wheel's. Unset: as found.
"""

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from workers.local_servers.discovery import Source
from workers.local_servers.postgres import Postgres
from workers.local_servers.running_servers import RunningServers, start

Migrate = Callable[[str], object]
"""Brings the empty database behind a URL to the current schema, and closes its connections."""

_POSTGRES_SOURCES: dict[str, Source | None] = {"": None, "15": "debian", "18": "wheel"}
_TEMPLATE = "template_of_tests"
INSTALLATION = "test"
"""What the installation in a test's database is called; a part of its sagas' keys."""

_IS_AN_INSTALLATION = f"""
DO $$ BEGIN
    IF to_regclass('amends.installation') IS NOT NULL THEN
        UPDATE amends.installation SET name = '{INSTALLATION}',
            identity = amends.database_identity();
    END IF;
END $$
"""  # noqa: S608 - a constant
"""Else it would be a copy of the template that nobody has decided about."""

_MEMORY = Path("/dev/shm")  # noqa: S108 - the directories in it have random names
_ROOM_BYTES = 4 << 30
"""What the servers of several pytest processes may fill: mostly with write-ahead log."""


class Databases:
    """Fresh databases, each a copy of a template that is migrated once."""

    def __init__(self, postgres: Postgres, migrate: Migrate) -> None:
        self._postgres = postgres
        self._migrate = migrate
        self._numbers = itertools.count(1)
        self._has_template = False

    def create(self) -> str:
        """The URL of a new, migrated database; PostgreSQL is started if a test has stopped it."""
        self._postgres.start()
        if not self._has_template:
            self._migrate(self._postgres.create_database(_TEMPLATE))
            self._has_template = True
        name = f"test_{next(self._numbers)}"
        self._run(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE} STRATEGY file_copy")
        url = self._postgres.url_of(name)
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(_IS_AN_INSTALLATION)
        return url

    def drop(self, url: str) -> None:
        """Remove a database, with whatever is still connected to it."""
        self._postgres.start()
        self._run(f"DROP DATABASE IF EXISTS {url.rpartition('/')[2]} WITH (FORCE)")

    def _run(self, statement: str) -> None:
        """Without `psql`: most tests make a database, and its process took as long as the copy."""
        url = self._postgres.url_of("postgres").replace("+psycopg", "")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(statement.encode())


def postgres_source() -> Source | None:
    """Which PostgreSQL this run wants; for tests that start one of their own."""
    version = os.environ.get("AMENDS_TEST_POSTGRES", "")
    if version not in _POSTGRES_SOURCES:
        raise pytest.UsageError(f"AMENDS_TEST_POSTGRES is 15, 18 or unset, not {version!r}")
    return _POSTGRES_SOURCES[version]


def scratch(prefix: str = "amends-tests-") -> Path:
    """A new directory for servers: in memory if there is room, where a database is made in no time.

    What is in memory survives every process, as without `fsync` it must; more is not asked of it.
    """
    has_room = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM_BYTES
    return Path(tempfile.mkdtemp(prefix=prefix, dir=_MEMORY if has_room else None))


@pytest.fixture(scope="session")
def servers() -> Iterator[RunningServers]:
    """The pair of this pytest process."""
    with start(
        scratch(),
        durable=False,
        watchdog=True,
        ephemeral=True,
        postgres_binaries=postgres_source(),
    ) as running:
        yield running


@pytest.fixture(scope="session")
def migrate_database() -> Migrate:
    """What fills the template: a conftest overrides it. By itself, nothing."""
    return lambda _url: None


@pytest.fixture(scope="session")
def databases(servers: RunningServers, migrate_database: Migrate) -> Databases:
    """For tests that need several databases, or must make theirs themselves."""
    return Databases(servers.postgres, migrate_database)


@pytest.fixture
def database(databases: Databases) -> Iterator[str]:
    """The URL of a fresh, migrated database, dropped after the test."""
    url = databases.create()
    yield url
    databases.drop(url)


@pytest.fixture
def broker_url(servers: RunningServers) -> str:
    """The URL of an empty Valkey; started if a test has stopped it."""
    servers.valkey.start()
    with redis.Redis.from_url(servers.broker_url) as client:
        client.flushall()
    return servers.broker_url
