"""The last look at JSON before it becomes a column."""

import json
from typing import Any

from orchestrator.instrumentation import observed
from orchestrator.storage.documents import document

CARD = "4242424242424242"


def written(value: Any) -> tuple[Any, list[Any]]:
    heard: list[Any] = []
    with observed(lambda event, fields: heard.append((event, fields["places"]))):
        return json.loads(document(value)), heard


def test_card_data_is_masked_and_told_of_in_valid_json() -> None:
    value = [["OperatorActed", {"reason": f"card {CARD}", "data": {"n": int(CARD)}}]]

    assert written(value) == (
        [["OperatorActed", {"reason": "card ************4242", "data": {"n": "************4242"}}]],
        [("redaction.applied", ["0.1.reason", "0.1.data.n"])],
    )


def test_everything_else_is_written_as_it_is() -> None:
    value = {"id": 6205500000000000004, "at": 1764000000.5, "token": "sk_live_abcd1234", "x": None}

    assert written(value) == (value, [])
