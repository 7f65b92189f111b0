"""What a check-up asks the database about itself and about the sagas in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from orchestrator.entries import log_format
from orchestrator.storage.database import Database

SERVER = """
SELECT current_setting('server_version'), current_setting('server_version_num')::int,
    current_setting('synchronous_commit'), current_setting('synchronous_standby_names'),
    current_setting('fsync'), clock_timestamp(), pg_is_in_recovery()
"""

_IN_FLIGHT = """
SELECT s.definition, s.version, s.definition_hash, count(*),
    count(*) FILTER (WHERE s.state IN ('stuck', 'failed_compensation')), min(s.created_at),
    (array_agg(s.id ORDER BY s.created_at))[1]
FROM amends.saga s WHERE s.due_at IS NOT NULL AND {condition}
GROUP BY s.definition, s.version, s.definition_hash
ORDER BY s.definition, s.version, s.definition_hash
"""

FOREIGN = _IN_FLIGHT.format(condition="s.definition_hash <> ALL(%(hashes)s::text[])")

UNREADABLE = _IN_FLIGHT.format(
    condition="s.definition_hash = ANY(%(hashes)s::text[]) AND s.log_format > %(log_format)s"
)

OVERDUE = """
SELECT count(*), extract(epoch FROM clock_timestamp() - min(due_at))::float8
FROM amends.saga WHERE due_at < clock_timestamp() - make_interval(secs => %(age)s)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """The server as this session sees it; `now` is its clock."""

    version: str
    version_number: int
    synchronous_commit: str
    standby_names: str
    fsync: str
    now: datetime
    is_standby: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftBehind:
    """Sagas in flight of one shape that this process cannot move.

    `parked` of them are parked; `example` is the oldest one's id, `oldest` when it was started.
    """

    definition: str
    version: int
    definition_hash: str
    sagas: int
    parked: int
    oldest: datetime
    example: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Overdue:
    """Sagas nobody has looked at although they are due; the longest due for so many seconds."""

    sagas: int
    longest_seconds: float


class VitalSigns:
    """Cheap, read-only questions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def server(self) -> ServerFacts:
        """Return the server's facts."""
        row = self._database.run(SERVER, {})[0]
        names = tuple(ServerFacts.__dataclass_fields__)
        return ServerFacts(**dict(zip(names, row, strict=True)))

    def foreign(self, hashes: Sequence[str]) -> list[LeftBehind]:
        """Return the sagas in flight whose definition's hash is none of these."""
        return self._left_behind(FOREIGN, {"hashes": list(hashes)})

    def unreadable(self, hashes: Sequence[str]) -> list[LeftBehind]:
        """Return those in flight of these hashes whose log a newer version wrote."""
        values = {"hashes": list(hashes), "log_format": log_format()}
        return self._left_behind(UNREADABLE, values)

    def _left_behind(self, statement: str, values: Mapping[str, Any]) -> list[LeftBehind]:
        names = tuple(LeftBehind.__dataclass_fields__)
        rows = self._database.run(statement, values)
        return [LeftBehind(**dict(zip(names, row, strict=True))) for row in rows]

    def overdue(self, age_seconds: float) -> Overdue:
        """Return how many sagas have been due for longer than that."""
        row = self._database.run(OVERDUE, {"age": age_seconds})[0]
        return Overdue(sagas=row[0], longest_seconds=row[1] or 0.0)
