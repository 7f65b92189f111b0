"""Starting local servers from other processes, and seeing what is left of them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psutil
import psycopg
import redis

from workers.local_servers.deadline import Deadline
from workers.local_servers.running_servers import RunningServers

ROOT = Path(__file__).resolve().parents[2]
IMPORTABLE = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
PATIENCE = timedelta(seconds=60)
HAS_DEBIAN = any(Path("/usr/lib/postgresql").glob("*/bin/postgres"))

# What a starter in another process runs: it tells what it got, then lives until told to end.
STARTER = """
import json, os, sys
from pathlib import Path
from workers.local_servers.running_servers import start

options = json.loads(sys.argv[2])
ending = options.pop("ending", "return")
forks = options.pop("forks", False)
with start(Path(sys.argv[1]), durable=False, **options) as servers:
    if forks and os.fork() == 0:
        sys.stdin.read()
        os._exit(0)
    print(json.dumps({
        "pids": [servers.postgres.pid, servers.valkey.pid],
        "urls": [servers.database_url, servers.broker_url],
        "is_owner": servers.is_owner,
        "watchdog": servers._watchdog.process.pid if servers._watchdog else None,
    }), flush=True)
    sys.stdin.readline()
    if ending == "exit":
        sys.exit(3)
    if ending == "error":
        raise RuntimeError("on purpose")
"""


class Starter:
    """Another process that starts the servers of a directory."""

    def __init__(self, directory: Path, **options: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", STARTER, str(directory), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": IMPORTABLE},
            text=True,
        )

    def ready(self) -> dict[str, object]:
        assert self.process.stdout is not None
        told: dict[str, object] = json.loads(self.process.stdout.readline())
        return told

    def end(self) -> int:
        self.process.communicate("\n", timeout=PATIENCE.total_seconds())
        return self.process.returncode

    def send(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=PATIENCE.total_seconds())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def processes_of(directory: Path) -> list[psutil.Process]:
    """Every living process that works in the directory or was given it on its command line."""
    found = []
    for process in psutil.process_iter():
        try:
            told = [process.cwd(), *process.cmdline()]
            is_alive = process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            continue
        if is_alive and any(str(directory) in text for text in told):
            found.append(process)
    return found


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = Deadline(PATIENCE)
    while not condition():
        assert deadline.pause(), "not in time"


@contextmanager
def connected(url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        yield connection


def write_mark(servers: RunningServers) -> None:
    with connected(servers.database_url) as connection:
        connection.execute("CREATE TABLE mark AS SELECT 42 AS value")
    with redis.Redis.from_url(servers.broker_url) as client:
        client.set("mark", "42")


def has_mark(servers: RunningServers) -> bool:
    with connected(servers.database_url) as connection:
        row = connection.execute("SELECT value FROM mark").fetchone()
    with redis.Redis.from_url(servers.broker_url) as client:
        return row == (42,) and client.get("mark") == b"42"
