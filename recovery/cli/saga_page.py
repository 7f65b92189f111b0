"""One saga as a person reads it: what it is, every attempt of it, and what it waits for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from orchestrator.definition import SagaDefinition
from orchestrator.entries import Json, Recorded, SagaMigrated, SagaParked, SagaStarted
from orchestrator.money_at_risk import MoneyAtRisk, money_at_risk
from orchestrator.shown_payload import shown
from orchestrator.state import PendingAssertion
from orchestrator.storage.reads import AttemptRow, SagaSummary
from orchestrator.storage.signals import Undelivered
from recovery.cli.output import instant
from recovery.cli.preview_page import money_text
from recovery.cli.saga_values import saga_values
from recovery.operator.recommending import Advice
from recovery.timeline import Line, timeline


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaPage:
    """Everything `amends show` prints.

    `replay_of` is the id of the saga whose work it does again; `attempts` run or are scheduled;
    `inbox` holds the signals that it has not heard; `question` is what a parked saga asks; `advice`
    is what may be done about it, best first. `assertions` wait for a second person.
    """

    saga: SagaSummary
    replay_of: str | None
    payload: Json
    lines: Sequence[Line]
    attempts: Sequence[AttemptRow]
    inbox: Sequence[Undelivered]
    question: SagaParked | None
    money: Mapping[str, MoneyAtRisk]
    advice: Sequence[Advice]
    assertions: Sequence[PendingAssertion] = ()

    @classmethod
    def of(
        cls,
        saga: SagaSummary,
        entries: Sequence[Recorded],
        attempts: Sequence[AttemptRow],
        inbox: Sequence[Undelivered],
        definition: SagaDefinition[Any] | None,
        advice: Sequence[Advice],
        assertions: Sequence[PendingAssertion] = (),
    ) -> Self:
        """Put the page together from what the database holds."""
        parked = [each.entry for each in entries if isinstance(each.entry, SagaParked)]
        begun = [e.entry for e in entries if isinstance(e.entry, SagaStarted | SagaMigrated)]
        first = begun[0] if begun else None
        return cls(
            saga=saga,
            replay_of=first.replay_of if isinstance(first, SagaStarted) else None,
            payload=shown(begun[-1].payload, definition) if begun else None,
            lines=timeline(entries),
            attempts=attempts,
            inbox=inbox,
            question=parked[-1] if saga.is_parked and parked else None,
            money=_money(entries),
            advice=advice,
            assertions=assertions,
        )

    def as_json(self) -> dict[str, Any]:
        """Return the page as one object."""
        return {
            **saga_values(self.saga),
            "replay_of": self.replay_of,
            "payload": self.payload,
            "timeline": [asdict(each) for each in self.lines],
            "attempts": [asdict(each) for each in self.attempts],
            "inbox": [asdict(each) for each in self.inbox],
            "question": None if self.question is None else asdict(self.question),
            "money_at_risk": {name: asdict(each) for name, each in self.money.items()},
            "assertions": [asdict(each) for each in self.assertions],
            "recommended": [asdict(each) for each in self.advice],
        }

    def as_text(self) -> str:
        """Return the page as lines to read."""
        saga = self.saga
        lines = [
            f"{saga.definition} v{saga.version}  {saga.key}  {saga.id}",
            f"state    {saga.state} since {instant(saga.updated_at)}",
            f"started  {instant(saga.created_at)}",
            f"seq      {saga.seq}",
            *([f"replay   of {self.replay_of}"] if self.replay_of else []),
        ]
        if saga.deadline_at is not None and not saga.is_terminal:
            lines.append(f"deadline {instant(saga.deadline_at)}")
        lines.append(f"payload  {json.dumps(self.payload, ensure_ascii=False)}")
        lines += ["", *_columns([_texts(each) for each in self.lines])]
        if self.attempts:
            lines += ["", "attempts", *(f"  {_attempt(each)}" for each in self.attempts)]
        if self.inbox:
            why = ", and it has ended" if saga.is_terminal else ""
            lines += ["", f"signals that it has not heard{why}"]
            lines += [
                f"  {instant(each.received_at)}  {each.name}  {each.dedup_id}"
                for each in self.inbox
            ]
        if self.question is not None:
            lines += ["", *self._asked(self.question)]
        if self.assertions:
            lines += ["", "said, and to be confirmed by a second person"]
            lines += [line for each in self.assertions for line in _assertion(each)]
        if self.advice:
            lines += ["", "what may be done", *(each for one in self.advice for each in _told(one))]
        return "\n".join(lines)

    def _asked(self, parked: SagaParked) -> list[str]:
        lines = [f"parked: {parked.reason}", f"  {parked.question}"]
        if parked.steps:
            lines.append(f"  outstanding: {', '.join(parked.steps)}")
        lines.append(f"  money at risk, by the log: {money_text(self.money) or 'none'}")
        return lines


def _assertion(assertion: PendingAssertion) -> list[str]:
    what = " ".join([assertion.verb, *([assertion.step] if assertion.step else [])])
    words = {
        name: value
        for name, value in assertion.words.items()
        if name != "step" and value not in (None, [], False)
    }
    return [
        f"  {what}{f' {json.dumps(words, ensure_ascii=False)}' if words else ''}",
        (
            f"    by {assertion.actor} ({assertion.identity}), until {instant(assertion.until)}: "
            f"{assertion.reason}"
        ),
        f"    {assertion.why}",
    ]


def _money(entries: Sequence[Recorded]) -> Mapping[str, MoneyAtRisk]:
    """What the log says is at risk; nothing where it is damaged: then the question says that."""
    try:
        return money_at_risk(entries)
    except Exception:  # noqa: BLE001 - whatever a damaged entry raises
        return {}


def _told(advice: Advice) -> list[str]:
    early = f"; from {instant(advice.possible_from)} on" if advice.possible_from else ""
    return [f"  {advice.why}{early}", f"    {advice.command}"]


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
