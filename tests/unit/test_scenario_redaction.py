"""Card numbers that are found or let in make their cell red, however they are written."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.redaction import redact
from orchestrator.state import State
from recovery.demo.scenarios import redaction
from recovery.demo.scenarios.planted import card, found_in, grouped, masked, readable
from recovery.demo.scenarios.redaction import RedactionEvidence
from recovery.demo.scenarios.spilling import IN_LOGS, IN_TABLES
from recovery.demo.scenarios.table import Place
from tests.unit.scenarios import red

NOTHING: dict[str, list[str]] = {
    kind: [] for kind in ("tables", "broker", "logs", "ledger", "files")
}
HIDDEN = RedactionEvidence(
    refused={
        **dict.fromkeys(redaction.DOORS, "CardNumberError"),
        **dict.fromkeys(redaction.HTTP_DOORS, "422 card_data"),
    },
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
    assert red(redaction.expectations(HIDDEN)) == set()


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ({"refused": {**HIDDEN.refused, "a signal": "let in"}}, Place.SAGA_LOG),
        ({"refused": {}}, Place.SAGA_LOG),
        ({"refused": {**HIDDEN.refused, "a webhook's body": "200 None"}}, Place.SAGA_LOG),
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
    assert red(redaction.expectations(replace(HIDDEN, **wrong))) == {place}


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
