"""JSON on its way into a column: the last place where card data can be kept from being stored."""

from __future__ import annotations

import json

from orchestrator.entries import Json
from orchestrator.instrumentation import emit
from orchestrator.redaction.text import card_data
from orchestrator.redaction.values import without_card_data


def document(value: Json) -> str:
    """Return `value` as JSON text without card data; tell observers where there was any.

    What callers send was refused before, and what steps return was hidden: nothing should be found
    here. One look at the whole text is a few microseconds.
    """
    text = _dumps(value)
    if not card_data(text):
        return text
    shown, places = without_card_data(value)
    if not places:
        return text  # two values beside each other only looked like one
    emit("redaction.applied", places=places)
    return _dumps(shown)


def _dumps(value: Json) -> str:
    return json.dumps(value, separators=(",", ":"))
