"""Steps that only wait: for a signal, or for a while. No worker is held meanwhile."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from orchestrator.context import StepContext
from orchestrator.definition import Step, step
from orchestrator.entries import Json
from orchestrator.errors import Terminal, Wait


def wait_for(signal: str, *, within: timedelta, name: str | None = None, **options: Any) -> Step:
    """Describe a step that waits for a signal; its result is the signal's payload.

    When it does not come in time the step fails for good, and the saga is taken back.

    Args:
        signal: the name under which `SagaClient.signal` is told of it.
        name: the step's; else the signal's.
        options: as those of `step`.
    """

    def run(ctx: StepContext[Any]) -> Json:
        if not ctx.waited:
            raise Wait(signal, ctx.now + within)
        if not ctx.signalled:
            raise Terminal(f"{signal} did not come within {within}", code="not_signalled")
        return ctx.signal

    return step(name or signal, run, read_only=True, **options)


def sleep(name: str, duration: timedelta, **options: Any) -> Step:
    """Describe a step that lets time pass, however often workers come and go meanwhile.

    Args:
        options: as those of `step`.
    """

    def run(ctx: StepContext[Any]) -> None:
        if not ctx.waited:
            raise Wait(None, ctx.now + duration)

    return step(name, run, read_only=True, **options)
