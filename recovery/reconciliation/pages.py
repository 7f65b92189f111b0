"""What a person is told of a discrepancy, and when that is over.

An alert stays, and is sent again, until its discrepancy is closed or somebody acknowledges it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Final
from uuid import UUID

from orchestrator.instrumentation import emit
from orchestrator.storage.alerts import Alerts
from recovery.reconciliation.discrepancies import DiscrepancyType
from recovery.reconciliation.storage.findings import Finding

NAMED: Final = 20
"""A run raises an alert for each of so many discrepancies, and one for all others: a wrong report
must not page a hundred thousand times."""


class Pages:
    """Tells people of the discrepancies of one run; of each once, however often it is found."""

    def __init__(self, alerts: Alerts) -> None:
        self._alerts = alerts
        self._told = 0

    def tell(self, finding: Finding) -> None:
        """Raise the alert of a discrepancy, or after `NAMED` of them the one of all others."""
        self._told += 1
        if self._told <= NAMED:
            saga_id = finding.discrepancy.saga_id
            reason = finding.discrepancy.type.value
            self._raise(about_finding(finding.id), finding, saga_id, reason, question(finding))
        elif self._told == NAMED + 1:
            about = about_rest(finding.gateway, finding.day)
            self._raise(about, finding, None, "discrepancies", _question_of_many(finding))

    def _raise(
        self, about: str, finding: Finding, saga_id: UUID | None, reason: str, asked: str
    ) -> None:
        listing = f"amends discrepancies --date {finding.day} --gateway {finding.gateway}"
        known = {"reason": reason, "question": asked, "next": listing}
        for each in self._alerts.raise_discrepancy(about, saga_id, known):
            emit("alert.raised", alert_id=each.id, kind=each.kind, saga_id=saga_id, reason=reason)


def let_be_over(alerts: Alerts, abouts: Sequence[str]) -> None:
    """Close the alerts that are about these; the next one about the same is another one."""
    for each in alerts.close_discrepancies(abouts):
        emit("alert.closed", alert_id=each.id, kind=each.kind, saga_id=each.saga_id)


def about_finding(finding_id: UUID) -> str:
    """Return what the alert of one discrepancy is about."""
    return f"discrepancy {finding_id}"


def about_rest(gateway: str, day: date) -> str:
    """Return what the one alert for all others of that day is about."""
    return f"discrepancies {gateway} {day}"


def question(finding: Finding) -> str:
    """Return a discrepancy as a sentence for a person."""
    found = finding.discrepancy
    where = f"in {finding.gateway}'s report of {finding.day}"
    ours = _side(found.internal_minor, found.internal_currency, found.internal_status)
    theirs = _side(found.gateway_minor, found.gateway_currency, found.gateway_status)
    what = f"{found.kind} {found.name}"
    match found.type:
        case DiscrepancyType.MISSING_INTERNAL:
            return f"{what} ({theirs}) stands {where}, and no saga knows of it: whose money is it?"
        case DiscrepancyType.MISSING_GATEWAY:
            return f"{what} ({ours}) is missing {where}: did it happen?"
        case DiscrepancyType.AMOUNT_MISMATCH | DiscrepancyType.CURRENCY_MISMATCH:
            return f"{what} is {ours} with us and {theirs} {where}: which one is right?"
        case DiscrepancyType.STATUS_MISMATCH:
            return f"{what} is {ours} with us and {theirs} {where}: where is the money?"
        case DiscrepancyType.DUPLICATE_GATEWAY:
            return f"{what} stands more than once {where}: was it done twice?"
        case DiscrepancyType.DUPLICATE_INTERNAL:
            return f"{what} is claimed by more than one step or saga of ours: whose is it?"
        case DiscrepancyType.INVALID_ROW:
            return f"{found.name} of the {found.side} side cannot be read ({found.why}) {where}"


def _side(minor: int | None, currency: str | None, status: str | None) -> str:
    return f"{minor} {currency} minor units, {status}"


def _question_of_many(finding: Finding) -> str:
    return (
        f"{finding.gateway} and our books differ in more than {NAMED} movements of {finding.day}: "
        "is the report that day's, and whole?"
    )
