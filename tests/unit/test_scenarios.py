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
from orchestrator.redaction import redact
from orchestrator.state import State
from recovery.demo.scenarios import (
    fraud_block,
    redaction,
    refund,
    replayed_start,
    transient_failure,
)
from recovery.demo.scenarios.evidence import OrderEvidence
from recovery.demo.scenarios.order import PRICE_MINOR
from recovery.demo.scenarios.planted import card, found_in, grouped, masked, readable
from recovery.demo.scenarios.playing import Scenario, played
from recovery.demo.scenarios.redaction import RedactionEvidence
from recovery.demo.scenarios.spilling import IN_LOGS, IN_TABLES
from recovery.demo.scenarios.storage.rows import KeptVerdict
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
from steps.fraud import RULESET
from steps.gateways.sandbox.judge import LedgerRow, RequestRow
from steps.verdict import Decision

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
    assert red(fraud_block.facts(BLOCKED, [VERDICT], 0)) == set()


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

    assert red(fraud_block.facts(replace(BLOCKED, **wrong), kept, asked)) == {place}


NOTHING: dict[str, list[str]] = {
    kind: [] for kind in ("tables", "broker", "logs", "ledger", "files")
}
HIDDEN = RedactionEvidence(
    refused=dict.fromkeys(redaction.DOORS, "CardNumberError"),
    refused_messages=2,
    spilled=State.COMPENSATED,
    found=NOTHING,
    logs={"worker-1", "gateway"},
    processes={"worker-1", "gateway"},
    masked={
        "tables": {*IN_TABLES},
        "logs": {*IN_LOGS, redaction.IN_KEY},
        "files": {*IN_TABLES, *IN_LOGS},
    },
    requests=0,
    on_hand=10,
    reserved=0,
)


def test_hidden_card_numbers_leave_no_cell_red() -> None:
    assert red(redaction.facts(HIDDEN)) == set()


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ({"refused": {**HIDDEN.refused, "a signal": "let in"}}, Place.SAGA_LOG),
        ({"refused": {}}, Place.SAGA_LOG),
        ({"refused_messages": 1}, Place.SAGA_LOG),
        ({"spilled": State.STUCK}, Place.SAGA_LOG),
        ({"found": {**NOTHING, "tables": ["a result"]}}, Place.SAGA_LOG),
        ({"found": {**NOTHING, "broker": ["a message's key"]}}, Place.SAGA_LOG),
        ({"masked": {**HIDDEN.masked, "tables": set()}}, Place.SAGA_LOG),
        ({"found": {**NOTHING, "ledger": ["a start's token"]}}, Place.GATEWAY),
        ({"requests": 1}, Place.GATEWAY),
        ({"reserved": 1}, Place.STOCK),
        ({"found": {**NOTHING, "logs": ["a field"]}}, Place.LOGS),
        ({"found": {**NOTHING, "files": ["a row that Postgres refuses"]}}, Place.LOGS),
        ({"logs": {"gateway"}}, Place.LOGS),
        ({"masked": {**HIDDEN.masked, "logs": set()}}, Place.LOGS),
        ({"masked": {**HIDDEN.masked, "files": set()}}, Place.LOGS),
    ],
)
def test_a_card_number_that_is_found_or_let_in_is_seen(wrong: dict[str, Any], place: Place) -> None:
    assert red(redaction.facts(replace(HIDDEN, **wrong))) == {place}


@pytest.mark.parametrize(
    "text",
    [
        card("here"),
        f"order {grouped('here')} paid",
        card("here")[:10],
        grouped("here").replace(" ", "-"),
        readable(f'(1,"\\\\x{card("here").encode().hex()}")'),
    ],
)
def test_a_planted_number_is_found_however_it_is_written(text: str) -> None:
    assert found_in(f"x{text}y", ["here", "there"]) == {"here"}


def test_what_is_masked_is_not_found() -> None:
    text = redact(f"{card('here')} and {grouped('there')}")

    assert found_in(text, ["here", "there"]) == set()
    assert masked("here") in text


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
