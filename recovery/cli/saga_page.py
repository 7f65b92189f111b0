"""One saga as a person reads it: what it is, every attempt of it, and what it waits for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from orchestrator.definition import SagaDefinition
from orchestrator.entries import Json, Recorded, SagaParked, SagaStarted
from orchestrator.storage.reads import AttemptRow, SagaSummary
from recovery.cli.output import instant
from recovery.cli.saga_values import saga_values
from recovery.cli.shown_payload import shown
from recovery.timeline import Line, timeline


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaPage:
    """Everything `amends show` prints.

    `attempts` run or are scheduled; `question` is what a parked saga asks.
    """

    saga: SagaSummary
    payload: Json
    lines: Sequence[Line]
    attempts: Sequence[AttemptRow]
    question: SagaParked | None

    @classmethod
    def of(
        cls,
        saga: SagaSummary,
        entries: Sequence[Recorded],
        attempts: Sequence[AttemptRow],
        definition: SagaDefinition[Any] | None,
    ) -> Self:
        """Put the page together from what the database holds."""
        parked = [each.entry for each in entries if isinstance(each.entry, SagaParked)]
        started = [each.entry for each in entries if isinstance(each.entry, SagaStarted)]
        return cls(
            saga=saga,
            payload=shown(started[0].payload, definition) if started else None,
            lines=timeline(entries),
            attempts=attempts,
            question=parked[-1] if saga.is_parked and parked else None,
        )

    def as_json(self) -> dict[str, Any]:
        """Return the page as one object."""
        return {
            **saga_values(self.saga),
            "payload": self.payload,
            "timeline": [asdict(each) for each in self.lines],
            "attempts": [asdict(each) for each in self.attempts],
            "question": None if self.question is None else asdict(self.question),
        }

    def as_text(self) -> str:
        """Return the page as lines to read."""
        saga = self.saga
        lines = [
            f"{saga.definition} v{saga.version}  {saga.key}  {saga.id}",
            f"state    {saga.state} since {instant(saga.updated_at)}",
            f"started  {instant(saga.created_at)}",
        ]
        if saga.deadline_at is not None and not saga.is_terminal:
            lines.append(f"deadline {instant(saga.deadline_at)}")
        lines.append(f"payload  {json.dumps(self.payload, ensure_ascii=False)}")
        lines += ["", *_columns([_texts(each) for each in self.lines])]
        if self.attempts:
            lines += ["", "attempts", *(f"  {_attempt(each)}" for each in self.attempts)]
        if self.question is not None:
            lines += ["", f"parked: {self.question.reason}", f"  {self.question.question}"]
        return "\n".join(lines)


def _texts(line: Line) -> tuple[str, ...]:
    took = "" if line.took is None else f"{line.took.total_seconds():.3f} s"
    number = "" if line.attempt is None else f"#{line.attempt}"
    what = "undo" if line.direction == "compensate" else line.direction or ""
    return (instant(line.at), what, line.step or "", number, line.outcome, took, line.detail or "")


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _attempt(row: AttemptRow) -> str:
    what = f"{row.direction} {row.step} #{row.number} (queue {row.queue})"
    if row.owner is None or row.lease_until is None:
        return f"{what}: due {instant(row.due_at)}, not claimed"
    return f"{what}: held by {row.owner} until {instant(row.lease_until)}"
