"""The seed's way of writing a saga down: step by step, then `build`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from orchestrator.definition import UNDO_RETRY, Retry, SagaDefinition, Step, step
from orchestrator.state import State

SagaState = State
"""The seed's name for a saga's states."""

P = TypeVar("P", bound=BaseModel)


class Saga(Generic[P]):
    """Builds a `SagaDefinition` step by step: ``Saga("checkout", ...).add_step(...).build()``."""

    def __init__(
        self,
        name: str,
        *,
        payload: type[P],
        version: int = 1,
        attributes: Sequence[str] = (),
        deadline: timedelta | None = None,
    ) -> None:
        self._definition: dict[str, Any] = {
            "name": name,
            "version": version,
            "payload": payload,
            "attributes": attributes,
            "deadline": deadline,
        }
        self._steps: list[Step] = []

    def add_step(
        self,
        name: str,
        action: Callable[..., Any],
        compensate: Callable[..., Any] | None = None,
        *,
        compensation_retries: int | None = None,
        **options: Any,
    ) -> Saga[P]:
        """Append a step and return this builder; `options` are those of `step`."""
        if compensation_retries is not None:
            options["undo_retry"] = Retry(
                max_attempts=compensation_retries + 1, base=UNDO_RETRY.base, cap=UNDO_RETRY.cap
            )
        self._steps.append(step(name, action, compensation=compensate, **options))
        return self

    def build(self) -> SagaDefinition[P]:
        """Return the frozen definition.

        Raises:
            DefinitionError: the definition is wrong; the message names the fix.
        """
        return SagaDefinition(**self._definition, steps=self._steps)
