"""What the state machine asks for next: plain values that the coordinator carries out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from orchestrator.entries import Direction


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStep:
    """Have one attempt run.

    Args:
        not_before: when it becomes due; None means at once.
        alone: nothing else may run in the process meanwhile, since earlier attempts took theirs
            down.
    """

    step: str
    direction: Direction
    attempt: int
    not_before: datetime | None = None
    alone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitSignal:
    """Hold no worker until the signal arrives or the moment passes; a timer has no signal."""

    step: str
    signal: str | None
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitLock:
    """Begin only when the lock is granted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitClosing:
    """End only later: something is not settled yet at the other side."""

    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Settle:
    """Take the step, or its undo, up to that attempt, for not landed.

    Its probe said so twice, late enough.
    """

    step: str
    attempt: int
    direction: Direction = Direction.FORWARD


@dataclass(frozen=True, slots=True, kw_only=True)
class RefuseCancel:
    """Answer a cancel that came after the point of no return."""

    pivot: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StartUnwinding:
    """Turn the saga round; from here on it only undoes."""

    cause: str
    step: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SkipUndo:
    """Note that another step's compensation undid this step too."""

    step: str
    undone_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Park:
    """Stop in front of an operator."""

    state: str
    reason: str
    question: str
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpark:
    """Go on: what was asked has been answered."""

    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Complete:
    """Every step is done: end the saga."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compensated:
    """Everything is undone: end the saga."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseByWord:
    """End the saga as resolved: what `persons` said of it was never looked up."""

    persons: tuple[str, ...]


Action = (
    RunStep
    | AwaitSignal
    | AwaitLock
    | AwaitClosing
    | Settle
    | RefuseCancel
    | StartUnwinding
    | SkipUndo
    | Park
    | Unpark
    | Complete
    | Compensated
    | CloseByWord
)
