"""Are Postgres and the broker there, and set up so that the promises hold?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import kombu
import redis

from orchestrator.storage import migrate
from orchestrator.storage.database import Database
from orchestrator.storage.migrate import ENGINE_SCHEMA
from orchestrator.storage.vital_signs import VitalSigns
from recovery.doctor.findings import Finding, fail, ok, warn
from recovery.reconciliation.storage.schema import RECONCILIATION_SCHEMA
from steps.storage.schema import SHOP_SCHEMA
from workers.settings import Settings

OLDEST_POSTGRES = 140_000
SKEW_SECONDS = 2.0
"""Leases use the database's clock alone; a skew only makes logs and deadlines confusing."""

CONNECT_SECONDS = 5


def database(known: Database) -> Iterator[Finding]:
    """Postgres answers, is new enough and keeps what it confirms; clocks agree.

    Raises:
        LogUnavailableError: it does not answer.
    """
    before = time.monotonic()
    here = datetime.now(UTC)
    facts = VitalSigns(known).server()
    took = time.monotonic() - before
    yield ok("database", f"PostgreSQL {facts.version}, answers in {took * 1000:.0f} ms")
    if facts.version_number < OLDEST_POSTGRES:
        yield fail("server version", facts.version, "use PostgreSQL 14 or newer")
    if facts.is_standby:
        yield fail("writable", "this is a standby", "connect to the primary")
    yield from _durability(facts.synchronous_commit, facts.fsync, facts.standby_names)
    skew = abs((facts.now - here).total_seconds()) - took
    if skew > SKEW_SECONDS:
        yield warn("clocks", f"{skew:.1f} s apart", "let NTP set the clock of this host")
    else:
        yield ok("clocks", "database and host agree")


def schemas(engine: Any) -> Iterator[Finding]:
    """The tables are those of this version; not all of them are needed by everybody."""
    known = ((ENGINE_SCHEMA, fail), (RECONCILIATION_SCHEMA, warn), (SHOP_SCHEMA, warn))
    for schema, judge in known:
        found, wanted = migrate.version(engine, schema), migrate.head(schema)
        name = f"schema {schema.name}"
        if found == wanted:
            yield ok(name, f"at {found}")
        else:
            hint = "run `amends migrate --checkout`, then restart the workers"
            yield judge(name, f"at {found or 'nothing'}, this version wants {wanted}", hint)


def broker(settings: Settings) -> Iterator[Finding]:
    """The broker answers; Redis must never throw messages away."""
    url = settings.require_broker_url()
    if not settings.is_redis or url.startswith("sentinel"):
        with kombu.Connection(url, connect_timeout=CONNECT_SECONDS) as connection:
            connection.ensure_connection(max_retries=1, timeout=CONNECT_SECONDS)
        yield ok("broker", "answers")
        return
    with redis.Redis.from_url(
        url, socket_connect_timeout=CONNECT_SECONDS, socket_timeout=CONNECT_SECONDS
    ) as client:
        server: Any = client.info("server")
        name = server.get("server_name", "redis")
        number = server.get("valkey_version") or server.get("redis_version")
        yield ok("broker", f"{name} {number} answers")
        yield _eviction(client)


def _durability(synchronous_commit: str, fsync: str, standby_names: str) -> Iterator[Finding]:
    if synchronous_commit in ("off", "local"):
        yield fail(
            "synchronous_commit",
            synchronous_commit,
            "a confirmed start could be lost: let sessions have synchronous_commit=on",
        )
    else:
        where = "and a standby" if standby_names else "on the primary (no synchronous standby)"
        yield ok("synchronous_commit", f"{synchronous_commit}: a start is on disk {where}")
    if fsync == "off":
        yield warn("fsync", "off", "a crash of the machine loses data: for demos and tests only")


def _eviction(client: Any) -> Finding:
    try:
        policy = client.config_get("maxmemory-policy").get("maxmemory-policy", "")
    except redis.exceptions.ResponseError:
        return warn(
            "eviction",
            "the server does not tell its maxmemory-policy",
            "make sure it is noeviction in your provider's console",
        )
    if policy != "noeviction":
        return warn("eviction", str(policy), "set maxmemory-policy noeviction: messages would go")
    return ok("eviction", "noeviction")
