"""What one order left behind, as plain values: its log, the gateway's books, stock, log lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from orchestrator.entries import (
    Direction,
    Entry,
    StepFailed,
    StepSucceeded,
    StepUnknown,
    StepWaiting,
)
from orchestrator.state import PARKED, TERMINAL, State
from recovery.demo.scenarios.order import level_of
from recovery.demo.stage import DemoError, Stage, wait_for
from steps.gateways.sandbox.judge import LedgerRow, RequestRow

END_SECONDS: Final = 60.0
LINE_SECONDS: Final = 15.0

_LOGGED_ENDS: Final = frozenset({"saga.completed", "saga.compensated", "saga.parked"})


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderEvidence:
    """One order, once its saga has ended.

    Attributes:
        sagas: how many sagas its key names.
        movements: what moved at the gateway and the carrier.
        requests: what they were asked, lookups left out.
        on_hand, reserved: of its article, of which there were `order.UNITS`.
        lines: every process's log lines about it, as they were written.
    """

    sagas: int
    state: State
    entries: Sequence[Entry]
    movements: Sequence[LedgerRow]
    requests: Sequence[RequestRow]
    on_hand: int
    reserved: int
    lines: Sequence[Mapping[str, Any]]

    def outcomes(self, step: str, direction: Direction = Direction.FORWARD) -> list[str]:
        """How each attempt of a step ended, in order; a failure by its error's class."""
        return [
            _said(each)
            for each in self.entries
            if isinstance(each, StepSucceeded | StepFailed | StepUnknown | StepWaiting)
            and (each.step, each.direction) == (step, direction)
        ]

    def moved(self) -> list[tuple[str, int]]:
        """What moved, in order, with minor units."""
        return [(each.operation, each.amount_minor) for each in self.movements]

    def events(self, *names: str) -> list[str]:
        """The events of the log lines about it, in order; only those named, if any are."""
        told = [str(each.get("event")) for each in self.lines]
        return [each for each in told if not names or each in names]

    def answers(self, operation: str) -> list[int | None]:
        """The HTTP status of each request for an operation, in order."""
        return [each.status for each in self.requests if each.operation == operation]

    def keys(self, operation: str) -> int:
        """How many idempotency keys an operation was asked for under."""
        return len({each.key for each in self.requests if each.operation == operation})


def ended(stage: Stage, saga_id: UUID) -> State:
    """Wait until the saga stays where it is, and return its state.

    Raises:
        DemoError: it has not within `END_SECONDS`.
    """
    state = State.RUNNING

    def stays() -> bool:
        nonlocal state
        state = stage.client.get(saga_id).state
        return state in TERMINAL or state in PARKED

    if not wait_for(stays, END_SECONDS):
        raise DemoError(f"saga {saga_id} is still {state} after {END_SECONDS:g} s")
    return state


def waits(stage: Stage, saga_id: UUID) -> None:
    """Return when the saga waits.

    Raises:
        DemoError: it does not within `END_SECONDS`.
    """
    if not wait_for(lambda: stage.client.get(saga_id).state is State.WAITING, END_SECONDS):
        raise DemoError(f"saga {saga_id} does not wait, but is {stage.client.get(saga_id).state}")


def challenged(stage: Stage, key: str) -> str:
    """Return the gateway's reference of the payment whose payer has to pass a challenge."""
    for each in stage.judge.movements():
        if each.order_reference == key and each.answer == "requires_action":
            assert each.payment_reference is not None, "a challenge belongs to a payment"
            return each.payment_reference
    raise DemoError(f"the gateway asks no payer of {key} for a challenge")


def of_order(stage: Stage, saga_id: UUID) -> OrderEvidence:
    """Wait for the end of an order's saga, and for the log line about it; then read everything."""
    state = ended(stage, saga_id)
    key = stage.client.get(saga_id).key

    def end_is_told() -> bool:
        return any(each.get("event") in _LOGGED_ENDS for each in lines_about(stage.directory, key))

    wait_for(end_is_told, LINE_SECONDS)  # without it, the log's cell will say so
    level = level_of(stage, key)
    return OrderEvidence(
        sagas=len(stage.client.find(key=key)),
        state=state,
        entries=[each.entry for each in stage.log.entries(saga_id)],
        movements=stage.judge.effects(key),
        requests=[
            each
            for each in stage.judge.requests()
            if each.order_reference == key and each.operation not in ("find", "list")
        ],
        on_hand=level.on_hand,
        reserved=level.reserved,
        lines=lines_about(stage.directory, key),
    )


def lines_about(directory: Path, key: str) -> list[Mapping[str, Any]]:
    """Every log line of the deployment's processes about one saga key, by time."""
    found = [each for each in all_lines(directory) if each.get("key") == key]
    return sorted(found, key=lambda line: str(line.get("timestamp")))


def all_lines(directory: Path) -> Iterator[Mapping[str, Any]]:
    """Yield every structured log line of the deployment's processes."""
    for path in sorted(directory.glob("*.log")):
        for text in path.read_text(errors="replace").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue  # Postgres and Valkey write no JSON, and a line may be half written
            if isinstance(line, dict):
                yield line


def _said(outcome: StepSucceeded | StepFailed | StepUnknown | StepWaiting) -> str:
    match outcome:
        case StepSucceeded():
            return "succeeded"
        case StepWaiting(signal=signal):
            return f"waits for {signal}"
        case StepFailed(error=error):
            return str(error.get("type"))
        case StepUnknown(reason=reason, error=error):
            return str(error.get("type")) if error else reason
