"""Which processes run, what each can do, and how others see that one has died.

For people and `doctor` the register says who was seen lately. For recovery it says by what a death
shows: a process holds an advisory lock in an idle session (`orchestrator.storage.process_session`),
which ends when its process does, and it has a pid. Neither is needed: who shows nothing is known to
be gone by its leases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from orchestrator.entries import log_format
from orchestrator.storage.database import Database

HELD = """
    SELECT (l.classid::bigint << 32) | l.objid::bigint AS key FROM pg_locks l
    WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted
        AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
"""
"""The keys of all advisory locks of this database; every role may see them."""

SEEN = f"""
INSERT INTO amends.process (owner, kind, queues, definition_hashes, amends_version,
    session_key, pid_space, pid, pid_started, log_format)
VALUES (%(owner)s, %(kind)s, %(queues)s::text[], %(hashes)s::text[], %(version)s,
    %(session_key)s, %(pid_space)s, %(pid)s, %(pid_started)s, %(log_format)s)
ON CONFLICT (owner) DO UPDATE SET seen_at = clock_timestamp(), queues = excluded.queues,
    session_key = excluded.session_key, pid_space = excluded.pid_space, pid = excluded.pid,
    pid_started = excluded.pid_started
RETURNING session_key IS NULL OR session_key IN ({HELD})
"""

SIGHTS = f"""
WITH held AS MATERIALIZED ({HELD}), here AS MATERIALIZED (
    SELECT a.backend_start < clock_timestamp() - make_interval(secs => %(settled)s)
        AS is_settled
    FROM pg_stat_get_activity(pg_backend_pid()) a
)
SELECT p.owner, p.session_key, p.session_key IN (SELECT key FROM held),
    CASE WHEN p.pid_space = %(pid_space)s THEN p.pid END, p.pid_started,
    coalesce((SELECT is_settled FROM here), false)
FROM amends.process p
WHERE p.session_key IS NOT NULL OR p.pid_space = %(pid_space)s
"""

ALIVE = f"""
SELECT p.owner, CASE WHEN p.session_key IS NOT NULL THEN p.session_key IN ({HELD}) END,
    p.seen_at, clock_timestamp()
FROM amends.process p WHERE p.owner = ANY(%(owners)s::text[])
"""

DEREGISTER = """
DELETE FROM amends.process p
WHERE p.owner = %(owner)s AND p.session_key IS NOT DISTINCT FROM %(session_key)s
    AND NOT EXISTS (SELECT FROM amends.attempt t
        WHERE t.owner = p.owner AND t.token IS NOT NULL)
RETURNING p.queues
"""

GONE = "DELETE FROM amends.process WHERE owner = ANY(%(owners)s::text[])"

FORGET = """
DELETE FROM amends.process WHERE seen_at < clock_timestamp() - make_interval(secs => %(age)s)
"""

ALL = """
SELECT owner, kind, queues, definition_hashes, amends_version, started_at, seen_at
FROM amends.process
WHERE seen_at > clock_timestamp() - make_interval(secs => %(age)s) ORDER BY owner
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process as it describes itself.

    Args:
        session_key: the advisory lock that its session holds, or None: it shows no death.
        pid_space: names the host's run and the pid namespace in which `pid` is its own, or None.
        pid_started: tells it from a later process under the same pid.
    """

    owner: str
    kind: str
    queues: Sequence[str]
    definition_hashes: Sequence[str]
    amends_version: str
    session_key: int | None = None
    pid_space: str | None = None
    pid: int | None = None
    pid_started: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenProcess:
    """A process with the database's times of its first and its last sign of life."""

    process: Process
    started_at: datetime
    seen_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What Postgres shows of a registered process at one moment.

    Args:
        is_held: its session's lock is there.
        pid: its process id, if that is one of the space which was asked about.
        is_settled: who asked has a session old enough for a missing lock to mean anything.
    """

    owner: str
    session_key: int | None
    is_held: bool
    pid: int | None
    pid_started: str | None
    is_settled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """Whether a registered process shows that it lives, and when it was seen last."""

    shows_it: bool | None
    seen_at: datetime
    now: datetime


class Processes:
    """The register of running processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def seen(self, process: Process) -> bool:
        """Note that a process is alive now; idempotent.

        Returns whether others see the session that it names: one that they do not see would make
        them take it for dead.
        """
        rows = self._database.run(
            SEEN,
            {
                "owner": process.owner,
                "kind": process.kind,
                "queues": list(process.queues),
                "hashes": list(process.definition_hashes),
                "version": process.amends_version,
                "session_key": process.session_key,
                "pid_space": process.pid_space,
                "pid": process.pid,
                "pid_started": process.pid_started,
                "log_format": log_format(),
            },
        )
        return bool(rows[0][0])

    def sights(self, pid_space: str | None, settled_seconds: float) -> list[Sight]:
        """Return what is to be seen of every process that shows a death, in one statement.

        Args:
            settled_seconds: how old a session must be for what it does not see to mean anything.
        """
        values = {"pid_space": pid_space, "settled": settled_seconds}
        rows = self._database.run(SIGHTS, values)
        return [
            Sight(
                owner=row[0],
                session_key=row[1],
                is_held=bool(row[2]),
                pid=row[3],
                pid_started=row[4],
                is_settled=row[5],
            )
            for row in rows
        ]

    def lives(self, owners: Sequence[str]) -> dict[str, Life]:
        """Return, of the registered ones among `owners`, whether they show that they live."""
        rows = self._database.run(ALIVE, {"owners": list(owners)})
        return {row[0]: Life(shows_it=row[1], seen_at=row[2], now=row[3]) for row in rows}

    def deregister(self, sight: Sight) -> list[str] | None:
        """Take a dead process off the register, unless it holds attempts or has come back.

        Returns the queues that it served; None where it stays.
        """
        values = {"owner": sight.owner, "session_key": sight.session_key}
        rows = self._database.run(DEREGISTER, values)
        return list(rows[0][0]) if rows else None

    def gone(self, owners: Sequence[str]) -> None:
        """Forget processes that have ended."""
        self._database.run(GONE, {"owners": list(owners)})

    def forget(self, age_seconds: float) -> None:
        """Forget processes that gave no sign of life for so long."""
        self._database.run(FORGET, {"age": age_seconds})

    def all(self, age_seconds: float = 60.0) -> list[SeenProcess]:
        """Return the processes that gave a sign of life within `age_seconds`."""
        rows = self._database.run(ALL, {"age": age_seconds})
        return [
            SeenProcess(
                process=Process(
                    owner=row[0],
                    kind=row[1],
                    queues=row[2],
                    definition_hashes=row[3],
                    amends_version=row[4],
                ),
                started_at=row[5],
                seen_at=row[6],
            )
            for row in rows
        ]
