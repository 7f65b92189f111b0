"""Faults on demand: a script of rules that says what goes wrong with which request.

Rules match on what a request is about, most usefully our order reference, and on which try it is.
Each rule brings one fault; several rules may hit one request (slow *and* declined). Where a rule
has a `rate`, a hash of its seed, the key and the attempt decides, so that a run with the same
seed goes wrong in the same places. The script lives in memory: a restarted gateway is healthy.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from steps.gateways.sandbox.movements import Operation


class FaultKind(StrEnum):
    """What can go wrong, in the order in which a request meets it; then with its webhook."""

    RATE_LIMITED = "rate_limited"  # 429 with Retry-After; no effect
    HOLD_BEFORE = "hold_before"  # stays open until released, effect not yet done
    SLOW_BEFORE = "slow_before"  # waits `delay_ms`, then works on it
    ERROR_BEFORE = "error_before"  # 503, no effect; says so only with `vouches`
    DROP_BEFORE = "drop_before"  # connection closed, no effect
    FORGET_KEY = "forget_key"  # the key is unknown, as if its lifetime were over
    DECLINE = "decline"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    CHALLENGE = "challenge"
    REFUSE = "refuse"  # the carrier will not take the parcel
    REFUND_PENDING = "refund_pending"  # accepted, to be settled or failed later
    STORED_500 = "stored_500"  # kept for the key and replayed; effect only with `lands`
    NOT_FOUND = "not_found"  # a lookup that does not see it yet
    SLOW_AFTER = "slow_after"  # the answer waits `delay_ms`
    HOLD_AFTER = "hold_after"  # the answer waits until released
    ERROR_AFTER = "error_after"  # 500 in place of the answer; the key keeps the true one
    DROP_AFTER = "drop_after"  # connection closed in place of the answer

    LOST_WEBHOOK = "lost_webhook"  # never sent
    LATE_WEBHOOK = "late_webhook"  # sent after `delay_ms`, so that others overtake it
    DUPLICATE_WEBHOOK = "duplicate_webhook"  # delivered once more
    FORGED_WEBHOOK = "forged_webhook"  # somebody sends it too, and has not the secret
    STALE_WEBHOOK = "stale_webhook"  # somebody sends it again who kept it for an hour


WEBHOOK_FAULTS: Final = frozenset(kind for kind in FaultKind if kind.name.endswith("_WEBHOOK"))
"""They strike announcements; the others strike requests."""

FORCED_ANSWER: Final = {
    FaultKind.DECLINE: "card_declined",
    FaultKind.INSUFFICIENT_FUNDS: "insufficient_funds",
    FaultKind.CHALLENGE: "requires_action",
    FaultKind.REFUND_PENDING: "refund_pending",
    FaultKind.REFUSE: "refused",
}
"""The answer that a fault of the business forces on the rules, where it fits the operation."""

_FORCES: Final = {
    Operation.AUTHORIZE: {FaultKind.DECLINE, FaultKind.INSUFFICIENT_FUNDS, FaultKind.CHALLENGE},
    Operation.REFUND: {FaultKind.REFUND_PENDING},
    Operation.SHIP: {FaultKind.REFUSE},
}


class Match(BaseModel):
    """Which requests a rule is for; a field left out matches all.

    `nth` counts the requests that match the other fields, from 1: earlier ones pass.
    `attempt` is which try of its key a request is, from 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    operation: Operation | None = None
    order_reference: str | None = None
    reference: str | None = None
    key: str | None = None
    attempt: Annotated[int, Field(ge=1)] | None = None
    nth: Annotated[int, Field(ge=1)] = 1


class FaultRule(BaseModel):
    """One scripted fault, as POST /sandbox/faults takes it. `times` null means for ever."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    match: Match = Match()
    fault: FaultKind
    times: Annotated[int, Field(ge=1)] | None = 1
    delay_ms: Annotated[int, Field(ge=0)] = 0
    retry_after_seconds: Annotated[int, Field(ge=0)] = 1
    rate: Annotated[float, Field(ge=0, le=1)] = 1.0
    seed: int = 0
    vouches: bool = False
    lands: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a rule can know of a request."""

    operation: Operation
    order_reference: str | None
    reference: str | None
    key: str | None
    attempt: int


class Plan(dict[FaultKind, FaultRule]):
    """The faults that one request meets."""

    def forced_answer(self, operation: Operation) -> str | None:
        for kind in self:
            if kind in _FORCES.get(operation, ()):
                return FORCED_ANSWER[kind]
        return None


class FaultScript:
    """The rules in force, with how often each was seen and applied."""

    def __init__(self) -> None:
        self._rules: dict[int, _Tally] = {}
        self._next_id = 1

    def add(self, rule: FaultRule) -> int:
        """Put `rule` in force and return its id."""
        rule_id, self._next_id = self._next_id, self._next_id + 1
        self._rules[rule_id] = _Tally(rule)
        return rule_id

    def clear(self) -> None:
        self._rules.clear()

    def plan(self, subject: Subject) -> Plan:
        """Take the faults for this request; what is used up is counted as applied."""
        plan = Plan()
        for tally in self._rules.values():
            if tally.rule.fault not in plan and tally.takes(subject):
                plan[tally.rule.fault] = tally.rule
        return plan

    def listing(self) -> list[dict[str, object]]:
        """Every rule with its counts, for the judge: a fault that never struck proves nothing."""
        return [
            {
                "id": rule_id,
                "rule": tally.rule.model_dump(mode="json"),
                "seen": tally.seen,
                "applied": tally.applied,
            }
            for rule_id, tally in self._rules.items()
        ]


@dataclass(slots=True)
class _Tally:
    rule: FaultRule
    seen: int = 0
    applied: int = 0

    def takes(self, subject: Subject) -> bool:
        is_told = subject.operation is Operation.NOTIFY
        if is_told is not (self.rule.fault in WEBHOOK_FAULTS):
            return False
        if not _matches(self.rule.match, subject):
            return False
        self.seen += 1
        is_due = self.seen >= self.rule.match.nth and (
            self.rule.times is None or self.applied < self.rule.times
        )
        if not (is_due and _strikes(self.rule, subject)):
            return False
        self.applied += 1
        return True


def _matches(match: Match, subject: Subject) -> bool:
    wanted = (
        (match.operation, subject.operation),
        (match.order_reference, subject.order_reference),
        (match.reference, subject.reference),
        (match.key, subject.key),
        (match.attempt, subject.attempt),
    )
    return all(want is None or want == got for want, got in wanted)


def _strikes(rule: FaultRule, subject: Subject) -> bool:
    if rule.rate >= 1.0:
        return True
    name = subject.key or subject.reference or subject.order_reference
    seeded = f"{rule.seed}:{rule.fault}:{subject.operation}:{name}:{subject.attempt}"
    draw = int.from_bytes(hashlib.sha256(seeded.encode()).digest()[:8], "big")
    return draw < rule.rate * 2**64
