"""What steps without a transaction of the engine write down: verdicts and shipments.

A transactional step that raises loses its writes, so a blocked order would leave no verdict; and a
parcel is handed over by a call, which no transaction may span. Both rows are therefore kept in
short transactions of their own, under the step's key: writing them again changes nothing.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import sqlalchemy
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from orchestrator.seam import durable
from steps.gateways.carrier import Shipment
from steps.storage import stock
from steps.storage.tables import shipment, verdict
from steps.verdict import Decision, Opinion, Verdict

_VERDICT = (verdict.c.decision, verdict.c.reasons, verdict.c.ruleset, verdict.c.opinions)


class ShopDatabase:
    """The shop's tables behind an engine; a resource of the steps, one per process."""

    def __init__(self, engine: sqlalchemy.Engine) -> None:
        self._engine = engine
        self._autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")

    def keep_verdict(self, key: str, order_id: str, customer_id: str, found: Verdict) -> Verdict:
        """Keep the first verdict given under `key` and return it, also to later ones."""
        statement = (
            insert(verdict)
            .values(
                key=key,
                order_id=order_id,
                customer_id=customer_id,
                decision=found.decision,
                reasons=list(found.reasons),
                ruleset=found.ruleset,
                opinions=[asdict(each) for each in found.opinions],
            )
            .on_conflict_do_nothing()
            .returning(*_VERDICT)
        )
        known = select(*_VERDICT).where(verdict.c.key == key)

        def write() -> Verdict:
            with self._autocommit.connect() as connection:
                row = connection.execute(statement).first() or connection.execute(known).one()
            return Verdict(
                decision=Decision(row.decision),
                reasons=tuple(row.reasons),
                ruleset=row.ruleset,
                opinions=tuple(_opinion(each) for each in row.opinions),
            )

        return durable("shop.keep_verdict", write)

    def keep_shipment(self, key: str, reservation_key: str, accepted: Shipment) -> None:
        """Write down a parcel that has left, and take its units out of stock."""
        statement = (
            insert(shipment)
            .values(
                key=key,
                order_id=accepted.order_reference,
                reservation_key=reservation_key,
                reference=accepted.reference,
                tracking_number=accepted.tracking_number,
            )
            .on_conflict_do_nothing()
        )

        def write() -> None:
            with self._engine.begin() as connection:
                connection.execute(statement)
                stock.ship(connection, reservation_key)

        durable("shop.keep_shipment", write)


def _opinion(kept: dict[str, Any]) -> Opinion:
    decision = kept["decision"]
    return Opinion(**{**kept, "decision": None if decision is None else Decision(decision)})
