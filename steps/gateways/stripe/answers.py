"""Reads Stripe's objects, as plain JSON, into the types of the protocol.

Every function raises `UnreadableAnswerError` where the JSON is not what Stripe promises, and where
a payment is ``processing``: then nobody can say yet whether money is held.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

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
from steps.gateways.stripe.amounts import from_stripe_units
from steps.money import Money

ORDER: Final = "order_reference"
AUTHORIZE_KEY: Final = "authorize_key"
REFUND_KEY: Final = "refund_key"
METHOD: Final = "method"
"""Names of the metadata that we pin to payment intents and refunds, to know them again by."""

WHOLE: Final = ["latest_charge.refunds"]
"""What has to be expanded so that a payment intent can be read."""

LAPSED: Final = frozenset({"automatic", "expired"})
"""Reasons of a cancellation that nobody asked for: the hold had come of age."""

_STATUS: Final = {
    "requires_payment_method": ChargeStatus.DECLINED,
    "requires_confirmation": ChargeStatus.REQUIRES_ACTION,
    "requires_action": ChargeStatus.REQUIRES_ACTION,
    "requires_capture": ChargeStatus.AUTHORIZED,
    "succeeded": ChargeStatus.CAPTURED,
    "canceled": ChargeStatus.VOIDED,
}

_CHECK: Final = {"pass": CheckResult.MATCH, "fail": CheckResult.MISMATCH}
"""The issuer's other words, ``unavailable`` and ``unchecked``, say that it did not look."""

REFUND_STATUS: Final = {
    "pending": RefundStatus.PENDING,
    "requires_action": RefundStatus.PENDING,
    "succeeded": RefundStatus.SUCCEEDED,
    "failed": RefundStatus.FAILED,
    "canceled": RefundStatus.FAILED,
}


@promised
def payment(intent: Json) -> ChargeResult:
    """A payment intent that was retrieved with `WHOLE`."""
    currency = text(intent["currency"])
    captured = from_stripe_units(intent["amount_received"], currency)
    refunds = tuple(refund(each) for each in reversed(_refunds_of(intent)))  # newest came first
    standing = [each.amount for each in refunds if each.status is not RefundStatus.FAILED]
    refunded = Money.total(standing, captured.currency)
    return ChargeResult(
        reference=text(intent["id"]),
        order_reference=_pinned(intent, ORDER),
        amount=from_stripe_units(intent["amount"], currency),
        captured=captured,
        refunded=refunded,
        status=_status(intent, is_refunded=captured.is_positive and captured == refunded),
        key=_pinned(intent, AUTHORIZE_KEY),
        created_at=_instant(intent),
        refunds=refunds,
        challenge_url=_challenge_url(intent),
        method=_pinned(intent, METHOD),
        card_checks=card_checks(intent),
    )


@promised
def payments(found: Json) -> tuple[ChargeResult, ...]:
    """What a search found, oldest first.

    One page holds it all: more than a hundred payments for one key or order are no answer.
    """
    if found["has_more"]:
        raise ValueError("more payments than anybody can have meant")
    oldest_first = [payment(each) for each in reversed(found["data"])]
    return tuple(sorted(oldest_first, key=lambda each: each.created_at))


@promised
def refund(body: Json) -> RefundResult:
    """A refund."""
    return RefundResult(
        reference=text(body["id"]),
        payment_reference=text(body["payment_intent"]),
        amount=from_stripe_units(body["amount"], text(body["currency"])),
        status=REFUND_STATUS[body["status"]],
        key=_pinned(body, REFUND_KEY),
        created_at=_instant(body),
    )


EVENTS: Final = {
    "payment_intent.amount_capturable_updated": (MovementKind.AUTHORIZE, "amount_capturable"),
    "payment_intent.succeeded": (MovementKind.CAPTURE, "amount_received"),
    "payment_intent.canceled": (MovementKind.VOID, "amount"),
    "refund.created": (MovementKind.REFUND, "amount"),
    "refund.failed": (MovementKind.REFUND_FAILED, "amount"),
}
"""The events that tell of moved money, and where in their object the amount is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportPage:
    """Lines, newest first, and the event after which the next page begins; None ends it."""

    lines: Sequence[ReportLine | UnreadableLine]
    last_id: str | None


@promised
def report_page(body: Json) -> ReportPage:
    """A page of events."""
    events, has_more = body["data"], body["has_more"]
    if not isinstance(has_more, bool):
        raise TypeError("whether there is more expected")
    lines = [each for each in each_line(events, _report_line, shown=_told_by) if each is not None]
    return ReportPage(lines=lines, last_id=text(events[-1]["id"]) if has_more else None)


def _report_line(event: Json) -> ReportLine | None:
    """The movement that an event of `EVENTS` tells of, or None where no money moved."""
    kind, amount = EVENTS[event["type"]]
    moved = event["data"]["object"]
    if kind is MovementKind.VOID and not _was_held(moved):
        return None
    money = from_stripe_units(moved[amount], text(moved["currency"]))
    if not money.is_positive:
        return None
    return ReportLine(
        kind=kind,
        reference=text(moved["id"]),
        payment_reference=text(moved.get("payment_intent") or moved["id"]),
        order_reference=_pinned(moved, ORDER),
        amount=money,
        key=_key_of(event, kind),
        at=_instant(event),
    )


_TOLD: Final = frozenset({"id", "object", "payment_intent", "currency", "created", "type"})


def _told_by(event: Any) -> object:
    """What a person needs of an event to find it; its object also tells of the payer."""
    match event:
        case {"data": {"object": {**moved}}}:
            amounts = {amount for _, amount in EVENTS.values()}
            told = {name: each for name, each in moved.items() if name in _TOLD | amounts}
            return {name: each for name, each in event.items() if name in _TOLD} | {"data": told}
        case {**fields}:
            return {name: each for name, each in fields.items() if name in _TOLD}
        case _:
            return event


def _refunds_of(intent: Json) -> list[Json]:
    charge = intent["latest_charge"]
    if charge is None:
        return []
    if charge["refunds"]["has_more"]:
        raise ValueError("only a part of the refunds")
    refunds: list[Json] = charge["refunds"]["data"]
    return refunds


def _status(intent: Json, *, is_refunded: bool) -> ChargeStatus:
    status = _STATUS[intent["status"]]
    if is_refunded:
        return ChargeStatus.REFUNDED
    if status is ChargeStatus.VOIDED and intent.get("cancellation_reason") in LAPSED:
        return ChargeStatus.EXPIRED
    return status


def _challenge_url(intent: Json) -> str | None:
    """Where the payer goes, if Stripe hosts that page; None leaves it to Stripe's SDK."""
    action = intent.get("next_action") or {}
    url = (action.get("redirect_to_url") or {}).get("url")
    return None if url is None else text(url)


def card_checks(intent: Json) -> CardChecks:
    """From the charge of the authorization; of another payment method than a card nothing."""
    details = (intent["latest_charge"] or {}).get("payment_method_details") or {}
    card = details.get("card") or {}
    checks = card.get("checks") or {}
    line1, postal_code, cvc = (
        _check(checks.get(name))
        for name in ("address_line1_check", "address_postal_code_check", "cvc_check")
    )
    return CardChecks(
        avs=_together(line1, postal_code), cvv=cvc, authenticated=_is_authenticated(card)
    )


def _is_authenticated(card: Json) -> bool | None:
    """Acknowledged, exempted and whatever else is not the payer's own word; null was not tried."""
    if "three_d_secure" not in card:
        return None
    return (card["three_d_secure"] or {}).get("result") == "authenticated"


def _check(word: str | None) -> CheckResult | None:
    return None if word is None else _CHECK.get(word, CheckResult.NOT_CHECKED)


def _together(line1: CheckResult | None, postal_code: CheckResult | None) -> CheckResult | None:
    """Two halves of one address: one that is right beside one that is wrong is a part of it."""
    told = {line1, postal_code} - {None}
    if told >= {CheckResult.MATCH, CheckResult.MISMATCH}:
        return CheckResult.PARTIAL
    by_weight = (CheckResult.MISMATCH, CheckResult.MATCH, CheckResult.NOT_CHECKED)
    return next((each for each in by_weight if each in told), None)


def _was_held(intent: Json) -> bool:
    """Whether a cancelled intent held money until somebody cancelled it."""
    was_authorized = intent["latest_charge"] is not None and not intent.get("last_payment_error")
    return was_authorized and intent.get("cancellation_reason") not in LAPSED


def _key_of(event: Json, kind: MovementKind) -> str:
    """The key that was sent with it; for a hold that a payer's challenge ended in, its first."""
    sent = (event.get("request") or {}).get("idempotency_key")
    if sent is None and kind is MovementKind.AUTHORIZE:
        return _pinned(event["data"]["object"], AUTHORIZE_KEY)
    return text(sent or "")


def _pinned(body: Json, name: str) -> str:
    return text((body.get("metadata") or {}).get(name, ""))


def _instant(body: Json) -> datetime:
    seconds: Any = body["created"]
    return datetime.fromtimestamp(seconds, tz=UTC)
