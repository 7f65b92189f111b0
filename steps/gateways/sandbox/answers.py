"""Reads the sandbox gateway's JSON into the types of the protocols.

Every function raises `UnreadableAnswerError` where the JSON is not what the gateway promises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import wraps
from typing import Any, TypeVar

from steps.gateways.carrier import Shipment
from steps.gateways.payment import (
    ChargeResult,
    ChargeStatus,
    MovementKind,
    RefundResult,
    RefundStatus,
    ReportLine,
)
from steps.money import Money

T = TypeVar("T")
Json = Mapping[str, Any]


class UnreadableAnswerError(Exception):
    """The gateway's answer has not the promised shape."""


def _promised(read: Callable[[Json], T]) -> Callable[[Json], T]:
    @wraps(read)
    def checked(body: Json) -> T:
        try:
            return read(body)
        except (KeyError, TypeError, ValueError) as error:
            raise UnreadableAnswerError(f"{read.__name__}: {type(error).__name__}") from error

    return checked


@_promised
def payment(body: Json) -> ChargeResult:
    """One payment."""
    currency = body["currency"]
    return ChargeResult(
        reference=_text(body["reference"]),
        order_reference=_text(body["order_reference"]),
        amount=Money(minor=body["amount_minor"], currency=currency),
        captured=Money(minor=body["captured_minor"], currency=currency),
        refunded=Money(minor=body["refunded_minor"], currency=currency),
        status=ChargeStatus(body["status"]),
        key=_text(body["key"]),
        created_at=_instant(body["created_at"]),
        refunds=tuple(refund(each) for each in body["refunds"]),
        challenge_url=body.get("challenge_url"),
    )


@_promised
def payments(body: Json) -> tuple[ChargeResult, ...]:
    """What a lookup found."""
    return tuple(payment(each) for each in body["payments"])


@_promised
def refund(body: Json) -> RefundResult:
    """One refund."""
    return RefundResult(
        reference=_text(body["reference"]),
        payment_reference=_text(body["payment_reference"]),
        amount=Money(minor=body["amount_minor"], currency=body["currency"]),
        status=RefundStatus(body["status"]),
        key=_text(body["key"]),
        created_at=_instant(body["created_at"]),
    )


@_promised
def shipment(body: Json) -> Shipment:
    """One shipment."""
    return Shipment(
        reference=_text(body["reference"]),
        order_reference=_text(body["order_reference"]),
        tracking_number=_text(body["tracking_number"]),
        key=_text(body["key"]),
        created_at=_instant(body["created_at"]),
    )


@_promised
def shipments(body: Json) -> tuple[Shipment, ...]:
    """What a lookup found."""
    return tuple(shipment(each) for each in body["shipments"])


@_promised
def report_page(body: Json) -> tuple[Iterable[ReportLine], int | None]:
    """One page of the report and where the next one starts."""
    return [_report_line(each) for each in body["lines"]], body["next"]


def _report_line(body: Json) -> ReportLine:
    return ReportLine(
        kind=MovementKind(body["operation"]),
        reference=_text(body["reference"]),
        payment_reference=_text(body["payment_reference"]),
        order_reference=_text(body["order_reference"]),
        amount=Money(minor=body["amount_minor"], currency=body["currency"]),
        key=_text(body["key"]),
        at=_instant(body["at"]),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("text expected")
    return value


def _instant(value: str) -> datetime:
    instant = datetime.fromisoformat(value)
    if instant.tzinfo is None:
        raise ValueError("an instant needs its zone")
    return instant
