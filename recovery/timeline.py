"""A saga's log as a timeline: one line per attempt, and one per turn the saga took."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from orchestrator.entries import (
    CancelRefused,
    CancelRequested,
    EffectReported,
    EntriesVoided,
    Entry,
    EvidenceAsserted,
    EvidenceConfirmed,
    EvidenceWithdrawn,
    LateOutcomeRecorded,
    MovementSettled,
    OperatorActed,
    Outcome,
    Recorded,
    SagaCompensated,
    SagaCompleted,
    SagaLockGranted,
    SagaMigrated,
    SagaParked,
    SagaResolved,
    SagaStarted,
    SagaUnparked,
    SignalReceived,
    StepFailed,
    StepProbed,
    StepReleased,
    StepSettled,
    StepSkipped,
    StepStarted,
    StepSucceeded,
    StepUnknown,
    StepWaiting,
    UndoFailed,
    UndoRequested,
    UndoSkipped,
    UnreadableEntry,
    UnwindingStarted,
)

_ANSWERS = {True: "it happened", False: "it did not happen", None: "nobody can tell"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """An attempt, or (without `step`) something that happened to the whole saga.

    Args:
        seq, at: where in the log it begins.
        outcome: how it ended, or ``running``.
        took: from the claim to the record, by the database's clock.
        detail: the error, the outside reference or the reason.
    """

    seq: int
    at: datetime
    outcome: str
    step: str | None = None
    direction: str | None = None
    attempt: int | None = None
    owner: str | None = None
    took: timedelta | None = None
    detail: str | None = None


def timeline(entries: Iterable[Recorded]) -> list[Line]:
    """Return the lines in the order in which they began."""
    lines: list[Line] = []
    begun: dict[tuple[str, str, int], int] = {}
    for recorded in entries:
        match recorded.entry:
            case StepStarted() as start:
                begun[start.step, start.direction, start.attempt] = len(lines)
                lines.append(_begun(recorded, start))
            case outcome if isinstance(outcome, Outcome):
                attempt = (outcome.step, outcome.direction, outcome.attempt)
                index = begun.get(attempt)
                if index is not None:
                    lines[index] = replace(
                        lines[index],
                        outcome=_outcome(outcome),
                        took=recorded.at - lines[index].at,
                        detail=_detail(outcome),
                    )
            case entry:
                lines.append(_told(recorded, entry))
    return lines


def _begun(recorded: Recorded, start: StepStarted) -> Line:
    return Line(
        seq=recorded.seq,
        at=recorded.at,
        outcome="running",
        step=start.step,
        direction=start.direction,
        attempt=start.attempt,
        owner=start.owner,
    )


def _outcome(entry: Entry) -> str:
    match entry:
        case StepSucceeded(undone=False):
            return "nothing there"
        case StepSucceeded():
            return "succeeded"
        case StepFailed(terminal=True):
            return "failed for good"
        case StepFailed():
            return "failed, to be tried again"
        case StepUnknown(reason=reason):
            return f"unknown ({reason})"
        case StepReleased():
            return "handed back"
        case StepWaiting(signal=signal):
            return f"waiting for {signal}" if signal else "waiting"
        case StepProbed(landed=landed):
            return _ANSWERS[landed]
        case _:
            return type(entry).__name__


def _detail(entry: Entry) -> str | None:
    match entry:
        case StepSucceeded(reference=reference):
            return reference
        case StepProbed(why=why, reference=reference):
            return reference or why
        case StepFailed(error=error) | StepUnknown(error=dict() as error):
            return _error_text(error)
        case StepWaiting(until=until, reference=reference):
            return f"until {until}" if reference is None else f"{reference}, until {until}"
        case _:
            return None


def _error_text(error: dict[str, object]) -> str:
    code, message = error.get("code"), error.get("message") or error.get("type") or ""
    return f"{code}: {message}" if code else str(message)


def _told(recorded: Recorded, entry: Entry) -> Line:
    """One entry's line, also of one whose values are not what they should be."""
    try:
        return _turn(recorded, entry)
    except Exception:  # noqa: BLE001 - a damaged entry hides no other
        return Line(seq=recorded.seq, at=recorded.at, outcome=type(entry).__name__)


def _turn(recorded: Recorded, entry: Entry | UnreadableEntry) -> Line:
    line = Line(seq=recorded.seq, at=recorded.at, outcome=type(entry).__name__)
    match entry:
        case SagaStarted(skipped=skipped):
            detail = f"without {', '.join(skipped)}" if skipped else None
            return replace(line, outcome="started", detail=detail)
        case SignalReceived(name=name):
            return replace(line, outcome=f"signal {name}")
        case CancelRequested(reason=reason, actor=actor):
            return replace(line, outcome="cancel requested", detail=f"{actor}: {reason}")
        case CancelRefused(pivot=pivot):
            return replace(line, outcome="cancel refused", detail=f"{pivot} is done")
        case UndoRequested(reason=reason, actor=actor):
            return replace(line, outcome="undo requested", detail=f"{actor}: {reason}")
        case OperatorActed(verb=verb, actor=actor, reason=reason, step=step):
            return replace(line, outcome=verb, step=step, detail=f"{actor}: {reason}")
        case EvidenceAsserted() | EvidenceConfirmed() | EvidenceWithdrawn():
            return _asserted(line, entry)
        case SagaLockGranted():
            return replace(line, outcome="lock granted")
        case SagaUnparked(by=by):
            return replace(line, outcome="goes on", detail=by)
        case SagaMigrated(version=version):
            return replace(line, outcome="migrated", detail=f"to version {version}")
        case UnwindingStarted(cause=cause, step=step):
            because = f"{cause.replace('_', ' ')}{f': {step}' if step else ''}"
            return replace(line, outcome="taking back", detail=because)
        case SagaParked(state=state, reason=reason):
            return replace(line, outcome=f"parked: {state}", detail=reason)
        case SagaCompleted():
            return replace(line, outcome="completed")
        case SagaCompensated():
            return replace(line, outcome="compensated")
        case SagaResolved(actor=actor, reason=reason):
            return replace(line, outcome="resolved", detail=f"{actor}: {reason}")
        case _:
            return _heard(line, entry)


def _asserted(line: Line, entry: EvidenceAsserted | EvidenceConfirmed | EvidenceWithdrawn) -> Line:
    match entry:
        case EvidenceAsserted(verb=verb, step=step):
            detail = f"{entry.actor} ({entry.identity}): {entry.reason}; {entry.why}"
            return replace(line, outcome=f"{verb}, to be confirmed", step=step, detail=detail)
        case EvidenceConfirmed(identity=identity, verified=verified):
            how = "and it could be looked up" if verified else "and nobody could look it up"
            return replace(line, outcome="confirmed", detail=f"by {identity}, {how}")
        case EvidenceWithdrawn(identity=identity):
            detail = f"{entry.actor} ({identity}): {entry.reason}"
            return replace(line, outcome="withdrawn", detail=detail)


def _heard(line: Line, entry: Entry | UnreadableEntry) -> Line:
    """What was heard or decided about one step, outside its attempts, or about other entries."""
    match entry:
        case UnreadableEntry(kind=kind, why=why):
            return replace(line, outcome=f"unreadable: {kind}", detail=why)
        case EntriesVoided(seqs=seqs, actor=actor, reason=reason):
            named = ", ".join(map(str, seqs))
            return replace(line, outcome=f"void: {named}", detail=f"{actor}: {reason}")
        case StepSettled(step=step, direction=direction, landed=landed, by=by):
            return replace(
                line,
                outcome="settled",
                step=step,
                direction=direction,
                detail=f"{_ANSWERS[landed]} ({_by(entry, by)})",
            )
        case StepSkipped(step=step, direction=direction, by=by):
            return replace(
                line, outcome="skipped", step=step, direction=direction, detail=_by(entry, by)
            )
        case EffectReported(step=step, reference=reference, by=by):
            return replace(
                line,
                outcome="effect reported",
                step=step,
                direction="forward",
                detail=f"{reference} (by {by})",
            )
        case MovementSettled(step=step, reference=reference, by=by):
            detail = f"{reference} ({_by(entry, by)})"
            return replace(line, outcome="settled", step=step, detail=detail)
        case UndoFailed(step=step, reference=reference, by=by):
            return replace(
                line,
                outcome="undo failed after all",
                step=step,
                direction="compensate",
                detail=f"{reference} ({_by(entry, by)})",
            )
        case LateOutcomeRecorded(step=step, direction=direction, attempt=attempt, outcome=outcome):
            return replace(
                line,
                outcome=f"late: {outcome}",
                step=step,
                direction=direction,
                attempt=attempt,
                detail=entry.reference,
            )
        case UndoSkipped(step=step, undone_by=other):
            return replace(
                line,
                outcome="not needed",
                step=step,
                direction="compensate",
                detail=f"undone by {other}",
            )
        case _:
            return line


def _by(entry: StepSettled | StepSkipped | MovementSettled | UndoFailed, by: str) -> str:
    """Who said it, and whether the other side was asked."""
    if entry.unverified:
        return f"by word of {by}, not looked up"
    return f"by {by}, looked up" if entry.evidence is not None else f"by {by}"
