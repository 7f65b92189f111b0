"""Invariants between the log and the outside: at most one effect per key, and money conserved.

The sandbox gateway's ledger says what really happened; the log says what the engine believes. Keys
tie the two together, since they are derived: from a saga and a step the judge computes the key the
step must have used, and every movement must carry one of these.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from orchestrator.entries import Direction, StepStarted, StepSucceeded
from orchestrator.keys import step_key, step_keys, undo_key
from orchestrator.state import FoldedSaga, State
from orchestrator.storage.histories import SagaHistory
from recovery.invariants.evidence import Evidence, Violation
from steps.gateways.sandbox.judge import LedgerRow

OPERATIONS: Mapping[tuple[str, str], str] = {
    ("authorize_payment", Direction.FORWARD): "authorize",
    ("authorize_payment", Direction.COMPENSATE): "void",
    ("capture_payment", Direction.FORWARD): "capture",
    ("capture_payment", Direction.COMPENSATE): "refund",
    ("create_shipment", Direction.FORWARD): "ship",
}
"""What each step of the checkout may do at the gateway, by step and direction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Origin:
    """Which saga, step and direction a key belongs to, and when that was first intended."""

    saga: SagaHistory
    step: str
    direction: str
    intended_at: datetime | None


STOCK_OF: Mapping[State, tuple[str, ...]] = {
    State.COMPLETED: ("shipped",),
    State.COMPENSATED: ("released", "none"),
}
"""Where the units of a saga that ended must be; a parked saga may hold them or not."""


def check_effects(evidence: Evidence) -> Iterator[Violation]:
    """Check the gateway's ledger against the logs of all checkout sagas."""
    origins = _origins(evidence)
    effective = [each for each in evidence.movements if each.effective and each.key]
    yield from _every_effect_is_ours(effective, origins)
    yield from _one_effect_per_key(effective)
    yield from _one_effect_per_step(effective)
    yield from _intent_before_effect(effective, origins)
    yield from _success_has_its_effect(evidence)


def check_money(evidence: Evidence) -> Iterator[Violation]:
    """Check, saga by saga, what was authorized, captured, refunded, voided and shipped."""
    origins = _origins(evidence)
    by_saga: dict[str, list[LedgerRow]] = defaultdict(list)
    orders = {state.payload["order_id"]: saga.key for saga, state in _checkouts(evidence)}
    for row in evidence.movements:
        if not row.effective:
            continue
        if row.key in origins:
            by_saga[origins[row.key].saga.key].append(row)
        elif not row.key and row.order_reference in orders:  # the gateway's own doing
            by_saga[orders[row.order_reference]].append(row)
    for saga, state in _checkouts(evidence):
        amount = state.payload["amount_minor"]
        yield from _conserves(saga, amount, _Sums.of(by_saga.get(saga.key, [])))


def check_stock(evidence: Evidence) -> Iterator[Violation]:
    """Check that units are shipped, promised or given back exactly as their sagas ended."""
    by_key = {each.key: each for each in evidence.reservations}
    for saga, state in _checkouts(evidence):
        reservation = by_key.pop(
            step_key(state, saga.definition, saga.key, "reserve_inventory"), None
        )
        kept = "none" if reservation is None else reservation.state
        if kept not in STOCK_OF.get(saga.state, (kept,)):
            yield Violation(
                invariant="stock follows the saga",
                subject=saga.key,
                seen=f"{saga.state}, reservation: {kept}",
            )
    for key in by_key:
        yield Violation(invariant="no stock without a saga", subject=key, seen="reserved")
    promised: dict[str, int] = defaultdict(int)
    for each in evidence.reservations:
        promised[each.sku] += each.units if each.state == "reserved" else 0
    for level in evidence.stock:
        if level.reserved != promised[level.sku] or level.reserved > level.on_hand:
            yield Violation(
                invariant="stock adds up",
                subject=level.sku,
                seen=f"reserved {level.reserved} of {level.on_hand}, "
                f"reservations hold {promised[level.sku]}",
            )


def _checkouts(evidence: Evidence) -> list[tuple[SagaHistory, FoldedSaga]]:
    """The checkouts whose log folds, with what it folds to (`check_histories` tells the others)."""
    found = []
    for saga in evidence.sagas:
        state = evidence.states[saga.id]
        if saga.definition == "checkout" and isinstance(state, FoldedSaga):
            found.append((saga, state))
    return found


def _origins(evidence: Evidence) -> dict[str, _Origin]:
    origins: dict[str, _Origin] = {}
    for saga, state in _checkouts(evidence):
        for step, direction in OPERATIONS:
            intended = _first_start(saga, step, direction)
            origin = _Origin(saga=saga, step=step, direction=direction, intended_at=intended)
            for key in _keys(saga, state, step, direction):
                origins[key] = origin
    return origins


def _keys(saga: SagaHistory, state: FoldedSaga, step: str, direction: str) -> Iterator[str]:
    """Every key that the step may have used: each generation, and each effect it undid."""
    known = state.step(step)
    references = {None, *(each.reference for each in known.outside)}
    for forward in step_keys(state, saga.definition, saga.key, step):
        if direction == Direction.FORWARD:
            yield forward
            continue
        for reference in references:
            for undoing in range(1, known.undo_generation + 1):
                yield undo_key(forward, reference, undoing)


def _first_start(saga: SagaHistory, step: str, direction: str) -> datetime | None:
    for recorded in saga.entries:
        entry = recorded.entry
        if isinstance(entry, StepStarted) and (entry.step, entry.direction) == (step, direction):
            return recorded.at
    return None


def _every_effect_is_ours(
    effective: list[LedgerRow], origins: Mapping[str, _Origin]
) -> Iterator[Violation]:
    for row in effective:
        origin = origins.get(row.key)
        if origin is None:
            yield Violation(invariant="every effect has a saga", subject=row.key, seen=f"{row}")
        elif OPERATIONS[origin.step, origin.direction] != row.operation:
            yield Violation(
                invariant="a key does what its step does",
                subject=row.key,
                seen=f"{row.operation} under the key of {origin.step} {origin.direction}",
            )


def _one_effect_per_key(effective: list[LedgerRow]) -> Iterator[Violation]:
    seen: set[str] = set()
    for row in effective:
        if row.key in seen:
            yield Violation(invariant="one effect per key", subject=row.key, seen=row.operation)
        seen.add(row.key)


def _one_effect_per_step(effective: list[LedgerRow]) -> Iterator[Violation]:
    """Whatever the key: by the order that the movement names."""
    seen: set[tuple[str | None, str]] = set()
    for row in effective:
        effect = (row.order_reference, row.operation)
        if effect in seen:
            yield Violation(
                invariant="one effect per step",
                subject=f"{row.order_reference}",
                seen=f"{row.operation} again, key {row.key}",
            )
        seen.add(effect)


def _intent_before_effect(
    effective: list[LedgerRow], origins: Mapping[str, _Origin]
) -> Iterator[Violation]:
    for row in effective:
        origin = origins.get(row.key)
        if origin is None:
            continue
        if origin.intended_at is None or origin.intended_at > row.at:
            yield Violation(
                invariant="intent before effect",
                subject=f"{origin.saga.key} {origin.step}",
                seen=f"{row.operation} at {row.at}, intent at {origin.intended_at}",
            )


def _success_has_its_effect(evidence: Evidence) -> Iterator[Violation]:
    """An undo that found nothing left to give back moved no money, and says so."""
    references = {row.reference for row in evidence.movements if row.effective}
    for saga, _ in _checkouts(evidence):
        for recorded in saga.entries:
            entry = recorded.entry
            if not isinstance(entry, StepSucceeded) or entry.reference is None:
                continue
            if (entry.step, entry.direction) not in OPERATIONS:
                continue
            if entry.direction == Direction.COMPENSATE and not entry.movements:
                continue
            if entry.reference not in references:
                yield Violation(
                    invariant="success has its effect",
                    subject=f"{saga.key} {entry.step} {entry.direction}",
                    seen=f"nothing at the gateway under {entry.reference}",
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sums:
    authorized: int
    voided: int
    captured: int
    refunded: int
    shipments: int

    @classmethod
    def of(cls, rows: list[LedgerRow]) -> _Sums:
        def total(operation: str) -> int:
            return sum(row.amount_minor for row in rows if row.operation == operation)

        return cls(
            authorized=total("authorize"),
            voided=total("void"),
            captured=total("capture"),
            refunded=total("refund") - total("refund_failed"),
            shipments=sum(row.operation == "ship" for row in rows),
        )

    @property
    def held(self) -> int:
        """What is authorized, not captured and not given back."""
        return self.authorized - self.voided - self.captured


def _conserves(saga: SagaHistory, amount: int, sums: _Sums) -> Iterator[Violation]:
    match saga.state:
        case State.COMPLETED:
            kept, shipments = amount, 1
        case State.COMPENSATED:
            kept, shipments = 0, 0
        case _:
            return
    if sums.captured - sums.refunded != kept or sums.held != 0:
        yield Violation(
            invariant="money is conserved",
            subject=saga.key,
            seen=f"{saga.state}, order {amount}: {sums}",
        )
    if sums.shipments != shipments:
        yield Violation(
            invariant="shipped exactly if completed",
            subject=saga.key,
            seen=f"{saga.state} with {sums.shipments} shipments",
        )
