"""The sandbox gateway without HTTP: one transaction per request, first answers kept by key."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Final

from steps.gateways.payment import ChargeStatus, RefundStatus
from steps.gateways.sandbox import wire
from steps.gateways.sandbox.faults import FaultKind, Plan
from steps.gateways.sandbox.form import INTERNAL_ERROR, KEY_CONFLICT, Form
from steps.gateways.sandbox.journal import Journal
from steps.gateways.sandbox.ledger import Ledger
from steps.gateways.sandbox.movements import Command, Movement, Operation, Payment, fold
from steps.gateways.sandbox.notes import AUTHENTICATED_NOTE, Notes, notes_of
from steps.gateways.sandbox.records import Answer, KeptAnswer, Received
from steps.gateways.sandbox.rules import (
    CHALLENGE_ENDS,
    KEY_LIFETIME_SECONDS,
    Verdict,
    card_checks,
    decide,
)

_DONE: Final = frozenset({200, 201, 202})
_LEAVES_AN_OBJECT: Final = _DONE | {402}  # a declined payment is one, an invalid one is not


class Clock:
    """The gateway's idea of now; a test may advance it to let keys and holds run out."""

    def __init__(self) -> None:
        self._ahead_seconds = 0.0

    def now(self) -> float:
        return time.time() + self._ahead_seconds

    def advance(self, seconds: float) -> None:
        self._ahead_seconds += seconds


class NotPossibleError(Exception):
    """What was asked of the back stage cannot be; `verdict` says why."""

    def __init__(self, status: int, answer: str, message: str) -> None:
        super().__init__(message)
        self.verdict = Verdict(status=status, answer=answer, message=message)


class Gateway:
    """Payments, refunds and shipments over one ledger. All calls come from one thread.

    What must hear about movements later (webhooks) reads the ledger after its own last `seq`, so
    that nothing is announced that is not durable.
    """

    def __init__(self, ledger: Ledger, journal: Journal, notes: Notes, clock: Clock) -> None:
        self._ledger = ledger
        self._journal = journal
        self._notes = notes
        self._clock = clock

    def execute(self, command: Command, received: Received, plan: Plan, form: Form) -> Answer:
        """Do what is asked, or replay the key's first answer, in one transaction."""
        now = self._clock.now()
        fingerprint = wire.fingerprint_of(command)
        with self._journal.transaction():
            if FaultKind.FORGET_KEY in plan:
                self._ledger.forget(command.key)
            kept = self._kept(command.key, now)
            if kept is None:
                answer = self._first_answer(command, plan, form, now)
                self._ledger.keep(command.key, fingerprint, answer, at=now)
            elif kept.fingerprint == fingerprint:
                answer = kept.answer
            else:
                answer = form.refusal(KEY_CONFLICT)
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
    ) -> list[Payment]:
        """Payments by one of their names, oldest first."""
        if reference is not None:
            return self.payments_of([reference])
        movements = self._ledger.movements_under(key=key, order_reference=order_reference)
        return self.payments_of(m.payment_reference for m in movements)

    def payments_of(self, references: Iterable[str | None]) -> list[Payment]:
        """The payments of these references, each once, in the order of their first mention."""
        found = (self.payment(name) for name in dict.fromkeys(references) if name)
        return [payment for payment in found if payment]

    def shipments(
        self, *, reference: str | None, key: str | None, order_reference: str | None
    ) -> list[Movement]:
        """The movements of shipments by one of their names, oldest first."""
        if reference is not None:
            movements = self._ledger.movements_with(reference)
        else:
            movements = self._ledger.movements_under(key=key, order_reference=order_reference)
        return [each for each in movements if each.operation is Operation.SHIP and each.effective]

    def report(self, day: date, *, after: int, limit: int) -> list[Movement]:
        """The money that moved on a UTC day, by pages in order of `seq`."""
        end = day_start(day + timedelta(days=1))
        return self._ledger.effects_between(day_start(day), end, after=after, limit=limit)

    def is_over(self, day: date) -> bool:
        """Whether nothing can move on that UTC day any more."""
        return self._clock.now() >= day_start(day + timedelta(days=1))

    def end_challenge(self, reference: str, end: str) -> Payment:
        """The payer passes, fails or lets lapse the 3-D Secure challenge; only an open one can end.

        `end` is a key of `CHALLENGE_ENDS`.

        Raises:
            NotPossibleError: no such payment, or no open challenge.
        """
        now = self._clock.now()
        with self._ledger.transaction():
            payment = self._must_exist(reference)
            if payment.status is not ChargeStatus.REQUIRES_ACTION or not payment.is_confirmed:
                raise NotPossibleError(409, "no_open_challenge", f"payment is {payment.status}")
            answer = CHALLENGE_ENDS[end]
            self._ledger.append(
                _authorization_of(payment),
                at=now,
                reference=reference,
                payment_reference=reference,
                order_reference=payment.order_reference,
                effective=answer == "authorized",
                answer=answer,
            )
            if answer == "authorized":
                self._notes.pin(reference, AUTHENTICATED_NOTE)
            return self._must_exist(reference)

    def end_refund(self, reference: str, *, failed: bool) -> Payment:
        """A pending refund reaches the payer's bank, or bounces days later.

        Raises:
            NotPossibleError: no such refund, or it has ended.
        """
        with self._ledger.transaction():
            opened = self._ledger.movements_with(reference)
            if not opened or opened[0].operation is not Operation.REFUND:
                raise NotPossibleError(404, "refund_not_found", "no such refund")
            payment = self._must_exist(opened[0].payment_reference or "")
            if not any(
                refund.reference == reference and refund.status is RefundStatus.PENDING
                for refund in payment.refunds
            ):
                raise NotPossibleError(409, "refund_not_pending", "the refund has ended before")
            operation = Operation.REFUND_FAILED if failed else Operation.REFUND_SETTLED
            self._ledger.append(
                Command(
                    operation=operation,
                    key="",  # nobody asked for it
                    amount_minor=opened[0].amount_minor,
                    currency=opened[0].currency,
                ),
                at=self._clock.now(),
                reference=reference,
                payment_reference=payment.reference,
                order_reference=payment.order_reference,
                effective=failed,  # settling moves nothing: it was counted when accepted
                answer=operation.value,
            )
            return self._must_exist(payment.reference)

    def _must_exist(self, reference: str) -> Payment:
        payment = self.payment(reference)
        if payment is None:
            raise NotPossibleError(404, "payment_not_found", "no such payment")
        return payment

    def _kept(self, key: str, now: float) -> KeptAnswer | None:
        kept = self._ledger.kept(key)
        if kept is not None and now >= kept.kept_at + KEY_LIFETIME_SECONDS:
            return None
        return kept

    def _first_answer(self, command: Command, plan: Plan, form: Form, now: float) -> Answer:
        stored_500 = plan.get(FaultKind.STORED_500)
        payment = self.payment(command.payment_reference) if command.payment_reference else None
        if stored_500 is not None and not stored_500.lands:
            verdict = INTERNAL_ERROR
        else:
            verdict = decide(command, payment, forced=plan.forced_answer(command.operation))
        answer = self._record(command, payment, verdict, form, now)
        return form.refusal(INTERNAL_ERROR) if stored_500 is not None else answer

    def _record(
        self, command: Command, payment: Payment | None, verdict: Verdict, form: Form, now: float
    ) -> Answer:
        if command.operation is Operation.VOID and payment is not None:
            command = replace(command, amount_minor=payment.amount_minor, currency=payment.currency)
        reference = self._reference_for(command, verdict, form)
        payment_reference = command.payment_reference
        if command.operation is Operation.AUTHORIZE:
            payment_reference = payment_reference or reference
        movement = self._ledger.append(
            command,
            at=now,
            reference=reference or payment_reference,
            payment_reference=payment_reference,
            order_reference=payment.order_reference if payment else command.order_reference,
            effective=verdict.effective,
            answer=verdict.answer,
        )
        if movement.reference and verdict.status in _LEAVES_AN_OBJECT:
            self._notes.pin(movement.reference, command.notes)
            if command.operation is Operation.AUTHORIZE and command.token:
                self._notes.pin(movement.reference, notes_of(card_checks(command.token)))
        existing = self.payment(payment_reference) if payment_reference else None
        if verdict.status in _DONE:
            return form.success(command, verdict, existing, movement)
        return form.refusal(verdict, existing)

    def _reference_for(self, command: Command, verdict: Verdict, form: Form) -> str | None:
        """A new object's reference; whoever confirms a payment or works on one opens none."""
        confirms = command.operation is Operation.AUTHORIZE and command.payment_reference
        prefix = None if confirms else form.prefixes.get(command.operation)
        if prefix is None or verdict.status not in _LEAVES_AN_OBJECT:
            return None
        return self._ledger.next_reference(prefix)


def day_start(day: date) -> float:
    """When a UTC day begins, in seconds since the epoch."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


def _authorization_of(payment: Payment) -> Command:
    return Command(
        operation=Operation.AUTHORIZE,
        key=payment.key,
        amount_minor=payment.amount_minor,
        currency=payment.currency,
    )
