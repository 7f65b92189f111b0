"""A move as the first version has it: things are packed and driven, and the bill is posted."""

from __future__ import annotations

from orchestrator.definition import SagaDefinition
from tests.outside_world import Job, doing

MOVE = SagaDefinition(
    name="move",
    version=1,
    payload=Job,
    attributes=["number"],
    steps=[doing("pack"), doing("drive", pivot=True), doing("post", retriable=True)],
)
