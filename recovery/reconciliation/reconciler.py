"""Compares any two lists of movements and tells handlers of every difference; keeps nothing.

    report = Reconciler().on(DiscrepancyType.MISSING_GATEWAY, page).reconcile(
        internal=ours, gateway=theirs
    )

What is kept, acted upon and closed is a day of the saga log: `recovery.reconciliation.daily`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

from orchestrator.storage.database import Database
from recovery.reconciliation.business_day import BusinessDay
from recovery.reconciliation.discrepancies import Discrepancy, DiscrepancyType
from recovery.reconciliation.handlers import Handler, Handlers
from recovery.reconciliation.records import Row
from recovery.reconciliation.storage.comparison import comparison, session
from workers.bootstrap import build_engine
from workers.settings import Settings

LISTED = 100_000
"""Discrepancies that a report names; more are counted, and told to handlers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconciliationReport:
    """What a comparison found: all of it counted, up to `LISTED` named, in a fixed order.

    `handler_failures`: what handlers raised; it stops neither the others nor the comparison.
    """

    matched: int
    counts: Counter[DiscrepancyType] = field(default_factory=Counter)
    discrepancies: Sequence[Discrepancy] = ()
    handler_failures: Sequence[tuple[Discrepancy, Exception]] = ()

    @property
    def is_clean(self) -> bool:
        return not self.counts

    def summary(self) -> dict[str, int]:
        """Return how many movements match, and how many discrepancies of each type there are."""
        return {
            "matched": self.matched,
            **{each.value: self.counts[each] for each in DiscrepancyType},
        }


class Reconciler:
    """Compares by kind and reference, in temporary tables of Postgres.

    Args:
        database: where; by default the one of this process's settings. Nothing stays in it.
    """

    def __init__(self, database: Database | None = None) -> None:
        self._given = database
        self._handlers = Handlers()

    def on(self, kind: DiscrepancyType, handler: Handler) -> Self:
        """Have `handler` told of every discrepancy of that type; what it raises is reported."""
        self._handlers.on(kind, handler)
        return self

    def reconcile(
        self,
        *,
        internal: Iterable[Row],
        gateway: Iterable[Row],
        day: BusinessDay | None = None,
    ) -> ReconciliationReport:
        """Compare two sides, however many rows they have; memory holds one batch.

        Args:
            day: judge only its movements; rows from around it answer for what lies near midnight.

        Raises:
            LogUnavailableError: Postgres does not answer.
            SettingsError: no database was given and none is set.
        """
        database = self._given or Database(
            build_engine(Settings.load(), pool_size=1, name="amends reconciler")
        )
        counts: Counter[DiscrepancyType] = Counter()
        listed: list[Discrepancy] = []
        failures: list[tuple[Discrepancy, Exception]] = []
        with session(database) as connection:
            compared = comparison(connection)
            compared.fill("gateway", gateway)
            compared.fill("internal", internal)
            compared.pair(day)
            for each in compared.found():
                counts[each.type] += 1
                if len(listed) < LISTED:
                    listed.append(each)
                failures.extend((each, error) for error in self._handlers.tell(each))
            matched, _ = compared.totals()
        return ReconciliationReport(
            matched=matched, counts=counts, discrepancies=listed, handler_failures=failures
        )
