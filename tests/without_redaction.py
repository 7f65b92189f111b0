"""A worker that imports this lacks one protection: the one that the variable WITHOUT names."""

from __future__ import annotations

import os
from typing import Any

from orchestrator import instrumentation, outcomes, payloads
from orchestrator.storage import documents
from tests.leaky_sagas import LEAKY
from workers import redacted_request, telemetry

__all__ = ["LEAKY"]


def same(value: Any) -> Any:
    return value


def same_line(_logger: Any, _method: str, line: Any) -> Any:
    return line


def same_and_nowhere(value: Any) -> tuple[Any, list[str]]:
    return value, []


def nothing(*_: Any) -> list[Any]:
    return []


PROTECTIONS: dict[str, list[tuple[Any, str, Any]]] = {
    "": [],
    "outcomes": [
        (outcomes, "redact", same),
        (outcomes, "redact_dict", same),
        (outcomes, "without_card_data", same_and_nowhere),
        (documents, "card_data", nothing),
    ],
    "lines": [(telemetry, "redact_event", same_line), (telemetry, "redact_line", same_line)],
    "events": [
        (redacted_request, "redact", same),
        (redacted_request, "redact_dict", same),
        (instrumentation, "redact_dict", same),
    ],
    "door": [(payloads, "refuse_card_data", nothing), (documents, "card_data", nothing)],
}

for module, name, replacement in PROTECTIONS[os.environ.get("WITHOUT", "")]:
    assert hasattr(module, name)
    setattr(module, name, replacement)
