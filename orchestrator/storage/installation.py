"""Which installation a database holds, and whether it is the database that it was given in.

The name is minted with the schema and is a part of every key. A dump copies it, so the identity of
the database that it was given in is kept beside it: the cluster's system identifier and the
database's own oid. A fail-over to a physical standby changes neither; a dump that is restored, or
a database that is made from another as its template, changes at least one.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, Engine, text

from orchestrator.errors import InstallationError, PayloadError
from orchestrator.keys import INSTALLATION
from orchestrator.storage.database import Database

READ = "SELECT i.name, i.identity, amends.database_identity() FROM amends.installation i"

_MINTED = "substr(replace(gen_random_uuid()::text, '-', ''), 1, 16)"

_IS_UNUSED = """
NOT EXISTS (SELECT FROM amends.saga) AND NOT EXISTS (SELECT FROM amends.tombstone)
"""

_STILL = """
SET LOCAL lock_timeout = '30s';
SET LOCAL statement_timeout = 0;
LOCK TABLE amends.saga IN SHARE ROW EXCLUSIVE MODE;
"""
"""No saga starts or moves while this is decided: each is of the one installation or the other."""

ADOPT = f"""
UPDATE amends.installation SET name = {_MINTED}, identity = amends.database_identity(),
    named_at = clock_timestamp()
WHERE identity <> amends.database_identity() AND {_IS_UNUSED}
"""

NAME = f"""
UPDATE amends.installation SET name = :name, identity = amends.database_identity(),
    named_at = clock_timestamp()
WHERE {_IS_UNUSED} RETURNING name
"""

KEEP = """
UPDATE amends.installation SET identity = amends.database_identity(),
    decided_at = clock_timestamp(), decided_by = :by, decided_because = :because
"""

RENEW = f"""
UPDATE amends.installation SET name = coalesce(:name, {_MINTED}),
    identity = amends.database_identity(), named_at = clock_timestamp(),
    decided_at = clock_timestamp(), decided_by = :by, decided_because = :because
RETURNING name
"""

CLOSE_ALL = """
WITH open AS (
    SELECT saga_id, step, direction, number, row_number() OVER saga AS place,
        count(*) OVER (PARTITION BY saga_id) AS total
    FROM amends.attempt WHERE token IS NOT NULL
    WINDOW saga AS (PARTITION BY saga_id ORDER BY step, direction, number)
), closed AS (
    UPDATE amends.saga s SET state = 'resolved', due_at = NULL,
        seq = seq + 1 + coalesce((SELECT max(o.total) FROM open o WHERE o.saga_id = s.id), 0),
        updated_at = clock_timestamp(), ended_at = clock_timestamp()
    WHERE due_at IS NOT NULL RETURNING id, seq
), unanswered AS (
    INSERT INTO amends.saga_log (saga_id, seq, kind, data)
    SELECT id, seq - 1 - total + place,
        CASE WHEN direction LIKE 'probe%' THEN 'StepReleased' ELSE 'StepUnknown' END,
        jsonb_build_object('step', step, 'direction', direction, 'attempt', number)
            || CASE WHEN direction LIKE 'probe%' THEN '{}' ELSE '{"reason": "lost"}' END::jsonb
    FROM closed JOIN open ON saga_id = id
), logged AS (
    INSERT INTO amends.saga_log (saga_id, seq, kind, data)
    SELECT id, seq, 'SagaResolved',
        jsonb_build_object('actor', cast(:by AS text), 'reason', cast(:because AS text))
    FROM closed
), withdrawn AS (
    DELETE FROM amends.attempt
), unlocked AS (
    DELETE FROM amends.semantic_lock
)
SELECT count(*) FROM closed
"""

"""What was claimed when the copy was made is answered in the original only: here it is unknown."""

LAST_WRITTEN = "SELECT max(recorded_at) FROM amends.saga_log"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallationRow:
    """What the installation is called, the database it was given in, and the one it is in now."""

    name: str
    identity: str
    found: str

    @property
    def is_at_home(self) -> bool:
        """Whether it is in the database that it was given in."""
        return self.identity == self.found

    @property
    def is_told_apart(self) -> bool:
        """Whether the server tells its system identifier; without it, copies may look alike."""
        return not self.found.startswith("?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewed:
    """The new name of what was a copy, and how many sagas of the original were closed in it."""

    name: str
    closed: int


def read(database: Database) -> InstallationRow:
    """Return what the database says of its installation.

    Raises:
        LogUnavailableError: Postgres did not answer.
    """
    [(name, identity, found)] = database.run(READ, {})
    return InstallationRow(name=name, identity=identity, found=found)


def adopt(connection: Connection) -> None:
    """Give a schema that was copied before its first saga a name of its own; else do nothing."""
    connection.execute(text(ADOPT))


def name(engine: Engine, wanted: str) -> None:
    """Call the installation `wanted`, before its first saga; needs the schema's owner.

    Raises:
        PayloadError: no name for an installation.
        InstallationError: it has sagas, whose keys would change.
    """
    _check(wanted)
    with engine.begin() as connection:
        connection.execute(text(_STILL))
        if not connection.execute(text(NAME), {"name": wanted}).fetchall():
            current = connection.execute(text("SELECT name FROM amends.installation")).scalar()
            if current == wanted:
                return
            raise InstallationError(
                f"it is called {current} and has sagas, whose keys name it: an installation is "
                "named before its first saga"
            )


def keep(engine: Engine, *, by: str, because: str) -> None:
    """Say that this database *is* the installation now: it was restored; needs the owner."""
    with engine.begin() as connection:
        connection.execute(text(KEEP), {"by": by, "because": because})


def renew(engine: Engine, wanted: str | None = None, *, by: str, because: str) -> Renewed:
    """Say that this database is a copy: another installation; needs the owner.

    What was in flight goes on in the original; here it is closed as it stands, `resolved`.

    Raises:
        PayloadError: no name for an installation.
    """
    if wanted is not None:
        _check(wanted)
    told = {"by": by, "because": because}
    with engine.begin() as connection:
        connection.execute(text(_STILL))
        before = connection.execute(text("SELECT name FROM amends.installation")).scalar()
        if wanted == before:
            raise InstallationError(f"it is called {before}; a copy needs a name of its own")
        renewed = connection.execute(text(RENEW), {"name": wanted, **told}).scalar()
        reason = f"a copy; the saga goes on in installation {before}: {because}"
        closed = connection.execute(text(CLOSE_ALL), {"by": by, "because": reason}).scalar()
    return Renewed(name=str(renewed), closed=int(closed or 0))


def _check(wanted: str) -> None:
    if not INSTALLATION.fullmatch(wanted):
        raise PayloadError(
            f"{wanted!r} is no name for an installation: 1 to 32 of a-z, 0-9 and -, like eu-shop"
        )
