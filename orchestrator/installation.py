"""Whether this process may act for the sagas of its database: is it the installation they are of?

A restored dump looks like the shop itself, and its sagas bear the shop's keys. While nobody has
said what it is, nothing of it calls anybody: a repeated charge would be the original's, and an undo
would take back what the original has sold. `amends installation` says it.

The answer is read at the first question, again after every new connection, and once a minute: it
costs the road of an attempt nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from orchestrator.instrumentation import emit
from orchestrator.state import FoldedSaga
from orchestrator.storage import installation
from orchestrator.storage.database import Database, connections_made
from orchestrator.storage.installation import InstallationRow

BELIEVED_SECONDS = 60.0
"""How long an answer holds on the same connections; a pooler may have changed what is behind it."""

UNDECIDED_SECONDS = 5.0
"""How soon a process that may not act asks whether somebody has decided."""


class Installation:
    """The installation of one database, as this process knows it.

    Args:
        expected: the name that the settings of this process give, if any: another one is refused,
            also where a copy cannot be told from its original by the server.
    """

    def __init__(
        self,
        database: Database,
        *,
        expected: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._expected = expected
        self._clock = clock
        self._row: InstallationRow | None = None
        self._asked_at = 0.0
        self._connections = -1

    def read(self) -> InstallationRow:
        """Return what is known of it, asking the database when that is old.

        Raises:
            LogUnavailableError: Postgres did not answer.
        """
        if self._row is None or self._is_old():
            return self._asked()
        return self._row

    def may_act(self) -> bool:
        """Whether attempts may be run: asks the database when the last answer is old.

        Raises:
            LogUnavailableError: Postgres did not answer.
        """
        return self._trouble(self.read()) is None

    @property
    def is_refused(self) -> bool:
        """Whether the last answer was that nothing may act; asks nobody."""
        return self._row is not None and self._trouble(self._row) is not None

    def trouble(self) -> str | None:
        """Return why nothing may act, in words that say what to do; None: all is well."""
        return self._trouble(self.read())

    def owns(self, state: FoldedSaga) -> bool:
        """Whether a saga was started here, and not in the installation that this was copied from.

        Raises:
            LogUnavailableError: Postgres did not answer.
        """
        return state.installation in (None, self.read().name)

    def _asked(self) -> InstallationRow:
        made, row = -1, None
        while row is None or made != connections_made(self._database.engine):
            made = connections_made(self._database.engine)
            row = installation.read(self._database)
        self._row, self._connections, self._asked_at = row, made, self._clock()
        trouble = self._trouble(row)
        if trouble is not None:
            emit("installation.undecided", installation=row.name, reason=trouble)
        return row

    def _is_old(self) -> bool:
        if self._connections != connections_made(self._database.engine):
            return True
        lasts = UNDECIDED_SECONDS if self.is_refused else BELIEVED_SECONDS
        return self._clock() - self._asked_at >= lasts

    def _trouble(self, row: InstallationRow) -> str | None:
        if self._expected is not None and self._expected != row.name:
            return (
                f"the database is that of {row.name}, and AMENDS_INSTALLATION says "
                f"{self._expected}: correct the setting or the URL, or say of a copy "
                f"`amends installation new {self._expected}`"
            )
        if row.is_at_home:
            return None
        return (
            f"the database of {row.name} was copied or restored (it was {row.identity}, this is "
            f"{row.found}): say `amends installation keep` if this is the shop from now on, "
            "`amends installation new` if it is a copy"
        )
