"""What a check-up asks the database about itself and about the sagas in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from orchestrator.storage.database import Database

SERVER = """
SELECT current_setting('server_version'), current_setting('server_version_num')::int,
    current_setting('synchronous_commit'), current_setting('synchronous_standby_names'),
    current_setting('fsync'), clock_timestamp(), pg_is_in_recovery()
"""

FOREIGN = """
SELECT definition, version, count(*) FROM amends.saga
WHERE due_at IS NOT NULL AND definition_hash <> ALL(%(hashes)s::text[])
GROUP BY definition, version ORDER BY definition, version
"""

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
class ForeignVersion:
    """A definition with sagas in flight that this process has not, or not in that shape."""

    definition: str
    version: int
    sagas: int


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

    def foreign(self, hashes: Sequence[str]) -> list[ForeignVersion]:
        """Return the definitions of sagas in flight whose hash is none of these."""
        rows = self._database.run(FOREIGN, {"hashes": list(hashes)})
        return [ForeignVersion(definition=row[0], version=row[1], sagas=row[2]) for row in rows]

    def overdue(self, age_seconds: float) -> Overdue:
        """Return how many sagas have been due for longer than that."""
        row = self._database.run(OVERDUE, {"age": age_seconds})[0]
        return Overdue(sagas=row[0], longest_seconds=row[1] or 0.0)
