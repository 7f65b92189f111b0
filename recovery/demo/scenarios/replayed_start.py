"""The same order is started twice, and once with another price under its key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from orchestrator.errors import AmendsError, IdempotencyConflictError
from orchestrator.state import State
from recovery.demo.scenarios import over_http
from recovery.demo.scenarios.evidence import OrderEvidence, of_order
from recovery.demo.scenarios.order import PRICE_MINOR, UNITS, stocked
from recovery.demo.scenarios.table import Expectation, in_ledger, in_logs, in_saga_log, in_stock
from recovery.demo.stage import Stage

TITLE: Final = "idempotent replay"
KEY: Final = "S-2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Starts:
    """What each start was answered: the saga's id and whether it was created, or a refusal."""

    answers: Sequence[tuple[str, bool]]
    refusals: Sequence[str]


def play(stage: Stage) -> list[Expectation]:
    """Start it twice, once more over HTTP, again when it has ended; then at half the price."""
    payload = stocked(stage, KEY)
    answers = [_started(stage, payload), _started(stage, payload), _started_by_http(stage, payload)]
    saga_id = UUID(answers[0][0])
    of_order(stage, saga_id)
    answers += [_started(stage, payload), _started_by_http(stage, payload)]
    cheaper = payload | {"amount_minor": PRICE_MINOR // 2}
    refused = over_http.start(stage, cheaper, key=KEY, request="other")
    refusals = [_refusal(stage, cheaper), f"{refused.status} {refused.code}"]
    return expectations(of_order(stage, saga_id), Starts(answers=answers, refusals=refusals))


def expectations(found: OrderEvidence, starts: Starts) -> list[Expectation]:
    """Compare what was found with what was promised."""
    return [
        in_saga_log(
            "five starts, two of them over HTTP: one saga",
            seen=(
                [created for _, created in starts.answers],
                len({saga_id for saga_id, _ in starts.answers}),
                found.sagas,
            ),
            expected=([True, False, False, False, False], 1, 1),
        ),
        in_saga_log("completed", seen=found.state, expected=State.COMPLETED),
        in_saga_log(
            "another price: IdempotencyConflictError, over HTTP 422",
            seen=list(starts.refusals),
            expected=[IdempotencyConflictError.__name__, "422 saga_key_reused"],
        ),
        in_ledger(
            "one charge of 19.90 EUR, asked for once",
            seen=(found.moved(), found.answers("capture")),
            expected=(
                [("authorize", PRICE_MINOR), ("capture", PRICE_MINOR), ("ship", 0)],
                [200],
            ),
        ),
        in_stock(
            "1 of 10 shipped, none put aside",
            seen=(found.on_hand, found.reserved),
            expected=(UNITS - 1, 0),
        ),
        in_logs(
            "one end, no failure",
            seen=found.events("step.failed", "step.unknown", "saga.completed"),
            expected=["saga.completed"],
        ),
    ]


def _started(stage: Stage, payload: dict[str, Any]) -> tuple[str, bool]:
    started = stage.client.start("checkout", payload, key=KEY)
    return str(started.id), started.created


def _started_by_http(stage: Stage, payload: dict[str, Any]) -> tuple[str, bool]:
    """Always the same request: its first answer comes again."""
    answer = over_http.start(stage, payload, key=KEY, request="same")
    return str(answer.body.get("id")), bool(answer.body.get("created", True))


def _refusal(stage: Stage, payload: dict[str, Any]) -> str:
    """The class of the error, or that there was none."""
    try:
        stage.client.start("checkout", payload, key=KEY)
    except AmendsError as error:
        return type(error).__name__
    return "let in"
