"""Invariants of the money that logs tell of, and between logs and a gateway's own report.

The sums are made here from the movements, not by the closing check that let the saga end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Final

from orchestrator.books import Moved, movements
from orchestrator.entries import Direction
from orchestrator.keys import installation_of, step_keys, undo_key
from orchestrator.state import FoldedSaga, State
from orchestrator.storage.verification import SagaRecord
from recovery.invariants.evidence import Violation
from steps.gateways.payment import MovementKind, ReportLine

CHECKOUT: Final = "checkout"
LISTED: Final = frozenset({MovementKind.AUTHORIZE, MovementKind.CAPTURE, MovementKind.REFUND})
"""What every gateway reports. A hold that ran out is nobody's void."""


def check_books(record: SagaRecord, state: FoldedSaga) -> Iterator[Violation]:
    """Check that the money of a saga that ended is where its end says: kept, or given back."""
    history = record.history
    if history.state not in (State.COMPLETED, State.COMPENSATED):
        return
    moved: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for each in movements(history.entries):
        moved[each.currency][each.kind] += each.minor
    price: Mapping[str, int] = {}
    if history.definition == CHECKOUT:
        price = {state.payload["currency"]: state.payload["amount_minor"]}
    for currency in sorted({*moved, *price}):
        sums = moved[currency]
        kept = sums["capture"] - sums["refund"]
        held = sums["authorize"] - sums["capture"] - sums["void"]
        wanted = price.get(currency, 0) if history.state is State.COMPLETED else 0
        is_judged = history.definition == CHECKOUT or history.state is State.COMPENSATED
        if is_judged and (kept != wanted or held > 0):
            yield Violation(
                invariant="books balance",
                subject=f"{history.definition}/{history.key}",
                seen=f"{history.state}, {currency}: kept {kept} instead of {wanted}, held {held}",
            )


def check_line(
    line: ReportLine, found: Iterable[tuple[SagaRecord, FoldedSaga]], ours: str
) -> Iterator[Violation]:
    """Check that what a gateway reports is in the log of the saga whose key moved it.

    Args:
        found: the sagas of the line's order.
        ours: this installation's name; what another's key moved is not judged.
    """
    whose = installation_of(line.key)
    if whose not in (None, ours):
        return
    told = f"{line.kind} of {line.amount} as {line.reference}"
    for record, state in found:
        known = movements(record.history.entries, words=True)
        if not _is_of(line, record, state, known):
            continue
        if not _is_moving(record, state) and not _is_told_of(line, known):
            yield Violation(
                invariant="every effect is in its log",
                subject=f"{record.history.definition}/{record.history.key}",
                seen=told,
            )
        return
    if whose == ours:
        yield Violation(invariant="every effect has a saga", subject=line.key, seen=told)


def check_listed(
    record: SagaRecord,
    listed: AbstractSet[tuple[str, str]],
    since: datetime,
    until: datetime,
) -> Iterator[Violation]:
    """Check that the gateway reports what a log says was moved between two moments."""
    for each in movements(record.history.entries):
        if each.kind not in LISTED or each.reference is None or each.is_pending:
            continue
        if since <= each.since < until and (each.kind, each.reference) not in listed:
            yield Violation(
                invariant="every movement is reported",
                subject=f"{record.history.definition}/{record.history.key}",
                seen=f"{each.kind} of {each.minor} {each.currency} as {each.reference}",
            )


def _is_of(line: ReportLine, record: SagaRecord, state: FoldedSaga, known: Iterable[Moved]) -> bool:
    if any(each.reference in (line.reference, line.payment_reference) for each in known):
        return True
    saga = record.history
    for step, how in state.steps.items():
        for forward in step_keys(state, saga.definition, saga.key, step):
            references = {None, *(each.reference for each in how.effects)}
            undone = (
                undo_key(forward, reference, generation)
                for reference in references
                for generation in range(1, how.undo_generation + 1)
            )
            if line.key == forward or line.key in undone:
                return True
    return False


def _is_moving(record: SagaRecord, state: FoldedSaga) -> bool:
    """Whether the log is about to say something, or a person is asked: then nothing is wrong."""
    unsettled = any(
        track.unsettled or track.open_attempt is not None
        for step in state.steps.values()
        for direction, track in step.tracks
        if direction != Direction.PROBE
    )
    return unsettled or not record.history.is_terminal


def _is_told_of(line: ReportLine, known: Iterable[Moved]) -> bool:
    stands = any(
        each.kind == line.kind
        and each.reference == line.reference
        and (each.minor, each.currency) == (line.amount.minor, line.amount.currency)
        for each in known
    )
    if line.kind is MovementKind.REFUND_FAILED:
        return not any(
            each.kind == MovementKind.REFUND and each.reference == line.reference for each in known
        )
    return stands or line.kind is MovementKind.VOID
