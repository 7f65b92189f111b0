"""Every invariant catches a violation planted for it, and honest books have none."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import recovery.invariants
from orchestrator.definitions import Definitions
from orchestrator.entries import (
    Direction,
    Entry,
    LateOutcomeRecorded,
    Recorded,
    SagaCompensated,
    SagaCompleted,
    SagaStarted,
    SignalReceived,
    StepFailed,
    StepProbed,
    StepReleased,
    StepStarted,
    StepSucceeded,
    StepUnknown,
    StepWaiting,
    UndoSkipped,
    UnwindingStarted,
)
from orchestrator.keys import forward_key, undo_key
from orchestrator.state import State
from orchestrator.storage.histories import SagaHistory
from recovery.invariants import history
from recovery.invariants.collect import check
from recovery.invariants.evidence import Evidence
from recovery.invariants.undoing import left_undone
from steps.checkout import checkout
from steps.gateways.sandbox.judge import LedgerRow
from steps.storage.stock import Reservation, ReservationState, StockLevel

MORNING = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
FORWARD, UNDO = Direction.FORWARD, Direction.COMPENSATE
PRICE = 1_990


def begin(step: str, direction: str = FORWARD, attempt: int = 1) -> Entry:
    return StepStarted(step=step, direction=direction, attempt=attempt, owner="me")


def done(step: str, reference: str | None = None, direction: str = FORWARD) -> Entry:
    undone = True if direction == UNDO else None
    return StepSucceeded(
        step=step, direction=direction, attempt=1, reference=reference, undone=undone
    )


def did(step: str, reference: str | None = None, direction: str = FORWARD) -> list[Entry]:
    return [begin(step, direction), done(step, reference, direction)]


def log(*entries: Entry) -> list[Recorded]:
    return [
        Recorded(seq=seq, at=MORNING + timedelta(milliseconds=seq), entry=entry)
        for seq, entry in enumerate(entries, start=1)
    ]


def started(key: str) -> Entry:
    payload = {"order_id": key, "customer_id": "C-1", "sku": "cd", "units": 2, "currency": "EUR"}
    return SagaStarted(payload={**payload, "amount_minor": PRICE, "payment_method": "tok_ok"})


def saga(key: str, state: State, entries: Sequence[Recorded], **changes: Any) -> SagaHistory:
    values: dict[str, Any] = {
        "id": UUID(int=hash(key) & (2**128 - 1)),
        "definition": "checkout",
        "definition_hash": checkout.hash,
        "key": key,
        "state": state,
        "seq": len(entries),
        "is_due": False,
        "open_attempts": 0,
        "entries": entries,
    }
    return SagaHistory(**{**values, **changes})


def key_of(key: str, step: str) -> str:
    return forward_key("checkout", key, step)


PAID = (
    *did("authorize_payment", "pay_A"),
    *did("capture_payment", "cap_A"),
)
COMPLETED = saga(
    "A",
    State.COMPLETED,
    log(
        started("A"),
        *did("reserve_inventory", key_of("A", "reserve_inventory")),
        *did("screen_fraud"),
        *PAID,
        *did("create_shipment", "parcel_A"),
        SagaCompleted(),
    ),
)
REFUSED = StepFailed(
    step="create_shipment", direction=FORWARD, attempt=1, terminal=True, error={"message": "no"}
)
COMPENSATED = saga(
    "B",
    State.COMPENSATED,
    log(
        started("B"),
        *did("reserve_inventory", key_of("B", "reserve_inventory")),
        *did("screen_fraud"),
        *did("authorize_payment", "pay_B"),
        *did("capture_payment", "cap_B"),
        begin("create_shipment"),
        REFUSED,
        UnwindingStarted(cause="step_failed", step="create_shipment"),
        *did("capture_payment", "ref_B", UNDO),
        UndoSkipped(step="authorize_payment", undone_by="capture_payment"),
        *did("reserve_inventory", None, UNDO),
        SagaCompensated(),
    ),
)


def moved(
    seq: int, operation: str, order: str, key: str, reference: str, amount: int = PRICE
) -> LedgerRow:
    return LedgerRow(
        seq=seq,
        at=MORNING + timedelta(seconds=1),
        operation=operation,
        key=key,
        reference=reference,
        payment_reference=f"pay_{order}",
        order_reference=order,
        amount_minor=amount,
        currency="EUR",
        effective=True,
        answer="done",
    )


MOVEMENTS = (
    moved(1, "authorize", "A", key_of("A", "authorize_payment"), "pay_A"),
    moved(2, "capture", "A", key_of("A", "capture_payment"), "cap_A"),
    moved(3, "ship", "A", key_of("A", "create_shipment"), "parcel_A", 0),
    moved(4, "authorize", "B", key_of("B", "authorize_payment"), "pay_B"),
    moved(5, "capture", "B", key_of("B", "capture_payment"), "cap_B"),
    moved(6, "refund", "B", undo_key(key_of("B", "capture_payment"), "cap_B"), "ref_B"),
)

HONEST = Evidence(
    sagas=(COMPLETED, COMPENSATED),
    movements=MOVEMENTS,
    stock=(StockLevel(sku="cd", on_hand=8, reserved=0),),
    reservations=(
        Reservation(
            key=key_of("A", "reserve_inventory"),
            sku="cd",
            units=2,
            state=ReservationState.SHIPPED,
        ),
        Reservation(
            key=key_of("B", "reserve_inventory"),
            sku="cd",
            units=2,
            state=ReservationState.RELEASED,
        ),
    ),
)

Plant = Callable[[], Evidence]


def with_saga(original: SagaHistory, **changes: Any) -> Evidence:
    changed = replace(original, **changes)
    sagas = [changed if each is original else each for each in HONEST.sagas]
    return replace(HONEST, sagas=sagas)


def with_log(original: SagaHistory, *entries: Entry) -> Evidence:
    return with_saga(original, entries=log(*entries), seq=len(entries))


def entries_of(original: SagaHistory) -> list[Entry]:
    return [each.entry for each in original.entries]


def with_movement(*rows: LedgerRow) -> Evidence:
    return replace(HONEST, movements=(*MOVEMENTS, *rows))


def with_changed_movement(index: int, **changes: Any) -> Evidence:
    rows = list(MOVEMENTS)
    rows[index] = replace(rows[index], **changes)
    return replace(HONEST, movements=rows)


def undo_beside_forward() -> Evidence:
    """B's release begins while its shipment is still being handed over."""
    entries = entries_of(COMPENSATED)
    refused = entries.pop(entries.index(REFUSED))
    begins = next(
        i for i, e in enumerate(entries) if isinstance(e, StepStarted) and e.direction == UNDO
    )
    entries.insert(begins + 1, refused)
    return with_log(COMPENSATED, *entries)


def unsettled_unwinding() -> Evidence:
    unknown = StepUnknown(step="create_shipment", direction=FORWARD, attempt=1, reason="lease_lost")
    entries = [unknown if each is REFUSED else each for each in entries_of(COMPENSATED)]
    return with_log(COMPENSATED, *entries)


def release_before_refund() -> Evidence:
    entries = entries_of(COMPENSATED)
    release = entries[-3:-1]
    del entries[-3:-1]
    at = next(i for i, e in enumerate(entries) if isinstance(e, UnwindingStarted)) + 1
    entries[at:at] = release
    return with_log(COMPENSATED, *entries)


def compensated_without_refund() -> Evidence:
    entries = [
        each
        for each in entries_of(COMPENSATED)
        if not (
            isinstance(each, StepStarted | StepSucceeded)
            and (each.step, each.direction) == ("capture_payment", UNDO)
        )
    ]
    return with_log(COMPENSATED, *entries)


def with_undo(*undo: Entry, forward: Sequence[Entry], late: Sequence[Entry] = ()) -> Evidence:
    """A compensated order that got as far as its capture, with that step's log as given."""
    return with_log(
        COMPENSATED,
        started("B"),
        *did("reserve_inventory", key_of("B", "reserve_inventory")),
        *did("screen_fraud"),
        *did("authorize_payment", "pay_B"),
        *forward,
        UnwindingStarted(cause="step_failed", step="capture_payment"),
        *undo,
        *did("authorize_payment", "void_B", UNDO),
        *did("reserve_inventory", None, UNDO),
        SagaCompensated(),
        *late,
    )


CAPTURE_FAILS: Sequence[Entry] = (
    begin("capture_payment"),
    StepFailed(
        step="capture_payment", direction=FORWARD, attempt=1, terminal=True, error={"message": "no"}
    ),
)
CAPTURE_UNKNOWN: Sequence[Entry] = (
    begin("capture_payment"),
    StepUnknown(step="capture_payment", direction=FORWARD, attempt=1, reason="lease_lost"),
)
CAPTURE_WAITS: Sequence[Entry] = (
    begin("capture_payment"),
    StepWaiting(
        step="capture_payment",
        direction=FORWARD,
        attempt=1,
        until="2026-11-24T12:00:00+00:00",
        reference="cap_B",
    ),
)
CAPTURE_FAILS_LATER: Sequence[Entry] = (
    StepStarted(step="capture_payment", direction=FORWARD, attempt=2, owner="worker"),
    StepFailed(
        step="capture_payment", direction=FORWARD, attempt=2, terminal=True, error={"message": "no"}
    ),
)
NOTHING_THERE: Sequence[Entry] = (
    begin("capture_payment", UNDO),
    StepSucceeded(step="capture_payment", direction=UNDO, attempt=1, undone=False),
)


def late_capture(reference: str) -> Entry:
    return LateOutcomeRecorded(
        step="capture_payment",
        direction=FORWARD,
        attempt=1,
        outcome="succeeded",
        reference=reference,
    )


LEFT_UNDONE: dict[str, Plant] = {
    "a failed step is undone too": lambda: with_undo(forward=CAPTURE_FAILS),
    "so is an unknown one": lambda: with_undo(forward=CAPTURE_UNKNOWN),
    "nothing there is no answer of a known effect": lambda: with_undo(
        *NOTHING_THERE, forward=did("capture_payment", "cap_B")
    ),
    "a late effect is undone": lambda: with_undo(
        *NOTHING_THERE, forward=CAPTURE_UNKNOWN, late=[late_capture("cap_late")]
    ),
    "so is a second one": lambda: with_undo(
        *did("capture_payment", "ref_B", UNDO),
        forward=did("capture_payment", "cap_B"),
        late=[late_capture("cap_again")],
    ),
    "what a wait was told of is not denied": lambda: with_undo(
        *NOTHING_THERE, forward=[*CAPTURE_WAITS, *CAPTURE_FAILS_LATER]
    ),
    "a skipped undo needs the other step's": compensated_without_refund,
}


def parcel_without_saga() -> Evidence:
    return with_movement(moved(7, "ship", "Z", "stray-key", "parcel_Z", 0))


PLANTED: dict[str, Plant] = {
    "history folds": lambda: with_log(COMPLETED, *entries_of(COMPLETED)[1:]),
    "log is gapless": lambda: with_saga(
        COMPLETED, entries=[each for each in COMPLETED.entries if each.seq != 4]
    ),
    "fold equals stored state": lambda: with_saga(COMPLETED, state=State.COMPENSATED),
    "non-terminal sagas are due": lambda: with_saga(COMPLETED, is_due=True),
    "no undo beside a forward attempt": undo_beside_forward,
    "unknown is settled before compensation": unsettled_unwinding,
    "undo in reverse order": release_before_refund,
    "compensated means undone": compensated_without_refund,
    "every saga ends": lambda: with_saga(
        COMPLETED, state=State.RUNNING, is_due=True, entries=COMPLETED.entries[:3], seq=3
    ),
    "no attempt outlives its saga": lambda: with_saga(COMPLETED, open_attempts=1),
    "nothing after the end": lambda: with_log(
        COMPLETED, *entries_of(COMPLETED), SignalReceived(name="late", dedup_id="1")
    ),
    "every effect has a saga": parcel_without_saga,
    "a key does what its step does": lambda: with_changed_movement(2, operation="capture"),
    "one effect per key": lambda: with_movement(MOVEMENTS[1]),
    "one effect per step": lambda: with_movement(
        moved(7, "capture", "A", "another-key", "cap_again")
    ),
    "intent before effect": lambda: with_changed_movement(1, at=MORNING - timedelta(hours=1)),
    "success has its effect": lambda: replace(HONEST, movements=MOVEMENTS[:2]),
    "money is conserved": lambda: with_changed_movement(1, amount_minor=PRICE - 1),
    "shipped exactly if completed": lambda: replace(
        HONEST, movements=[each for each in MOVEMENTS if each.operation != "ship"]
    ),
    "stock follows the saga": lambda: replace(
        HONEST,
        reservations=(
            HONEST.reservations[0],
            replace(HONEST.reservations[1], state=ReservationState.SHIPPED),
        ),
    ),
    "no stock without a saga": lambda: replace(
        HONEST,
        reservations=(
            *HONEST.reservations,
            Reservation(key="stray", sku="cd", units=1, state=ReservationState.SHIPPED),
        ),
    ),
    "stock adds up": lambda: replace(HONEST, stock=(StockLevel(sku="cd", on_hand=8, reserved=1),)),
}

ELSEWHERE = {
    "one outcome per attempt",  # the fold refuses it first; see below
    "not vacuous",  # not a property of the evidence alone; see below
    "books balance",  # of a live database: `test_ledgers.py`
    "every effect is in its log",  # likewise
    "every movement is reported",  # likewise
}


def found(evidence: Evidence) -> set[str]:
    return {each.invariant for each in check(evidence, Definitions([checkout]))}


def test_honest_books_have_no_violation() -> None:
    assert check(HONEST, Definitions([checkout])) == []


@pytest.mark.parametrize("invariant", PLANTED)
def test_a_planted_violation_is_caught(invariant: str) -> None:
    assert invariant in found(PLANTED[invariant]())


@pytest.mark.parametrize("case", LEFT_UNDONE)
def test_what_was_left_undone_is_caught_by_the_entries_alone(case: str) -> None:
    (compensated,) = (each for each in LEFT_UNDONE[case]().sagas if each.key == "B")

    assert "capture_payment" in left_undone(compensated.entries, checkout.steps)


@pytest.mark.parametrize(
    "evidence",
    [
        with_undo(*NOTHING_THERE, forward=CAPTURE_FAILS),
        with_undo(*NOTHING_THERE, forward=CAPTURE_UNKNOWN),
        with_undo(
            *did("capture_payment", "ref_B", UNDO),
            forward=did("capture_payment", "cap_B"),
            late=[late_capture("cap_B")],
        ),
        with_undo(
            *did("capture_payment", "ref_B", UNDO), forward=[*CAPTURE_WAITS, *CAPTURE_FAILS_LATER]
        ),
    ],
    ids=[
        "nothing happened",
        "nothing was found",
        "the late answer was known",
        "what a wait was told of was undone",
    ],
)
def test_what_was_undone_is_not_accused(evidence: Evidence) -> None:
    (compensated,) = (each for each in evidence.sagas if each.key == "B")

    assert left_undone(compensated.entries, checkout.steps) == []


def test_an_undo_of_a_failed_challenge_moves_no_money_and_is_not_accused_of_none() -> None:
    declined = StepFailed(
        step="authorize_payment",
        direction=FORWARD,
        attempt=2,
        terminal=True,
        error={"message": "the payer did not pass the challenge"},
        decisive=True,
    )
    waiting = StepWaiting(
        step="authorize_payment",
        direction=FORWARD,
        attempt=1,
        until="2026-11-24T12:00:00+00:00",
        reference="pay_B",
    )
    honest = with_log(
        COMPENSATED,
        started("B"),
        *did("reserve_inventory", key_of("B", "reserve_inventory")),
        *did("screen_fraud"),
        begin("authorize_payment"),
        waiting,
        begin("authorize_payment", attempt=2),
        declined,
        UnwindingStarted(cause="step_failed", step="authorize_payment"),
        *did("authorize_payment", "pay_B", UNDO),
        *did("reserve_inventory", None, UNDO),
        SagaCompensated(),
    )
    rows = [each for each in MOVEMENTS if each.order_reference == "A"]

    assert "success has its effect" not in found(replace(honest, movements=rows))


def test_an_undo_that_its_probe_found_is_one() -> None:
    """The refund's answers were lost, and it was found: nothing is accused of coming too early."""
    found = with_undo(
        begin("capture_payment", UNDO),
        StepUnknown(step="capture_payment", direction=UNDO, attempt=1, reason="raised"),
        begin("capture_payment", Direction.PROBE_UNDO),
        StepProbed(
            step="capture_payment",
            direction=Direction.PROBE_UNDO,
            attempt=1,
            landed=True,
            reference="ref_B",
        ),
        forward=did("capture_payment", "cap_B"),
    )
    assert not {"undo in reverse order", "compensated means undone", "history folds"} & {
        each.invariant for each in check(found, Definitions([checkout]))
    }


def test_a_step_that_was_only_handed_back_has_no_undo_to_wait_for() -> None:
    released = StepReleased(step="capture_payment", direction=FORWARD, attempt=1)
    evidence = with_undo(forward=[begin("capture_payment"), released])
    assert "undo in reverse order" not in found(evidence)


def test_every_invariant_has_a_planted_violation() -> None:
    folder = Path(next(iter(recovery.invariants.__path__)))
    sources = "".join(each.read_text() for each in folder.glob("*.py"))
    known = set(re.findall(r'invariant="([^"]+)"', sources))
    assert known == set(PLANTED) | ELSEWHERE


def test_two_outcomes_of_one_attempt_are_caught_without_the_fold() -> None:
    twice = with_log(COMPLETED, *entries_of(COMPLETED)[:3], entries_of(COMPLETED)[2]).sagas[0]
    violations = list(history._has_one_outcome_per_attempt(twice))
    assert [each.invariant for each in violations] == ["one outcome per attempt"]


def test_an_empty_run_is_no_pass() -> None:
    nothing = Evidence(sagas=())
    violations = check(nothing, Definitions([checkout]), at_least={State.COMPLETED: 1})
    assert [each.invariant for each in violations] == ["not vacuous"]


def test_while_sagas_move_only_their_logs_are_judged() -> None:
    moving = PLANTED["every saga ends"]()
    assert check(moving, Definitions([checkout]), at_rest=False) == []


def test_a_refund_that_failed_later_is_no_refund() -> None:
    failed = moved(7, "refund_failed", "B", "", "ref_B")
    assert "money is conserved" in found(with_movement(failed))
