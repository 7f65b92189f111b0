"""What an alert tells a person."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from orchestrator.entries import Recorded, SagaStarted, StepSucceeded
from orchestrator.storage.alerts import Alert, AlertKind
from recovery.alerts.message import message
from tests.histories import MORNING

SAGA = UUID("00000000-0000-4000-8000-000000000001")
OF_SAGA = {"saga": "checkout", "key": "A-1", "state": "stuck"}
DATA: dict[AlertKind, dict[str, Any]] = {
    AlertKind.SAGA_PARKED: OF_SAGA | {"reason": "unknown", "question": "Did it?", "steps": ["pay"]},
    AlertKind.UNKNOWN_TOO_LONG: OF_SAGA | {"step": "pay", "direction": "forward", "since": "09:00"},
    AlertKind.SAGA_OVERDUE: OF_SAGA | {"due_at": "09:00"},
    AlertKind.SWEEPER_SILENT: {"last_seen_at": None},
    AlertKind.QUEUE_UNSERVED: {
        "queue": "pay",
        "attempts": 2,
        "served_by": 0,
        "question": "Is one running?",
        "next": "amends worker -Q pay",
    },
    AlertKind.LATE_EFFECT: OF_SAGA | {"step": "pay", "question": "Is it put right?"},
    AlertKind.DISCREPANCY: OF_SAGA
    | {"reason": "missing_gateway", "question": "Did it?", "next": "amends discrepancies"},
}


def alert(kind: AlertKind) -> Alert:
    is_of_saga = kind not in (AlertKind.SWEEPER_SILENT, AlertKind.QUEUE_UNSERVED)
    return Alert(
        id=UUID(int=7),
        kind=kind,
        about="x",
        saga_id=SAGA if is_of_saga else None,
        data=DATA[kind],
        raised_at=MORNING,
        due_at=MORNING,
        send_count=1,
        sent_at=None,
        last_error=None,
        closed_at=None,
        closed_by=None,
    )


ENTRIES = [
    Recorded(
        seq=1, at=MORNING, entry=SagaStarted(payload={"card": "4242424242424242", "name": "Ada"})
    ),
    Recorded(
        seq=2,
        at=MORNING,
        entry=StepSucceeded(
            step="pay",
            direction="forward",
            attempt=1,
            result={"secret": "Ada"},
            movements=[{"kind": "authorize", "amount_minor": 1990, "currency": "EUR"}],
        ),
    ),
]


def test_a_parked_saga_tells_where_what_how_much_and_what_to_do() -> None:
    told = message(alert(AlertKind.SAGA_PARKED), ENTRIES)
    assert told == {
        "type": "amends.saga_parked",
        "timestamp": "2026-11-24T09:00:00Z",
        "data": {
            "id": "00000000-0000-0000-0000-000000000007",
            "kind": "saga_parked",
            "saga_id": str(SAGA),
            "saga": "checkout",
            "key": "A-1",
            "state": "stuck",
            "reason": "unknown",
            "question": "Did it?",
            "money_at_risk": {"EUR": {"held_minor": 1990, "captured_minor": 0}},
            "next": f"amends show {SAGA}",
        },
    }


@pytest.mark.parametrize("kind", AlertKind)
def test_every_kind_has_a_question_and_a_next_command(kind: AlertKind) -> None:
    data = message(alert(kind), ENTRIES)["data"]
    assert "?" in data["question"]
    assert "None" not in data["question"]
    assert data["next"].startswith("amends ")


@pytest.mark.parametrize("kind", AlertKind)
def test_nothing_of_the_payload_or_of_a_result_leaves(kind: AlertKind) -> None:
    text = json.dumps(message(alert(kind), ENTRIES))
    assert "4242" not in text
    assert "Ada" not in text


def test_a_card_number_in_a_question_does_not_leave() -> None:
    asked = replace(
        alert(AlertKind.SAGA_PARKED),
        data=DATA[AlertKind.SAGA_PARKED] | {"question": "Was 4242424242424242 charged?"},
    )
    question = message(asked, ENTRIES)["data"]["question"]
    assert question.startswith("Was ")
    assert "4242424242424242" not in question


def test_a_log_that_cannot_be_read_leaves_the_amount_open() -> None:
    assert message(alert(AlertKind.SAGA_PARKED), None)["data"]["money_at_risk"] is None
