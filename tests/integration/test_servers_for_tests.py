"""The fixtures of tests/servers.py: every pytest process has its own pair, and none is left."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.local_server_processes import (
    HAS_DEBIAN,
    IMPORTABLE,
    PATIENCE,
    processes_of,
    wait_until,
)

# A session of pytest that uses the fixtures of tests/servers.py as a conftest would.
CONFTEST = """
import psycopg
import pytest
from tests.servers import broker_url, database, databases, servers

@pytest.fixture(scope="session")
def migrate_database():
    def migrate(url):
        with psycopg.connect(url.replace("+psycopg", "")) as connection:
            connection.execute("CREATE TABLE mark (value integer)")
    return migrate
"""
SESSION = """
import os, sys, psycopg, pytest, redis
from pathlib import Path

@pytest.mark.parametrize("number", range(6))
def test_each_has_its_own(number, database, broker_url, servers):
    with psycopg.connect(database.replace("+psycopg", "")) as connection:
        connection.execute("INSERT INTO mark VALUES (1)")
        assert connection.execute("SELECT count(*) FROM mark").fetchone() == (1,)
        told = connection.info.server_version // 10000
    with redis.Redis.from_url(broker_url) as client:
        assert client.dbsize() == 0
        client.set("mark", number)
    if number % 2:
        servers.postgres.kill()
        servers.valkey.kill()
    with (Path(os.environ["TOLD"]) / str(os.getpid())).open("a") as file:
        print(servers.directory, told, file=file)
    if "HANG" in os.environ:
        sys.stdin = open(os.environ["HANG"])
"""


class PytestSession:
    """Another pytest, with what its processes told: their server directories and versions."""

    def __init__(self, base: Path, *arguments: str, **environment: str) -> None:
        (base / "told").mkdir(parents=True)
        (base / "conftest.py").write_text(CONFTEST)
        (base / "test_session.py").write_text(SESSION)
        (base / "pytest.ini").write_text("[pytest]\n")
        self._told = base / "told"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:valkey", *arguments, str(base)],
            env=os.environ | {"PYTHONPATH": IMPORTABLE, "TOLD": str(self._told)} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=base,
            text=True,
            start_new_session=True,
        )

    def told(self) -> list[tuple[Path, str]]:
        lines = [line for file in self._told.iterdir() for line in file.read_text().splitlines()]
        return [(Path(line.rpartition(" ")[0]), line.rpartition(" ")[2]) for line in set(lines)]


@pytest.mark.parametrize("version", ["15", "18"])
def test_each_pytest_process_has_a_pair_of_its_own_and_leaves_nothing(
    tmp_path: Path, version: str
) -> None:
    if version == "15" and not HAS_DEBIAN:
        pytest.skip("Debian's PostgreSQL is not installed")
    session = PytestSession(tmp_path / "session", "-n2", AMENDS_TEST_POSTGRES=version)

    output, _ = session.process.communicate(timeout=2 * PATIENCE.total_seconds())

    assert "6 passed" in output
    assert len(session.told()) == 2
    for directory, told in session.told():
        assert told == version
        assert not directory.exists()
        assert processes_of(directory) == []


def test_a_pytest_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "never")
    session = PytestSession(tmp_path / "session", HANG=str(tmp_path / "never"))
    wait_until(lambda: len(session.told()) == 1)
    [(directory, _)] = session.told()
    assert processes_of(directory) != []

    os.killpg(session.process.pid, signal.SIGKILL)
    session.process.communicate()

    wait_until(lambda: not directory.exists())
    wait_until(lambda: processes_of(directory) == [])
