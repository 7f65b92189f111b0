"""The orders of the scenarios: a world that is wrong makes exactly its cell red."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from orchestrator.entries import (
    Direction,
    Entry,
    SagaCompensated,
    SagaCompleted,
    StepFailed,
    StepSucceeded,
    UndoSkipped,
)
from orchestrator.state import State
from recovery.demo.scenarios import (
    fraud_block,
    refund,
    replayed_start,
    transient_failure,
)
from recovery.demo.scenarios.evidence import OrderEvidence
from recovery.demo.scenarios.order import PRICE_MINOR
from recovery.demo.scenarios.replayed_start import Starts
from recovery.demo.scenarios.storage.rows import KeptVerdict
from recovery.demo.scenarios.table import Place
from steps.fraud import RULESET
from steps.gateways.sandbox.judge import LedgerRow, RequestRow
from steps.verdict import Decision
from tests.unit.scenarios import red

MORNING = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
SAGA = UUID(int=1)
UNDO = Direction.COMPENSATE


def moved(operation: str, amount_minor: int = PRICE_MINOR) -> LedgerRow:
    return LedgerRow(
        seq=1,
        at=MORNING,
        operation=operation,
        key="k",
        reference="r",
        payment_reference="p",
        order_reference="o",
        amount_minor=amount_minor,
        currency="EUR",
        effective=True,
        answer=operation,
    )


def asked(operation: str, status: int, key: str = "k") -> RequestRow:
    return RequestRow(
        id=1,
        received_at=MORNING,
        answered_at=MORNING,
        is_open=False,
        operation=operation,
        key=key,
        fingerprint=None,
        order_reference="o",
        reference=None,
        attempt=1,
        status=status,
        replayed=False,
        faults=(),
    )


def done(step: str, direction: Direction = Direction.FORWARD) -> Entry:
    return StepSucceeded(step=step, direction=direction, attempt=1)


def failed(step: str, error: str) -> Entry:
    return StepFailed(
        step=step, direction=Direction.FORWARD, attempt=1, terminal=False, error={"type": error}
    )


def lines(*events: str) -> Sequence[Mapping[str, Any]]:
    return [{"event": each} for each in events]


AFTER_A_FAILURE = OrderEvidence(
    sagas=1,
    state=State.COMPLETED,
    entries=[
        failed("authorize_payment", "GatewayUnavailableError"),
        done("authorize_payment"),
        failed("capture_payment", "RateLimitedError"),
        done("capture_payment"),
        SagaCompleted(),
    ],
    movements=[moved("authorize"), moved("capture"), moved("ship", 0)],
    requests=[
        *(asked("authorize", 503), asked("authorize", 201)),
        *(asked("capture", 429), asked("capture", 200)),
        asked("ship", 201),
    ],
    on_hand=9,
    reserved=0,
    lines=lines("step.failed", "step.failed", "saga.completed"),
)
STARTED_ONCE = replace(
    AFTER_A_FAILURE,
    entries=[done("authorize_payment"), done("capture_payment"), SagaCompleted()],
    requests=[asked("authorize", 201), asked("capture", 200), asked("ship", 201)],
    lines=lines("saga.completed"),
)
STARTS = Starts(
    answers=[("1", created) for created in (True, False, False, False, False)],
    refusals=["IdempotencyConflictError", "422 saga_key_reused"],
)
REFUNDED = OrderEvidence(
    sagas=1,
    state=State.COMPENSATED,
    entries=[
        failed("create_shipment", "ShipmentRefusedError"),
        done("capture_payment", UNDO),
        UndoSkipped(step="authorize_payment", undone_by="capture_payment"),
        done("reserve_inventory", UNDO),
        SagaCompensated(),
    ],
    movements=[moved("authorize"), moved("capture"), moved("refund")],
    requests=[],
    on_hand=10,
    reserved=0,
    lines=lines("step.failed", "saga.unwinding_started", "saga.compensated"),
)


def test_what_was_promised_leaves_no_cell_red() -> None:
    assert red(transient_failure.expectations(AFTER_A_FAILURE)) == set()
    assert red(replayed_start.expectations(STARTED_ONCE, STARTS)) == set()
    assert red(refund.expectations(REFUNDED)) == set()


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ({"state": State.COMPENSATED}, Place.SAGA_LOG),
        ({"entries": [done("authorize_payment"), done("capture_payment")]}, Place.SAGA_LOG),
        ({"movements": [*AFTER_A_FAILURE.movements, moved("capture")]}, Place.GATEWAY),
        ({"movements": []}, Place.GATEWAY),
        ({"requests": [asked("authorize", 503), asked("authorize", 201, "k2")]}, Place.GATEWAY),
        ({"on_hand": 8}, Place.STOCK),
        ({"reserved": 1}, Place.STOCK),
        ({"lines": lines("step.failed", "saga.completed")}, Place.LOGS),
        ({"lines": ()}, Place.LOGS),
    ],
)
def test_a_wrong_success_after_a_failure_is_seen(wrong: dict[str, Any], place: Place) -> None:
    assert red(transient_failure.expectations(replace(AFTER_A_FAILURE, **wrong))) == {place}


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ({"sagas": 2}, Place.SAGA_LOG),
        ({"movements": [*STARTED_ONCE.movements, moved("capture")]}, Place.GATEWAY),
        ({"requests": [asked("capture", 200), asked("capture", 200)]}, Place.GATEWAY),
        ({"on_hand": 8}, Place.STOCK),
        ({"lines": lines("saga.completed", "saga.completed")}, Place.LOGS),
    ],
)
def test_a_second_saga_of_one_key_is_seen(wrong: dict[str, Any], place: Place) -> None:
    found = replace(STARTED_ONCE, **wrong)

    assert red(replayed_start.expectations(found, STARTS)) == {place}


@pytest.mark.parametrize(
    "wrong",
    [
        {"refusals": ["let in", "422 saga_key_reused"]},
        {"refusals": ["IdempotencyConflictError", "201 None"]},
        {"refusals": ["CardNumberError", "422 saga_key_reused"]},
        {"answers": [("1", True)] * 5},
        {"answers": [*STARTS.answers[:4], ("2", False)]},
        {"answers": STARTS.answers[:1]},
    ],
)
def test_a_start_that_is_answered_otherwise_is_seen(wrong: dict[str, Any]) -> None:
    assert red(replayed_start.expectations(STARTED_ONCE, replace(STARTS, **wrong))) == {
        Place.SAGA_LOG
    }


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ({"state": State.FAILED_COMPENSATION}, Place.SAGA_LOG),
        ({"entries": [*REFUNDED.entries, done("authorize_payment", UNDO)]}, Place.SAGA_LOG),
        ({"movements": [moved("authorize"), moved("capture"), moved("void")]}, Place.GATEWAY),
        ({"movements": [moved("authorize"), moved("capture")]}, Place.GATEWAY),
        (
            {"movements": [moved("authorize"), moved("capture"), moved("refund", 1_000)]},
            Place.GATEWAY,
        ),
        ({"requests": [asked("void", 409)]}, Place.GATEWAY),
        ({"on_hand": 9}, Place.STOCK),
        ({"lines": lines("saga.completed")}, Place.LOGS),
    ],
)
def test_a_void_or_a_part_in_place_of_the_refund_is_seen(
    wrong: dict[str, Any], place: Place
) -> None:
    assert red(refund.expectations(replace(REFUNDED, **wrong))) == {place}


BLOCKED = OrderEvidence(
    sagas=1,
    state=State.COMPENSATED,
    entries=[failed("screen_fraud", "FraudBlockedError"), SagaCompensated()],
    movements=[],
    requests=[],
    on_hand=10,
    reserved=0,
    lines=lines("step.failed", "saga.unwinding_started", "saga.compensated"),
)
VERDICT = KeptVerdict(decision=Decision.BLOCK, reasons=("blocklist",), ruleset=RULESET)


def test_a_block_leaves_no_cell_red() -> None:
    assert red(fraud_block.expectations(BLOCKED, [VERDICT], 0)) == set()


@pytest.mark.parametrize(
    ("wrong", "verdicts", "asked", "place"),
    [
        ({}, [], 0, Place.SAGA_LOG),
        ({}, [replace(VERDICT, decision=Decision.REVIEW)], 0, Place.SAGA_LOG),
        ({}, [replace(VERDICT, ruleset="")], 0, Place.SAGA_LOG),
        ({"entries": [failed("authorize_payment", "CardDeclinedError")]}, None, 0, Place.SAGA_LOG),
        ({}, None, 1, Place.GATEWAY),
        ({"movements": [moved("authorize")]}, None, 0, Place.GATEWAY),
        ({"reserved": 1}, None, 0, Place.STOCK),
        ({"lines": lines("saga.compensated")}, None, 0, Place.LOGS),
    ],
)
def test_a_block_that_asked_the_gateway_or_left_no_verdict_is_seen(
    wrong: dict[str, Any], verdicts: list[KeptVerdict] | None, asked: int, place: Place
) -> None:
    kept = [VERDICT] if verdicts is None else verdicts

    assert red(fraud_block.expectations(replace(BLOCKED, **wrong), kept, asked)) == {place}
