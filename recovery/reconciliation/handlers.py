"""Who is told of which discrepancies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from recovery.reconciliation.discrepancies import Discrepancy, DiscrepancyType

Handler = Callable[[Discrepancy], object]


class Handlers:
    """Handlers by type; each is told at least once of every discrepancy of its type."""

    def __init__(self) -> None:
        self._handlers: dict[DiscrepancyType, list[Handler]] = defaultdict(list)

    def on(self, kind: DiscrepancyType, handler: Handler) -> None:
        """Add one."""
        self._handlers[kind].append(handler)

    def tell(self, discrepancy: Discrepancy) -> list[Exception]:
        """Tell all of its type, whatever some of them raise, and return what was raised."""
        errors: list[Exception] = []
        for handler in self._handlers[discrepancy.type]:
            try:
                handler(discrepancy)
            except Exception as error:  # noqa: BLE001 - one handler must not hide the rest of a day
                errors.append(error)
        return errors
