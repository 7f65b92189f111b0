"""Steps whose behaviour a test sets, and sagas of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from orchestrator.context import StepContext
from orchestrator.errors import Terminal
from tests.integration.engine import Engine

Behave = Callable[[StepContext[Any]], Any]


class Scripted:
    """Steps whose behaviour a test sets; every call is noted."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, int]] = []
        self.keys: list[str] = []
        self.behave: dict[tuple[str, str], Behave] = {}

    def __call__(self, context: StepContext[Any]) -> Any:
        self.calls.append((context.step, context.direction, context.attempt))
        self.keys.append(context.idempotency_key)
        behave = self.behave.get((context.step, context.direction))
        return None if behave is None else behave(context)

    def on(self, step: str, behave: Behave, direction: str = "forward") -> None:
        self.behave[step, direction] = behave


def start(engine: Engine, name: str = "shop", key: str = "order-1") -> Any:
    return engine.client.start(name, {"amount": 1}, key=key).id


def declined(_context: StepContext[Any]) -> None:
    raise Terminal("declined", decisive=True)


def taken_away(engine: Engine, saga_id: Any) -> Any:
    """A claim that was given up while its worker still believes in it."""
    claim = engine.claim(saga_id)
    assert engine.gives_up(claim)
    return claim
