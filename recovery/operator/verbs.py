"""The operator's verbs, as values: what is wanted, of which step, with which facts.

`take_back`: and have the saga taken back then, instead of going on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from orchestrator.context import Movement
from orchestrator.entries import Json
from recovery.operator.identity import Identity


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Another try, with budgets that begin anew; of a saga in back-off: the next try now."""

    name: ClassVar[str] = "retry"
    step: ClassVar[None] = None
    take_back: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Have the workers ask the other side whether the step, or its undo, took effect."""

    name: ClassVar[str] = "probe"
    step: str
    take_back: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkDone:
    """The step took effect; or, where its undo is outstanding, it is undone.

    Args:
        reference: the other side's name for it.
        result: what later steps are to find as the step's result, as JSON.
        movements: the money that the step moved. Of an undo it is told from what it undoes.
    """

    name: ClassVar[str] = "mark-done"
    step: str
    reference: str | None = None
    result: Json = None
    movements: Sequence[Movement] = ()
    take_back: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkNotDone:
    """The step, or its undo, did not take effect and never will: it is tried under a new key."""

    name: ClassVar[str] = "mark-not-done"
    step: str
    take_back: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """The step, or its undo, is not needed: it counts as done."""

    name: ClassVar[str] = "skip"
    step: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolve:
    """Close a parked saga as it stands: its matter was settled by hand."""

    name: ClassVar[str] = "resolve"
    step: ClassVar[None] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Abandon:
    """Close any saga as it stands: nothing is taken back."""

    name: ClassVar[str] = "abandon"
    step: ClassVar[None] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrate:
    """Let a parked saga go on under a newer version, which declares how."""

    name: ClassVar[str] = "migrate-saga"
    step: ClassVar[None] = None
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirm:
    """Stand by what somebody else said of the saga and nobody could look up; then it counts.

    Args:
        assertion: the seq at which it was said; None: the only one that is pending.
    """

    name: ClassVar[str] = "confirm"
    step: ClassVar[None] = None
    assertion: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdraw:
    """Take back what was said of the saga and is not confirmed; `assertion` as of `Confirm`."""

    name: ClassVar[str] = "withdraw"
    step: ClassVar[None] = None
    assertion: int | None = None


Verb = (
    Retry | Probe | MarkDone | MarkNotDone | Skip | Resolve | Abandon | Migrate | Confirm | Withdraw
)


@dataclass(frozen=True, slots=True, kw_only=True)
class By:
    """Who acts, and why; all of it is kept in the saga's log.

    Args:
        actor: what they call themselves; it only annotates.
        identity: who was authenticated; None where nobody was.
    """

    actor: str
    reason: str
    identity: Identity | None = None
