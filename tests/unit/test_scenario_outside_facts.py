"""What comes from outside, by webhook or by a report: a wrong world makes exactly its cell red."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import TZPATH, ZoneInfo, reset_tzpath

import pytest

from orchestrator.entries import SagaCompleted, SignalReceived, StepWaiting
from orchestrator.state import State
from recovery.demo.scenarios import reconciliation, webhooks
from recovery.demo.scenarios.day_that_ends import ZONE, ending_at, next_second
from recovery.demo.scenarios.order import PRICE_MINOR
from recovery.demo.scenarios.reconciliation import (
    ALTERED,
    KEYS,
    LOST,
    MISSING,
    ReconciliationEvidence,
    T,
)
from recovery.demo.scenarios.table import Place
from recovery.demo.scenarios.webhooks import WebhookEvidence
from tests.unit.scenarios import red
from tests.unit.test_scenario_orders import AFTER_A_FAILURE, done, lines, moved

WAITS = StepWaiting(
    step="authorize_payment",
    direction="forward",
    attempt=1,
    until="2026-11-24T09:15:00+00:00",
    signal="payment_authenticated",
)
SIGNAL = SignalReceived(name="payment_authenticated", dedup_id="evt_1")
ORDER = replace(
    AFTER_A_FAILURE,
    entries=[WAITS, SIGNAL, done("authorize_payment"), SagaCompleted()],
    lines=lines("step.waiting", "saga.completed"),
)
DELIVERED = WebhookEvidence(
    order=ORDER,
    waited=State.WAITING,
    holders=[],
    put_aside=(10, 1),
    statuses={"true": [webhooks.ACKNOWLEDGED] * 2, "forged": [400], "stale": [400]},
    tampered=400,
    kept=["told"],
    kept_tampered=0,
    refused=[400, 400, 400],
)


def test_a_webhook_that_is_heard_once_leaves_no_cell_red() -> None:
    assert red(webhooks.expectations(DELIVERED)) == set()


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ({"waited": State.RUNNING}, Place.SAGA_LOG),
        ({"holders": ["host/1/2"]}, Place.SAGA_LOG),
        ({"kept": ["told", "told"]}, Place.SAGA_LOG),
        ({"kept": []}, Place.SAGA_LOG),
        ({"kept_tampered": 1}, Place.SAGA_LOG),
        ({"order": replace(ORDER, entries=[*ORDER.entries, SIGNAL])}, Place.SAGA_LOG),
        ({"order": replace(ORDER, entries=[done("authorize_payment")])}, Place.SAGA_LOG),
        ({"tampered": webhooks.ACKNOWLEDGED}, Place.GATEWAY),
        ({"statuses": {**DELIVERED.statuses, "forged": [500]}}, Place.GATEWAY),
        ({"statuses": {**DELIVERED.statuses, "stale": []}}, Place.GATEWAY),
        (
            {"statuses": {**DELIVERED.statuses, "true": [webhooks.ACKNOWLEDGED, 409]}},
            Place.GATEWAY,
        ),
        (
            {"order": replace(ORDER, movements=[*ORDER.movements, moved("capture")])},
            Place.GATEWAY,
        ),
        ({"put_aside": (10, 0)}, Place.STOCK),
        ({"order": replace(ORDER, reserved=1)}, Place.STOCK),
        ({"order": replace(ORDER, lines=lines("saga.completed"))}, Place.LOGS),
        ({"refused": [400, 400]}, Place.LOGS),
    ],
)
def test_a_webhook_that_is_believed_or_heard_twice_is_seen(
    wrong: dict[str, Any], place: Place
) -> None:
    assert red(webhooks.expectations(replace(DELIVERED, **wrong))) == {place}


SUMMARY = {each.value: 0 for each in T} | {
    "matched": 7,
    "unjudged": 0,
    "missing_internal": 1,
    "missing_gateway": 1,
    "amount_mismatch": 1,
}
RECONCILED = ReconciliationEvidence(
    waited=State.WAITING,
    states=dict.fromkeys(KEYS, State.COMPLETED),
    outcomes=["waits for payment_authenticated", "succeeded"],
    exit_code=8,
    summary=SUMMARY,
    lines=10,
    found=[
        ("amount_mismatch", ALTERED, "told a person"),
        ("missing_gateway", MISSING, "told a person"),
        ("missing_internal", LOST, "signalled payment_authenticated"),
    ],
    kept=dict.fromkeys(KEYS, PRICE_MINOR),
    levels=dict.fromkeys(KEYS, (9, 0)),
    alerted=["amount_mismatch", "missing_gateway"],
    events=["step.waiting", "saga.completed"],
)


def test_three_discrepancies_and_no_more_leave_no_cell_red() -> None:
    assert red(reconciliation.expectations(RECONCILED)) == set()


@pytest.mark.parametrize(
    ("wrong", "places"),
    [
        ({"waited": State.COMPLETED}, {Place.SAGA_LOG}),
        ({"states": {**RECONCILED.states, LOST: State.COMPENSATED}}, {Place.SAGA_LOG}),
        ({"found": RECONCILED.found[:2]}, {Place.SAGA_LOG}),
        ({"found": [*RECONCILED.found, RECONCILED.found[0]]}, {Place.SAGA_LOG}),
        (
            {"found": [*RECONCILED.found[:2], ("missing_internal", None, "told a person")]},
            {Place.SAGA_LOG},
        ),
        ({"summary": {**SUMMARY, "matched": 6}}, {Place.GATEWAY}),
        ({"summary": {**SUMMARY, "unjudged": 1}}, {Place.GATEWAY}),
        ({"summary": {}}, {Place.GATEWAY, Place.LOGS}),
        ({"kept": {**RECONCILED.kept, LOST: 0}}, {Place.GATEWAY}),
        ({"levels": {**RECONCILED.levels, MISSING: (10, 0)}}, {Place.STOCK}),
        ({"exit_code": 0}, {Place.LOGS}),
        ({"summary": {**SUMMARY, "duplicate_gateway": 1}}, {Place.LOGS}),
        ({"alerted": ["missing_gateway"]}, {Place.LOGS}),
        ({"events": []}, {Place.LOGS}),
    ],
)
def test_a_discrepancy_that_is_not_found_or_not_planted_is_seen(
    wrong: dict[str, Any], places: set[Place]
) -> None:
    assert red(reconciliation.expectations(replace(RECONCILED, **wrong))) == places


@pytest.mark.parametrize("hour", range(0, 24, 5))
def test_the_day_ends_at_the_moment_that_was_asked_for(tmp_path: Path, hour: int) -> None:
    midnight = next_second(datetime(2026, 11, 24, hour, 17, 43, 5, tzinfo=UTC))
    ended = ending_at(midnight, tmp_path)
    before = TZPATH
    reset_tzpath(ended.zones.split(":"))
    try:
        there = ZoneInfo.no_cache(ZONE)
    finally:
        reset_tzpath(before)

    assert midnight - timedelta(seconds=1) < midnight
    assert midnight.astimezone(there).time() == datetime.min.time()
    assert (midnight - timedelta(seconds=1)).astimezone(there).date() == ended.day
    assert abs(ended.day - date(2026, 11, 24)) <= timedelta(days=1)


def test_what_the_command_printed_is_read_from_its_log(tmp_path: Path) -> None:
    log = tmp_path / "reconcile.log"
    log.write_text("not JSON\n[1]\n" + json.dumps({"gateway": "sandbox", **SUMMARY}) + "\n")

    assert reconciliation._summary(log) == SUMMARY
