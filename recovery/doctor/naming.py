"""Is the database that of the installation it was given to, or a copy that nobody decided on?"""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.installation import Installation
from orchestrator.storage.database import Database
from recovery.doctor.findings import Finding, fail, ok, warn
from workers.settings import Settings

CHECK = "installation"


def installation(database: Database, settings: Settings) -> Iterator[Finding]:
    """The installation is at home, and copies of it can be told from it."""
    known = Installation(database, expected=settings.installation)
    row, trouble = known.read(), known.trouble()
    if trouble is not None:
        yield fail(
            CHECK,
            f"nothing is claimed: {trouble}",
            "read docs/operating.md, Installations, before you choose",
        )
    elif not row.is_told_apart and settings.installation is None:
        yield warn(
            CHECK,
            f"{row.name}; the server does not tell its system identifier",
            "set AMENDS_INSTALLATION for workers, so that those of a copy claim nothing here",
        )
    else:
        yield ok(CHECK, row.name)
