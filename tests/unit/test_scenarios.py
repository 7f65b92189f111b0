"""The table of the scenarios: a world that is wrong makes exactly its cell red."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from orchestrator.client import Started
from orchestrator.entries import (
    Direction,
    Entry,
    SagaCompensated,
    SagaCompleted,
    StepFailed,
    StepSucceeded,
    UndoSkipped,
)
from orchestrator.errors import CardNumberError, IdempotencyConflictError
from orchestrator.state import State
from recovery.demo.scenarios import refund, replayed_start, transient_failure
from recovery.demo.scenarios.evidence import OrderEvidence
from recovery.demo.scenarios.order import PRICE_MINOR
from recovery.demo.scenarios.playing import Scenario, played
from recovery.demo.scenarios.table import (
    Fact,
    Place,
    Row,
    failures,
    in_ledger,
    in_logs,
    in_saga_log,
    in_stock,
    written,
)
from recovery.demo.stage import DemoError
from steps.gateways.sandbox.judge import LedgerRow, RequestRow

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
STARTS = [Started(id=SAGA, key="o", created=created) for created in (True, False, False)]
CONFLICT = IdempotencyConflictError("the key holds another payload")
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


def red(facts: Sequence[Fact]) -> set[Place]:
    row = Row(number=1, title="one", facts=facts)
    return {each for each in Place if not row.cell_holds(each)}


def test_what_was_promised_leaves_no_cell_red() -> None:
    assert red(transient_failure.facts(AFTER_A_FAILURE)) == set()
    assert red(replayed_start.facts(STARTED_ONCE, STARTS, CONFLICT)) == set()
    assert red(refund.facts(REFUNDED)) == set()


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
    assert red(transient_failure.facts(replace(AFTER_A_FAILURE, **wrong))) == {place}


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

    assert red(replayed_start.facts(found, STARTS, CONFLICT)) == {place}


def test_another_payload_that_is_not_refused_or_refused_otherwise_is_seen() -> None:
    for refusal in (None, CardNumberError("payload")):
        assert red(replayed_start.facts(STARTED_ONCE, STARTS, refusal)) == {Place.SAGA_LOG}
    twice = [replace(each, created=True) for each in STARTS]
    assert red(replayed_start.facts(STARTED_ONCE, twice, CONFLICT)) == {Place.SAGA_LOG}


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
    assert red(refund.facts(replace(REFUNDED, **wrong))) == {place}


GREEN = [
    each("as it should be", seen=1, expected=1)
    for each in (in_saga_log, in_ledger, in_stock, in_logs)
]


def test_a_place_that_nobody_looked_at_is_no_pass() -> None:
    row = Row(number=1, title="one", facts=GREEN[:3])

    assert not row.holds
    assert list(failures([row])) == ["scenario 1, log output: nothing was checked"]
    assert "✗ nothing was checked" in written([row])
    assert row.as_json()["cells"]["log output"] == {"ok": False, "facts": []}


def test_text_and_json_say_what_was_seen_instead() -> None:
    row = Row(number=1, title="one", facts=[*GREEN, in_ledger("one charge", seen=2, expected=1)])

    assert "✗ one charge: seen 2, expected 1" in written([row], width=400)
    assert list(failures([row])) == ["scenario 1, gateway ledger: one charge: seen 2, expected 1"]
    assert row.as_json()["ok"] is False
    assert row.as_json()["cells"]["gateway ledger"]["facts"][1] == {
        "says": "one charge",
        "ok": False,
        "seen": 2,
        "expected": 1,
    }


@pytest.mark.parametrize("error", [DemoError("it hangs"), CardNumberError("payload")])
def test_a_scenario_that_cannot_be_played_is_red_and_the_others_are_played(
    error: Exception,
) -> None:
    def breaks(_: Any) -> list[Fact]:
        raise error

    scenarios: list[Callable[[Any], Sequence[Fact]]] = [breaks, lambda _: GREEN]
    stage: Any = None
    rows = played(stage, [Scenario(title="one", play=each) for each in scenarios])

    assert [each.holds for each in rows] == [False, True]
