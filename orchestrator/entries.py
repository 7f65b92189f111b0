"""The facts a saga's log is made of, and their form in the database.

An entry says what happened, in the past tense, once; the log only grows. Everything the engine
knows about a saga is the fold of its entries (see `orchestrator.state`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from typing import Any, cast

from orchestrator.errors import HistoryError

Json = Any
"""A JSON-able value: None, bool, int, float, str, list or dict with string keys."""


class Direction(StrEnum):
    """What an attempt is for: doing, undoing, or asking whether it was done, or undone."""

    FORWARD = "forward"
    COMPENSATE = "compensate"
    PROBE = "probe"
    PROBE_UNDO = "probe_undo"


PROBES = frozenset({Direction.PROBE, Direction.PROBE_UNDO})
"""Attempts that only ask: they leave nothing behind."""

UNDOING = frozenset({Direction.COMPENSATE, Direction.PROBE_UNDO})
"""Attempts that are given the effect to undo."""


class UnknownReason(StrEnum):
    """Why nobody knows what an attempt did."""

    RAISED = "raised"
    TIMED_OUT = "timed_out"
    LEASE_LOST = "lease_lost"
    CRASHED = "crashed"
    DRAINED = "drained"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaStarted:
    """The saga exists. `skipped` are the steps whose condition was false for this payload.

    `lock` is what only one saga at a time may be at work on; the saga begins when it is granted.
    `parent_id` and `parent_step`: the saga that waits for this one. `replay_of`: the ended saga
    whose work this one does again. `installation`: what this one was called as the saga started;
    it is a part of the saga's keys.
    """

    payload: Json
    skipped: list[str] = field(default_factory=list)
    deadline_seconds: float | None = None
    trace: dict[str, str] | None = None
    lock: str | None = None
    lock_granted: bool = False
    parent_id: str | None = None
    parent_step: str | None = None
    replay_of: str | None = None
    installation: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaLockGranted:
    """Nobody else is at work on what the saga locks any more: it begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStarted:
    """The intent: committed before the step's function is called."""

    step: str
    direction: str
    attempt: int
    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSucceeded:
    """An attempt ended well. `undone` of a compensation: whether there was anything to undo."""

    step: str
    direction: str
    attempt: int
    result: Json = None
    reference: str | None = None
    movements: list[dict[str, Json]] | None = None
    undone: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFailed:
    """An attempt ended without any effect.

    `crashed`: its worker went down with it, and the step's writes with the transaction.
    `is_exact`: the next is due after `retry_after_seconds`, without jitter.
    `is_denial`: an undo asked whether the step's effect is there, and was told that it is not.
    """

    step: str
    direction: str
    attempt: int
    terminal: bool
    error: dict[str, Json]
    decisive: bool = False
    retry_after_seconds: float | None = None
    spends_budget: bool = True
    crashed: bool = False
    is_exact: bool = False
    is_denial: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StepUnknown:
    """An attempt ended and nobody knows whether it had its effect.

    `is_kept`: the other side keeps this answer for the key, so repeating it settles nothing.
    """

    step: str
    direction: str
    attempt: int
    reason: str
    error: dict[str, Json] | None = None
    is_kept: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReleased:
    """A claimed attempt was handed back before its function was called: not started."""

    step: str
    direction: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepWaiting:
    """An attempt ended by waiting until a moment, or before it for `signal` (None: a timer).

    `reference` is the other side's name for what was begun there and may take effect yet.
    """

    step: str
    direction: str
    attempt: int
    until: str
    signal: str | None = None
    decisive: bool = False
    reference: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepProbed:
    """A probe was answered: it landed, it did not, or (None) it could not be told.

    `direction` says of what: ``probe`` of the step, ``probe_undo`` of its undo.
    """

    step: str
    direction: str
    attempt: int
    landed: bool | None
    why: str | None = None
    result: Json = None
    reference: str | None = None
    movements: list[dict[str, Json]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSettled:
    """What had been unknown is known: it landed, or it did not for good.

    `by`: ``probe`` (it said twice, late enough, that nothing is there) or who answered for it.
    `attempt`: the step's last one that this is about; those before it used the same key.
    `evidence`: what the other side showed when that was looked up. `unverified`: two persons say
    so and nobody could look it up; the books take no such word for money moved.
    """

    step: str
    direction: str
    landed: bool
    by: str
    attempt: int | None = None
    result: Json = None
    reference: str | None = None
    movements: list[dict[str, Json]] | None = None
    evidence: Json = None
    unverified: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSkipped:
    """An operator decided that a step, or its undoing, is not needed: it counts as done.

    `evidence` and `unverified` as of `StepSettled`.
    """

    step: str
    direction: str
    by: str
    evidence: Json = None
    unverified: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LateOutcomeRecorded:
    """A result came from an attempt that had been given up; it was refused as the step's result.

    A late success is an effect all the same and is taken back if the saga went another way.
    """

    step: str
    direction: str
    attempt: int
    outcome: str
    result: Json = None
    reference: str | None = None
    movements: list[dict[str, Json]] | None = None
    error: dict[str, Json] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectReported:
    """Somebody outside (`by`: a webhook, a reconciliation) proved an effect of the step.

    `generation`: of the step's key that it bears at the other side, where that is known.
    """

    step: str
    reference: str
    by: str
    result: Json = None
    movements: list[dict[str, Json]] | None = None
    generation: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UndoFailed:
    """An undo that had been accepted proved undone later: a refund that failed.

    `reference` is the undo's own at the other side, or that of the effect it had undone.
    """

    step: str
    reference: str
    by: str
    error: dict[str, Json] | None = None
    movements: list[dict[str, Json]] | None = None
    evidence: Json = None
    unverified: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MovementSettled:
    """A movement of money that was pending at the other side is final.

    `evidence` and `unverified` as of `StepSettled`.
    """

    step: str
    reference: str
    by: str
    evidence: Json = None
    unverified: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalReceived:
    """An outside fact was delivered to the saga."""

    name: str
    dedup_id: str
    payload: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequested:
    """Somebody asked for the saga to be taken back."""

    reason: str
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRefused:
    """The cancel came too late: the point of no return is behind."""

    pivot: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UndoRequested:
    """The saga's parent is taken back, so this one is too, even if it had completed."""

    reason: str
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorActed:
    """An operator used a verb; written with what it does, in the same statement.

    `identity`: who was authenticated, as ``kind:name``; `actor` is what they call themselves.
    """

    verb: str
    actor: str
    reason: str
    step: str | None = None
    data: Json = None
    identity: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceAsserted:
    """An operator said what became of an outside effect, and nobody could look it up.

    It is no fact yet: another authenticated identity has to confirm it by `until`, while the saga
    stands as it stood. `words` is the verb as it was given; `why`: why it could not be looked up.
    """

    verb: str
    words: dict[str, Json]
    identity: str
    actor: str
    reason: str
    until: str
    why: str
    step: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceConfirmed:
    """A second person stands by what was said at seq `assertion`; what it says is written too.

    `verified`: it could be looked up after all, so nobody's word is needed.
    """

    assertion: int
    identity: str
    verified: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceWithdrawn:
    """The assertion at seq `assertion` is withdrawn."""

    assertion: int
    identity: str
    actor: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EntriesVoided:
    """An operator found that the entries of these seqs are no facts: they do not count.

    They stay in the log, as everything does; a fold passes over them. `unverified`: by their word
    alone, for some of them could be read where they stood.
    """

    seqs: list[int]
    actor: str
    reason: str
    unverified: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class UnwindingStarted:
    """The one decision to take the saga back.

    `cause`: step_failed, cancelled, deadline, late or undo_requested; and second_effect, when a
    completed saga takes back only what happened twice.
    """

    cause: str
    step: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UndoSkipped:
    """A compensation was not needed, because another step's undid this step too."""

    step: str
    undone_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaParked:
    """The saga stopped in front of an operator. `question` is what has to be answered.

    `entries`: the seqs of entries that no statement of the engine wrote; see `EntriesVoided`.
    """

    state: str
    reason: str
    question: str
    steps: list[str] = field(default_factory=list)
    entries: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaUnparked:
    """The question was answered: the saga goes on where it stopped.

    `fresh`: steps whose budgets begin anew, because somebody asked for another try. `probed`: steps
    of which only the budget of probes does, because somebody wants them to be asked, not repeated.
    """

    by: str
    fresh: list[str] = field(default_factory=list)
    probed: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaMigrated:
    """The saga goes on under another version, whose steps are those of `renamed` (old to new)."""

    version: int
    definition_hash: str
    payload: Json
    renamed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaCompleted:
    """Every step is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaCompensated:
    """Everything that had been done is undone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaResolved:
    """An operator closed the saga; it never moves again by itself."""

    actor: str
    reason: str


Outcome = StepSucceeded | StepFailed | StepUnknown | StepReleased | StepWaiting | StepProbed
"""How one attempt ended."""

Entry = (
    SagaStarted
    | SagaLockGranted
    | StepStarted
    | Outcome
    | StepSettled
    | StepSkipped
    | LateOutcomeRecorded
    | EffectReported
    | UndoFailed
    | MovementSettled
    | SignalReceived
    | CancelRequested
    | CancelRefused
    | UndoRequested
    | OperatorActed
    | EntriesVoided
    | EvidenceAsserted
    | EvidenceConfirmed
    | EvidenceWithdrawn
    | UnwindingStarted
    | UndoSkipped
    | SagaParked
    | SagaUnparked
    | SagaMigrated
    | SagaCompleted
    | SagaCompensated
    | SagaResolved
)

ENTRY_TYPES: Mapping[str, type[Entry]] = {
    each.__name__: each
    for each in (
        SagaStarted,
        SagaLockGranted,
        StepStarted,
        StepSucceeded,
        StepFailed,
        StepUnknown,
        StepReleased,
        StepWaiting,
        StepProbed,
        StepSettled,
        StepSkipped,
        LateOutcomeRecorded,
        EffectReported,
        UndoFailed,
        MovementSettled,
        SignalReceived,
        CancelRequested,
        CancelRefused,
        UndoRequested,
        OperatorActed,
        EntriesVoided,
        EvidenceAsserted,
        EvidenceConfirmed,
        EvidenceWithdrawn,
        UnwindingStarted,
        UndoSkipped,
        SagaParked,
        SagaUnparked,
        SagaMigrated,
        SagaCompleted,
        SagaCompensated,
        SagaResolved,
    )
}

_DEFAULTS: Mapping[type, tuple[tuple[str, Any], ...]] = {
    kind: tuple(
        (
            each.name,
            each.default_factory() if each.default_factory is not MISSING else each.default,
        )
        for each in fields(kind)
    )
    for kind in ENTRY_TYPES.values()
}


FIRST_FORMAT = 1
"""The form of logs whose entries hold only what `SINCE` does not name."""

SINCE: dict[tuple[str, str | None], int] = {}
"""In which form of the log a kind (kind, None), or a field of one (kind, field), appeared.

A deploy is rolled out worker by worker, so for a while old ones meet what new ones write. Whoever
adds a kind or a field names it here, with a number above all that a release has had; a saga whose
log holds it is left alone by workers that know less (`orchestrator.storage.statements.CLAIM`).
"""


def log_format() -> int:
    """Return the newest form of the log that this process reads."""
    return max(SINCE.values(), default=FIRST_FORMAT)


def format_of(*entries: Entry) -> int:
    """Return the oldest form of the log in which a reader understands all of these."""
    newest = FIRST_FORMAT
    for entry in entries if SINCE else ():
        kind, values = encode(entry)
        named = [(kind, None), *((kind, field) for field in values)]
        newest = max(newest, *(SINCE.get(each, FIRST_FORMAT) for each in named))
    return newest


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableEntry:
    """A row of the log that is no entry this version knows, and why; no fold accepts it."""

    kind: str
    values: Json
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """An entry with its place in the log: gapless `seq` from 1, and the database's time."""

    seq: int
    at: datetime
    entry: Entry


def encode(entry: Entry | UnreadableEntry) -> tuple[str, dict[str, Json]]:
    """Return the entry's kind and its data without the fields that hold their default."""
    if isinstance(entry, UnreadableEntry):
        return entry.kind, entry.values
    kind = type(entry)
    values = {}
    for name, default in _DEFAULTS[kind]:
        value = getattr(entry, name)
        if value != default:
            values[name] = value
    return kind.__name__, values


def decode(kind: str, values: Mapping[str, Json]) -> Entry:
    """Return the entry that `encode` wrote.

    Raises:
        HistoryError: a newer version of Amends wrote this kind, or the row was damaged.
    """
    try:
        return ENTRY_TYPES[kind](**values)
    except (KeyError, TypeError) as error:
        raise HistoryError(
            f"log entry of kind {kind!r} cannot be read by this version; upgrade the workers"
        ) from error


def decoded(kind: str, values: Json) -> Entry:
    """Return the entry that `encode` wrote, or what stands for one that cannot be read.

    So one damaged row does not hide the others; whoever folds it is told.
    """
    try:
        return decode(kind, values)
    except HistoryError as error:
        return cast("Entry", UnreadableEntry(kind=kind, values=values, why=str(error)))


def voided(entries: Iterable[Recorded]) -> set[int]:
    """Return the seqs that an operator found to be no facts."""
    return {
        seq for each in entries if isinstance(each.entry, EntriesVoided) for seq in each.entry.seqs
    }


def believed(entries: Iterable[Recorded]) -> list[Recorded]:
    """Return the entries that are facts: neither voided nor written beside the engine."""
    log = list(entries)
    beside = {
        seq for each in log if isinstance(each.entry, SagaParked) for seq in each.entry.entries
    }
    left_out = beside | voided(log)
    return [each for each in log if each.seq not in left_out] if left_out else log
