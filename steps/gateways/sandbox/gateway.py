"""The sandbox gateway without HTTP: one transaction per request, first answers kept by key."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from steps.gateways.payment import ChargeStatus, RefundStatus
from steps.gateways.sandbox import wire
from steps.gateways.sandbox.faults import FaultKind, Plan
from steps.gateways.sandbox.journal import Journal
from steps.gateways.sandbox.ledger import Answer, KeptAnswer, Ledger, Received
from steps.gateways.sandbox.rules import (
    KEY_LIFETIME_SECONDS,
    Command,
    Operation,
    Payment,
    Verdict,
    decide,
    fold,
)

_PREFIX: Final = {
    Operation.AUTHORIZE: "pay",
    Operation.REFUND: "ref",
    Operation.SHIP: "shp",
}
_STORED_500: Final = Verdict(
    status=500, answer="internal_error", message="the gateway failed while working on this"
)


class Clock:
    """The gateway's idea of now; a test may advance it to let keys and holds run out."""

    def __init__(self) -> None:
        self._ahead_seconds = 0.0

    def now(self) -> float:
        return time.time() + self._ahead_seconds

    def advance(self, seconds: float) -> None:
        self._ahead_seconds += seconds


class Gateway:
    """Payments, refunds and shipments over one ledger. All calls come from one thread.

    What must hear about movements later (webhooks) reads the ledger after its own last `seq`, so
    that nothing is announced that is not durable.
    """

    def __init__(self, ledger: Ledger, journal: Journal, clock: Clock, *, base_url: str) -> None:
        self._ledger = ledger
        self._journal = journal
        self._clock = clock
        self._base_url = base_url

    def execute(self, command: Command, received: Received, plan: Plan) -> Answer:
        """Do what is asked, or replay the key's first answer, in one transaction."""
        now = self._clock.now()
        fingerprint = wire.fingerprint_of(command)
        with self._journal.transaction():
            if FaultKind.FORGET_KEY in plan:
                self._ledger.forget(command.key)
            kept = self._kept(command.key, now)
            if kept is None:
                answer = self._first_answer(command, plan, now)
                self._ledger.keep(command.key, fingerprint, answer, at=now)
            elif kept.fingerprint == fingerprint:
                answer = kept.answer
            else:
                answer = wire.error(409, "key_conflict", "this key was used with other parameters")
            received.replayed = answer.replayed
        return answer

    def order_of(self, payment_reference: str) -> str | None:
        """Our order behind a payment, so that a fault scripted for the order finds it."""
        payment = self.payment(payment_reference)
        return payment.order_reference if payment else None

    def payment(self, reference: str) -> Payment | None:
        return fold(self._ledger.movements_of(reference), now=self._clock.now())

    def payments(
        self, *, reference: str | None, key: str | None, order_reference: str | None
    ) -> list[dict[str, Any]]:
        """Payments by one of their names, oldest first."""
        if reference is not None:
            references: Iterable[str | None] = (reference,)
        else:
            movements = self._ledger.movements_under(key=key, order_reference=order_reference)
            references = dict.fromkeys(m.payment_reference for m in movements)
        found = (self.payment(name) for name in references if name)
        return [self._rendered(payment) for payment in found if payment]

    def shipments(
        self, *, reference: str | None, key: str | None, order_reference: str | None
    ) -> list[dict[str, Any]]:
        """Shipments by one of their names, oldest first."""
        if reference is not None:
            movements = self._ledger.movements_with(reference)
        else:
            movements = self._ledger.movements_under(key=key, order_reference=order_reference)
        return [
            wire.shipment_json(movement)
            for movement in movements
            if movement.operation is Operation.SHIP and movement.effective
        ]

    def report(self, day: date, *, after: int, limit: int) -> list[dict[str, Any]]:
        """The money that moved on a UTC day, by pages in order of `seq`."""
        midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
        lines = self._ledger.effects_between(
            midnight.timestamp(),
            (midnight + timedelta(days=1)).timestamp(),
            after=after,
            limit=limit,
        )
        return [wire.movement_json(line) for line in lines]

    def end_challenge(self, reference: str, *, passed: bool) -> Answer:
        """The payer passes or fails the 3-D Secure challenge; only an open one can end."""
        now = self._clock.now()
        with self._ledger.transaction():
            payment = fold(self._ledger.movements_of(reference), now=now)
            if payment is None:
                return wire.error(404, "payment_not_found", "no such payment")
            if payment.status is not ChargeStatus.REQUIRES_ACTION:
                verdict = Verdict(
                    status=409, answer="no_open_challenge", message=f"payment is {payment.status}"
                )
                return wire.refusal(verdict, self._rendered(payment))
            self._ledger.append(
                _authorization_of(payment),
                at=now,
                reference=reference,
                payment_reference=reference,
                order_reference=payment.order_reference,
                effective=passed,
                answer="authorized" if passed else "challenge_failed",
            )
            return Answer(status=200, body=self._rendered_anew(reference))

    def end_refund(self, reference: str, *, failed: bool) -> Answer:
        """A pending refund reaches the payer's bank, or bounces days later."""
        now = self._clock.now()
        with self._ledger.transaction():
            opened = self._ledger.movements_with(reference)
            if not opened or opened[0].operation is not Operation.REFUND:
                return wire.error(404, "refund_not_found", "no such refund")
            payment_reference = opened[0].payment_reference or ""
            payment = fold(self._ledger.movements_of(payment_reference), now=now)
            if payment is None or not any(
                refund.reference == reference and refund.status is RefundStatus.PENDING
                for refund in payment.refunds
            ):
                return wire.error(409, "refund_not_pending", "the refund has ended before")
            operation = Operation.REFUND_FAILED if failed else Operation.REFUND_SETTLED
            self._ledger.append(
                Command(
                    operation=operation,
                    key="",  # nobody asked for it
                    amount_minor=opened[0].amount_minor,
                    currency=opened[0].currency,
                ),
                at=now,
                reference=reference,
                payment_reference=payment_reference,
                order_reference=payment.order_reference,
                effective=failed,  # settling moves nothing: it was counted when accepted
                answer=operation.value,
            )
            return Answer(status=200, body=self._rendered_anew(payment_reference))

    def _kept(self, key: str, now: float) -> KeptAnswer | None:
        kept = self._ledger.kept(key)
        if kept is not None and now >= kept.kept_at + KEY_LIFETIME_SECONDS:
            return None
        return kept

    def _first_answer(self, command: Command, plan: Plan, now: float) -> Answer:
        stored_500 = plan.get(FaultKind.STORED_500)
        payment = self.payment(command.payment_reference) if command.payment_reference else None
        if stored_500 is not None and not stored_500.lands:
            return self._record(command, payment, _STORED_500, now)
        verdict = decide(command, payment, forced=plan.forced_answer(command.operation))
        answer = self._record(command, payment, verdict, now)
        return wire.refusal(_STORED_500) if stored_500 is not None else answer

    def _record(
        self, command: Command, payment: Payment | None, verdict: Verdict, now: float
    ) -> Answer:
        if command.operation is Operation.VOID and payment is not None:
            command = replace(command, amount_minor=payment.amount_minor, currency=payment.currency)
        reference = self._reference_for(command, verdict)
        payment_reference = (
            reference if command.operation is Operation.AUTHORIZE else command.payment_reference
        )
        movement = self._ledger.append(
            command,
            at=now,
            reference=reference or payment_reference,
            payment_reference=payment_reference,
            order_reference=payment.order_reference if payment else command.order_reference,
            effective=verdict.effective,
            answer=verdict.answer,
        )
        existing = self._rendered_anew(payment_reference) if payment_reference else {}
        match verdict.status, command.operation:
            case ((200 | 201 | 202), Operation.SHIP):
                return Answer(status=verdict.status, body=wire.shipment_json(movement))
            case ((200 | 201 | 202), Operation.REFUND):
                return Answer(status=verdict.status, body=existing["refunds"][-1])
            case ((200 | 201 | 202), _):
                return Answer(status=verdict.status, body=existing)
            case _:
                return wire.refusal(verdict, existing or None)

    def _reference_for(self, command: Command, verdict: Verdict) -> str | None:
        """A new object's reference. A declined payment is an object too; an invalid one is not."""
        opens = verdict.status in {200, 201, 202, 402}
        if opens and command.operation in _PREFIX:
            return self._ledger.next_reference(_PREFIX[command.operation])
        return None

    def _rendered(self, payment: Payment) -> dict[str, Any]:
        return wire.payment_json(payment, base_url=self._base_url)

    def _rendered_anew(self, reference: str) -> dict[str, Any]:
        payment = self.payment(reference)
        return self._rendered(payment) if payment else {}


def _authorization_of(payment: Payment) -> Command:
    return Command(
        operation=Operation.AUTHORIZE,
        key=payment.key,
        amount_minor=payment.amount_minor,
        currency=payment.currency,
    )
