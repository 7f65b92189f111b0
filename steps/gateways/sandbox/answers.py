"""Reads the sandbox gateway's JSON into the types of the protocols.

Every function raises `UnreadableAnswerError` where the JSON is not what the gateway promises.
"""

from __future__ import annotations

from datetime import datetime

from steps.gateways.carrier import Shipment
from steps.gateways.payment import (
    CardChecks,
    ChargeResult,
    ChargeStatus,
    CheckResult,
    MovementKind,
    RefundResult,
    RefundStatus,
    ReportLine,
    UnreadableLine,
)
from steps.gateways.reading import Json, each_line, promised, text
from steps.money import Money


@promised
def payment(body: Json) -> ChargeResult:
    """One payment."""
    currency = body["currency"]
    return ChargeResult(
        reference=text(body["reference"]),
        order_reference=text(body["order_reference"]),
        amount=Money(minor=body["amount_minor"], currency=currency),
        captured=Money(minor=body["captured_minor"], currency=currency),
        refunded=Money(minor=body["refunded_minor"], currency=currency),
        status=ChargeStatus(body["status"]),
        key=text(body["key"]),
        created_at=_instant(body["created_at"]),
        refunds=tuple(refund(each) for each in body["refunds"]),
        challenge_url=body.get("challenge_url"),
        method=text(body.get("method", "")),
        card_checks=_checks(body.get("card_checks") or {}),
    )


@promised
def payments(body: Json) -> tuple[ChargeResult, ...]:
    """What a lookup found."""
    return tuple(payment(each) for each in body["payments"])


@promised
def refund(body: Json) -> RefundResult:
    """One refund."""
    return RefundResult(
        reference=text(body["reference"]),
        payment_reference=text(body["payment_reference"]),
        amount=Money(minor=body["amount_minor"], currency=body["currency"]),
        status=RefundStatus(body["status"]),
        key=text(body["key"]),
        created_at=_instant(body["created_at"]),
    )


@promised
def shipment(body: Json) -> Shipment:
    """One shipment."""
    return Shipment(
        reference=text(body["reference"]),
        order_reference=text(body["order_reference"]),
        tracking_number=text(body["tracking_number"]),
        key=text(body["key"]),
        created_at=_instant(body["created_at"]),
    )


@promised
def shipments(body: Json) -> tuple[Shipment, ...]:
    """What a lookup found."""
    return tuple(shipment(each) for each in body["shipments"])


@promised
def report_page(body: Json) -> tuple[list[ReportLine | UnreadableLine], int | None]:
    """One page of the report, and where the next one starts; None ends it."""
    following = body["next"]
    if following is not None and type(following) is not int:
        raise TypeError("a number expected")
    return each_line(body["lines"], _report_line), following


def _report_line(body: Json) -> ReportLine:
    return ReportLine(
        kind=MovementKind(body["operation"]),
        reference=text(body["reference"]),
        payment_reference=text(body["payment_reference"]),
        order_reference=text(body["order_reference"]),
        amount=Money(minor=body["amount_minor"], currency=body["currency"]),
        key=text(body["key"]),
        at=_instant(body["at"]),
    )


def _checks(body: Json) -> CardChecks:
    avs, cvv = body.get("avs"), body.get("cvv")
    return CardChecks(
        avs=None if avs is None else CheckResult(avs),
        cvv=None if cvv is None else CheckResult(cvv),
        authenticated=body.get("authenticated"),
    )


def _instant(value: str) -> datetime:
    instant = datetime.fromisoformat(value)
    if instant.tzinfo is None:
        raise ValueError("an instant needs its zone")
    return instant
