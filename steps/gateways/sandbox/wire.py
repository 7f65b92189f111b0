"""The sandbox gateway's own wire form: what its requests hold and how its answers look."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import JSONResponse

from steps.gateways.payment import CardChecks, ChargeStatus
from steps.gateways.sandbox.movements import Command, Movement, Operation, Payment, Refund
from steps.gateways.sandbox.notes import Notes, checks_in
from steps.gateways.sandbox.records import Answer, Received
from steps.gateways.sandbox.rules import Verdict
from steps.money import LARGEST_MINOR

KEY_HEADER: Final = "idempotency-key"
REPLAYED_HEADER: Final = "idempotent-replayed"
LARGEST_PAGE: Final = 10_000

_AmountMinor = Annotated[int, Field(ge=-LARGEST_MINOR, le=LARGEST_MINOR)]
_Reference = Annotated[str, Field(min_length=1, max_length=255)]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)


class AuthorizeBody(_Body):
    """POST /payments"""

    amount_minor: _AmountMinor
    currency: Annotated[str, Field(max_length=10)]
    token: Annotated[str, Field(max_length=255)]
    order_reference: _Reference
    challenge: bool = False
    method: Annotated[str, Field(max_length=64)] = ""


class AmountBody(_Body):
    """POST /payments/{reference}/capture and /refunds"""

    amount_minor: _AmountMinor
    currency: Annotated[str, Field(max_length=10)]


class NoBody(_Body):
    """POST /payments/{reference}/void"""


class ShipBody(_Body):
    """POST /shipments"""

    order_reference: _Reference
    destination: Annotated[str, Field(max_length=2000)] = ""


def fingerprint_of(command: Command) -> str:
    """Hash of everything a replay must repeat: the operation and all its parameters."""
    parameters: list[object] = [
        command.operation.value,
        command.order_reference,
        command.payment_reference,
        command.amount_minor,
        command.currency,
        command.token,
        command.destination,
    ]
    if command.notes or not command.confirms:  # what the gateway's own form never has
        parameters += [command.confirms, sorted(command.notes.items())]
    if command.challenge:
        parameters.append("challenge")
    return hashlib.sha256(json.dumps(parameters).encode()).hexdigest()


class OwnForm:
    """The gateway's own words. `base_url` is where payers find their challenges."""

    prefixes: Final = MappingProxyType(
        {Operation.AUTHORIZE: "pay", Operation.REFUND: "ref", Operation.SHIP: "shp"}
    )

    def __init__(self, base_url: str, notes: Notes) -> None:
        self._base_url = base_url
        self._notes = notes

    def success(
        self, command: Command, verdict: Verdict, payment: Payment | None, movement: Movement
    ) -> Answer:
        """The object that was opened or changed: the shipment, the refund or the payment."""
        if payment is None:
            return Answer(status=verdict.status, body=shipment_json(movement))
        if command.operation is Operation.REFUND:
            body = refund_json(payment.refunds[-1], payment)
            return Answer(status=verdict.status, body=body)
        return Answer(status=verdict.status, body=self.payment(payment))

    def refusal(
        self, verdict: Verdict, payment: Payment | None = None, *, vouches: bool = False
    ) -> Answer:
        """A no with its reason, and the payment as it stands where there is one."""
        extra: dict[str, Any] = {"payment": self.payment(payment)} if payment else {}
        if vouches:
            extra["no_effect"] = True
        return error(verdict.status, verdict.answer, verdict.message, **extra)

    def payment(self, payment: Payment) -> dict[str, Any]:
        """A payment as every answer about it shows it."""
        notes = self._notes.of(payment.reference)
        rendered = _payment_json(payment, checks_in(notes), base_url=self._base_url)
        return rendered | ({"method": notes["method"]} if "method" in notes else {})


def _payment_json(payment: Payment, checks: CardChecks, *, base_url: str) -> dict[str, Any]:
    rendered: dict[str, Any] = {
        "reference": payment.reference,
        "order_reference": payment.order_reference,
        "amount_minor": payment.amount_minor,
        "currency": payment.currency,
        "captured_minor": payment.captured_minor,
        "refunded_minor": payment.refunded_minor,
        "status": payment.status.value,
        "key": payment.key,
        "created_at": instant(payment.created_at),
        "refunds": [refund_json(refund, payment) for refund in payment.refunds],
    }
    if payment.status is ChargeStatus.REQUIRES_ACTION and payment.is_confirmed:
        rendered["challenge_url"] = f"{base_url}/sandbox/challenges/{payment.reference}"
    if payment.authorized_at is not None:
        rendered["card_checks"] = asdict(checks)
    return rendered


def refund_json(refund: Refund, payment: Payment) -> dict[str, Any]:
    """A refund, alone or within its payment."""
    return {
        "reference": refund.reference,
        "payment_reference": payment.reference,
        "amount_minor": refund.amount_minor,
        "currency": payment.currency,
        "status": refund.status.value,
        "key": refund.key,
        "created_at": instant(refund.created_at),
    }


def shipment_json(movement: Movement) -> dict[str, Any]:
    """A shipment, from the movement that opened it."""
    return {
        "reference": movement.reference,
        "order_reference": movement.order_reference,
        "tracking_number": f"trk-{movement.reference}",
        "key": movement.key,
        "created_at": instant(movement.at),
    }


def movement_json(movement: Movement) -> dict[str, Any]:
    """A row of the ledger, as the judge and the daily report see it."""
    return {
        "seq": movement.seq,
        "at": instant(movement.at),
        "operation": movement.operation.value,
        "key": movement.key,
        "reference": movement.reference,
        "payment_reference": movement.payment_reference,
        "order_reference": movement.order_reference,
        "amount_minor": movement.amount_minor,
        "currency": movement.currency,
        "effective": movement.effective,
        "answer": movement.answer,
    }


def request_json(received: Received, *, is_open: bool) -> dict[str, Any]:
    """A received request, as the judge sees it."""
    answered_at = received.answered_at
    return {
        "id": received.id,
        "received_at": instant(received.received_at),
        "answered_at": None if answered_at is None else instant(answered_at),
        "is_open": is_open,
        "operation": received.operation.value,
        "key": received.key,
        "fingerprint": received.fingerprint,
        "order_reference": received.order_reference,
        "reference": received.reference,
        "attempt": received.attempt,
        "status": received.status,
        "replayed": received.replayed,
        "faults": list(received.faults),
    }


def page_json(name: str, rows: Sequence[dict[str, Any]], limit: int, *, key: str) -> dict[str, Any]:
    """One page; `next` is what to pass as `after` for the following one, null on the last."""
    return {name: rows, "next": rows[-1][key] if len(rows) == limit else None}


def page_of(query: Mapping[str, str]) -> tuple[int, int]:
    """The `after` and `limit` of a request for a page; nonsense reads as the default."""
    after, limit = query.get("after", ""), query.get("limit", "")
    wanted = int(limit) if limit.isdecimal() else 1000
    return int(after) if after.isdecimal() else 0, max(1, min(wanted, LARGEST_PAGE))


def error(status: int, code: str, message: str, **extra: Any) -> Answer:
    """An answer that is not a success. `no_effect=True` vouches that nothing happened."""
    return Answer(status=status, body={"error": {"code": code, "message": message, **extra}})


def instant(seconds: float) -> str:
    """Seconds since the epoch as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, tz=UTC).isoformat(timespec="microseconds")


def response(answer: Answer) -> JSONResponse:
    """The answer with its headers."""
    headers = {}
    if answer.replayed:
        headers[REPLAYED_HEADER] = "true"
    if answer.retry_after_seconds is not None:
        headers["retry-after"] = str(answer.retry_after_seconds)
    return JSONResponse(answer.body, status_code=answer.status, headers=headers)


def reasons(wrong: ValidationError) -> str:
    """What is wrong with a body, without repeating any of it."""
    return "; ".join(
        f"{'.'.join(map(str, each['loc']))}: {each['msg']}"
        for each in wrong.errors(include_input=False, include_url=False)
    )
