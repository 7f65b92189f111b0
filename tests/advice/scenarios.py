"""How a saga comes to be parked for each reason, and what is mended before anybody acts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orchestrator.state_machine
from orchestrator.entries import LateOutcomeRecorded
from orchestrator.storage.database import Database
from orchestrator.storage.retention import Retention
from tests.advice.bank import BANK
from tests.ended_sagas import old, prune
from tests.integration.engine import Engine
from tests.integration.test_one_sagas_trouble import forge

Parks = Callable[[Engine], UUID]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A saga that is parked, and how it should end when what is recommended is done.

    Args:
        reason: for which it is parked.
        case: what went wrong, in words.
        parks: brings it about.
        ends: as what it is to end.
        is_unknown_here: the desk has not its definition at first.
        is_by_persons: operators have database roles of their own.
    """

    reason: str
    case: str
    parks: Parks
    ends: str
    is_unknown_here: bool = False
    is_by_persons: bool = False


def parked(engine: Engine, name: str, trouble: dict[str, str], *, cancels: bool = False) -> UUID:
    """Start a saga and run it until it parks; `cancels` has it taken back once it has paid."""
    saga_id = engine.client.start(name, {"amount": 1}, key=f"{name}-1").id
    if cancels:
        while not BANK.done("pay"):
            engine.coordinator.execute(engine.claim(saga_id))
        engine.client.cancel(saga_id, reason="the customer called")
    BANK.trouble = trouble
    assert engine.finish(saga_id) in ("stuck", "failed_compensation")
    return saga_id


def _with(name: str, *, cancels: bool = False, **trouble: str) -> Parks:
    return lambda engine: parked(engine, name, trouble, cancels=cancels)


def _poisoned(engine: Engine) -> UUID:
    """Its step takes two workers down, and did nothing."""
    saga_id = engine.client.start("plain", {"amount": 1}, key="plain-1").id
    while not engine.client.get(saga_id).is_parked:
        engine.coordinator.mover.look(saga_id)
        engine.gives_up(engine.claim(saga_id))
    return saga_id


def _not_closed(engine: Engine) -> UUID:
    BANK.closes = False
    return parked(engine, "plain", {})


def _child(engine: Engine) -> UUID:
    """A parent whose child is stuck with it."""
    saga_id = engine.client.start("parent", {"amount": 1}, key="parent-1").id
    BANK.trouble = {"pay": "lost"}
    engine.work()
    child = engine.client.child_of(saga_id, "buy")
    assert child is not None
    assert engine.finish(child.id) == "stuck"
    assert engine.finish(saga_id) == "stuck"
    return saga_id


def _pruned(engine: Engine) -> UUID:
    saga_id = old(engine, "order-1")
    prune(Retention(Database(engine.pool)))
    late = LateOutcomeRecorded(
        step="pay", direction="forward", attempt=2, outcome="succeeded", reference="late-1"
    )
    engine.coordinator.mover.keep_late(saga_id, late)
    return saga_id


def _undecidable(engine: Engine) -> UUID:
    saga_id = engine.client.start("plain", {"amount": 1}, key="plain-1").id
    with _bug():
        engine.bell.messages.clear()
        engine.coordinator.mover.look(saga_id)
    return saga_id


@contextmanager
def _bug() -> Iterator[None]:
    """A worker's release in which deciding raises; it is mended when this is left."""
    module: Any = orchestrator.state_machine
    rule = module.going_forward

    def raises(*_: Any) -> Any:
        raise ZeroDivisionError("a bug")

    module.going_forward = raises
    try:
        yield
    finally:
        module.going_forward = rule


def _forged(engine: Engine) -> UUID:
    saga_id = engine.client.start("plain", {"amount": 1}, key="plain-1").id
    forge(engine, saga_id, "SagaCompleted", {})
    engine.work()
    return saga_id


def _payload(engine: Engine) -> UUID:
    saga_id = engine.client.start("plain", {"amount": 1}, key="plain-1").id
    BANK.strict = True
    engine.work()
    return saga_id


SCENARIOS = [
    Scenario(
        reason="unknown",
        case="no answer, and there is nothing to ask with",
        parks=_with("plain", pay="lost"),
        ends="completed",
    ),
    Scenario(
        reason="unknown",
        case="no answer, and lookups were down",
        parks=_with("asked", pay="lost", lookups="down"),
        ends="completed",
    ),
    Scenario(
        reason="unknown",
        case="done, the answers were lost, and lookups were down",
        parks=_with("asked", pay="answer lost", lookups="down"),
        ends="completed",
    ),
    Scenario(
        reason="unknown",
        case="a kept 500, and lookups were down",
        parks=_with("asked", pay="keeps", lookups="down"),
        ends="completed",
    ),
    Scenario(
        reason="unknown",
        case="done, the answer was lost, and the key may not be used again",
        parks=_with("keyless", pay="answer lost"),
        ends="completed",
    ),
    Scenario(
        reason="unknown",
        case="the desk has not the definition",
        parks=_with("plain", pay="lost"),
        ends="completed",
        is_unknown_here=True,
    ),
    Scenario(reason="poison", case="two workers went down", parks=_poisoned, ends="completed"),
    Scenario(
        reason="failed_after_pivot",
        case="the other side was down",
        parks=_with("mailing", mail="down"),
        ends="completed",
    ),
    Scenario(
        reason="failed_after_pivot",
        case="refused for good under its key",
        parks=_with("mailing", mail="refuses"),
        ends="completed",
    ),
    Scenario(
        reason="compensation_exhausted",
        case="the bank was down",
        parks=_with("plain", cancels=True, refund="down"),
        ends="compensated",
    ),
    Scenario(
        reason="compensation_exhausted",
        case="refused for good under its key",
        parks=_with("plain", cancels=True, refund="refuses"),
        ends="compensated",
    ),
    Scenario(
        reason="compensation_exhausted",
        case="a kept 500, and there is nothing to ask with",
        parks=_with("plain", cancels=True, refund="keeps"),
        ends="compensated",
    ),
    Scenario(
        reason="compensation_exhausted",
        case="a kept 500, and lookups were down",
        parks=_with("asked", cancels=True, refund="keeps", lookups="down"),
        ends="compensated",
    ),
    Scenario(
        reason="compensation_exhausted",
        case="done, the answers were lost, and lookups were down",
        parks=_with("asked", cancels=True, refund="answer lost", lookups="down"),
        ends="compensated",
    ),
    Scenario(
        reason="closing_check",
        case="the ledger did not know the order",
        parks=_not_closed,
        ends="completed",
    ),
    Scenario(
        reason="closing_check",
        case="an accepted refund is pending for too long",
        parks=_with("plain", cancels=True, refund="pending"),
        ends="compensated",
    ),
    Scenario(reason="child_parked", case="its child is stuck", parks=_child, ends="completed"),
    Scenario(reason="undecidable", case="deciding raised", parks=_undecidable, ends="completed"),
    Scenario(reason="payload", case="its model took it no more", parks=_payload, ends="completed"),
    Scenario(
        reason="unreadable",
        case="somebody wrote into its log beside the engine",
        parks=_forged,
        ends="completed",
    ),
    Scenario(
        reason="unknown",
        case="not done, the key is old, nothing to ask with: two persons say it",
        parks=_with("keyless", pay="lost"),
        ends="resolved",
        is_by_persons=True,
    ),
    Scenario(
        reason="late_effect_on_pruned",
        case="an effect was heard of after the saga was pruned",
        parks=_pruned,
        ends="resolved",
    ),
]
