"""Which processes run and what each can do: for people and for `doctor`, never for correctness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from orchestrator.storage.database import Database

SEEN = """
INSERT INTO amends.process (owner, kind, queues, definition_hashes, amends_version)
VALUES (%(owner)s, %(kind)s, %(queues)s::text[], %(hashes)s::text[], %(version)s)
ON CONFLICT (owner) DO UPDATE SET seen_at = clock_timestamp(), queues = excluded.queues
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
    """One process as it describes itself."""

    owner: str
    kind: str
    queues: Sequence[str]
    definition_hashes: Sequence[str]
    amends_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenProcess:
    """A process with the database's times of its first and its last sign of life."""

    process: Process
    started_at: datetime
    seen_at: datetime


class Processes:
    """The register of running processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def seen(self, process: Process) -> None:
        """Note that a process is alive now; idempotent."""
        self._database.run(
            SEEN,
            {
                "owner": process.owner,
                "kind": process.kind,
                "queues": list(process.queues),
                "hashes": list(process.definition_hashes),
                "version": process.amends_version,
            },
        )

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
