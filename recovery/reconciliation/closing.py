"""A person closes a discrepancy: resolved (put right), or accepted (it may stay as it is)."""

from __future__ import annotations

from orchestrator.errors import PayloadError
from orchestrator.instrumentation import emit
from orchestrator.payloads import refuse_card_data
from orchestrator.storage.alerts import Alerts
from orchestrator.storage.database import Database
from recovery.reconciliation.pages import about_finding, let_be_over
from recovery.reconciliation.storage.findings import Finding, Findings, FindingState

MAX_LENGTH = 500


def close(
    database: Database, finding: Finding, state: FindingState, *, actor: str, reason: str
) -> Finding | None:
    """Close it as it was seen, and let its alert be over; None when it has changed since.

    Who, why and when stay with the row, also when a later run opens it again because the two sides
    then differ in another way.

    Raises:
        PayloadError: no reason or actor, more than 500 characters, or card data in either.
    """
    if not reason.strip() or not actor.strip():
        raise PayloadError("a reason and an actor are needed")
    if max(len(reason), len(actor)) > MAX_LENGTH:
        raise PayloadError(f"reason and actor have at most {MAX_LENGTH} characters")
    refuse_card_data({"reason": reason, "actor": actor}, "discrepancy")
    closed = Findings(database).close(finding, state, actor=actor, reason=reason)
    if closed is not None:
        let_be_over(Alerts(database), [about_finding(closed.id)])
        emit("reconciliation.closed", discrepancy_id=closed.id, state=state, actor=actor)
    return closed
