"""Sagas whose step never returns, as one that calls somebody without a timeout."""

from __future__ import annotations

import ctypes
import os
import threading
from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel

from orchestrator.context import CannotTell, StepContext
from orchestrator.definition import Retry, SagaDefinition, step

_SLOW = Retry(base=timedelta(hours=1), cap=timedelta(hours=1))


class Place(BaseModel):
    """Where its step leaves a mark before it hangs."""

    directory: str


def _hang(context: StepContext[Place]) -> None:
    mark = f"hang.{context.saga_id}.{context.attempt}"
    (Path(context.payload.directory) / mark).write_text(str(os.getpid()))
    threading.Event().wait()


def _spin(context: StepContext[Place]) -> None:
    """Sleep without letting the interpreter go, as a C extension can."""
    mark = Path(context.payload.directory) / "spin"
    if not mark.exists():
        mark.write_text(str(os.getpid()))
        ctypes.PyDLL(None).sleep(600)


def _ask(_: StepContext[Place]) -> CannotTell:
    return CannotTell()


def _saga(name: str, function: object) -> SagaDefinition[Place]:
    return SagaDefinition(
        name=name,
        version=1,
        payload=Place,
        steps=[
            step(
                "hang",
                function,  # type: ignore[arg-type]
                no_compensation="none, it never gets that far",
                timeout=timedelta(seconds=1.5),
                retry=_SLOW,
            )
        ],
    )


HANGING = _saga("hanging", _hang)
SPINNING = _saga("spinning", _spin)
