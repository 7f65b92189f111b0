"""The ledger read backwards, page by page, for Stripe's lists: they begin with the newest."""

from __future__ import annotations

from collections.abc import Iterable

from steps.gateways.sandbox.ledger import Ledger, movement_of
from steps.gateways.sandbox.movements import Movement, Operation

Kind = tuple[Operation, str]
"""An operation and the ledger's word for how it ended."""


def newest_first(
    ledger: Ledger,
    kinds: Iterable[Kind],
    *,
    start: float,
    end: float,
    before: int | None,
    limit: int,
    openings_only: bool = False,
) -> list[Movement]:
    """Movements of Stripe's payments, of these kinds, in [start, end), with a `seq` below `before`.

    `openings_only` leaves those out whose payment has an earlier movement.
    """
    wanted = [f"{operation}/{answer}" for operation, answer in kinds]
    marks = ", ".join("?" * len(wanted))
    opening = (
        "AND NOT EXISTS (SELECT 1 FROM movement earlier WHERE earlier.seq < movement.seq "
        "AND earlier.payment_reference = movement.payment_reference)"
        if openings_only
        else ""
    )
    rows = ledger.database.execute(
        f"SELECT * FROM movement WHERE operation || '/' || answer IN ({marks}) "  # noqa: S608 - fixed texts
        "AND payment_reference GLOB 'pi_*' AND at >= ? AND at < ? AND seq < ? "
        f"{opening} ORDER BY seq DESC LIMIT ?",
        (*wanted, start, end, before or 2**62, limit),
    )
    return [movement_of(row) for row in rows]
