"""A server on which nothing writes by itself, for tests that read what was committed just now."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from workers.local_servers.running_servers import RunningServers


@pytest.fixture(scope="module")
def quiet(servers: RunningServers) -> Iterator[None]:
    """No autovacuum while the module runs: its transactions hold events back for a moment."""
    servers.postgres.start()
    with psycopg.connect(servers.postgres.url.replace("+psycopg", ""), autocommit=True) as server:
        server.execute("ALTER SYSTEM SET autovacuum = off")
        server.execute("SELECT pg_reload_conf()")
        yield
        server.execute("ALTER SYSTEM RESET autovacuum")
        server.execute("SELECT pg_reload_conf()")
