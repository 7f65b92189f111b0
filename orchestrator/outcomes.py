"""The one place that turns every way an attempt can end into one value.

After it only matching on the entry is needed; nothing else in the engine looks at exceptions of
steps.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from orchestrator.context import CannotTell, Effect, NothingThere, NotLanded
from orchestrator.definition import Step
from orchestrator.entries import (
    PROBES,
    Direction,
    Json,
    LateOutcomeRecorded,
    Outcome,
    StepFailed,
    StepProbed,
    StepReleased,
    StepSucceeded,
    StepUnknown,
    StepWaiting,
    UnknownReason,
)
from orchestrator.errors import (
    OutcomeUnknown,
    PayloadError,
    Retriable,
    StepError,
    Terminal,
    Wait,
)
from orchestrator.instrumentation import emit
from orchestrator.payloads import MAX_BYTES, canonical, to_json
from orchestrator.redaction.text import redact
from orchestrator.redaction.values import redact_dict, without_card_data

MAX_MESSAGE = 500

CONTENTION = frozenset({"40001", "40P01", "55P03"})
"""Serialization failure, deadlock, lock not available: SQLSTATEs that say nothing of the step."""

_WORDS: dict[type[Outcome], str] = {
    StepSucceeded: "succeeded",
    StepFailed: "failed",
    StepUnknown: "unknown",
    StepWaiting: "waiting",
}


def succeeded(step: Step, direction: str, attempt: int, returned: Any) -> StepSucceeded:
    """Return the entry for what a step's function returned.

    Raises:
        PayloadError: the result is not JSON or larger than 64 kB. The caller treats it like any
            exception out of the step: the effect may be there.
    """
    undoing = direction == Direction.COMPENSATE
    effect = returned if isinstance(returned, Effect) else Effect(value=returned)
    if isinstance(returned, NothingThere):
        effect = Effect()
    return StepSucceeded(
        step=step.name,
        direction=direction,
        attempt=attempt,
        **told(step.name, effect),
        undone=not isinstance(returned, NothingThere) if undoing else None,
    )


def told(name: str, effect: Effect) -> dict[str, Any]:
    """Return the fields by which an entry tells of an effect, without card data.

    Raises:
        PayloadError: they are not JSON, larger than 64 kB together, or of money that is not counted
            in integers: no decision could be taken from such an entry.
    """
    if any(type(each.amount_minor) is not int for each in effect.movements):
        raise PayloadError(f"{name} moved money that is no integer of minor units")
    result = to_json(effect.value)
    reference = None if effect.reference is None else _plain(str(effect.reference))
    movements = to_json([each.as_json() for each in effect.movements])
    if len(canonical([result, reference, movements])) > MAX_BYTES:
        raise PayloadError(f"the result of {name} is larger than {MAX_BYTES:,} bytes")
    fields = {"result": result, "reference": reference, "movements": movements or None}
    shown, places = without_card_data(fields)
    if places:
        emit("redaction.applied", step=name, places=places)
    return dict(shown)


def probed(step: Step, direction: str, attempt: int, returned: Any) -> StepProbed:
    """Return the entry for what a probe answered.

    Raises:
        PayloadError: the effect it found is not JSON or larger than 64 kB.
        TypeError: it returned something that is no answer.
    """
    answer: dict[str, Any]
    match returned:
        case Effect():
            answer = {"landed": True, **told(step.name, returned)}
        case NotLanded(why=why):
            answer = {"landed": False, "why": why and printable(why)[:MAX_MESSAGE]}
        case CannotTell(why=why):
            answer = {"landed": None, "why": why and printable(why)[:MAX_MESSAGE]}
        case _:
            raise TypeError(
                f"the probe of {step.name} returned {type(returned).__name__}; "
                "return an Effect, NotLanded or CannotTell"
            )
    return StepProbed(step=step.name, direction=direction, attempt=attempt, **answer)


def denied(step: Step, attempt: int, answer: NotLanded, again_after: timedelta) -> StepFailed:
    """Return the entry for an undo that was told "not there" and has to ask again."""
    return StepFailed(
        step=step.name,
        direction=Direction.COMPENSATE,
        attempt=attempt,
        terminal=False,
        error={
            "type": type(answer).__name__,
            "code": "not_seen_yet",
            "message": printable(answer.why or "nothing is found")[:MAX_MESSAGE],
        },
        retry_after_seconds=again_after.total_seconds(),
        spends_budget=False,
        is_denial=True,
    )


def raised(step: Step, direction: str, attempt: int, error: BaseException) -> Outcome:
    """Return the entry for an exception out of a step's function."""
    match error:
        case _ if direction in PROBES:
            return _retriable(step, direction, attempt, error)
        case Wait():
            return StepWaiting(
                step=step.name,
                direction=direction,
                attempt=attempt,
                signal=None if error.signal is None else printable(str(error.signal)),
                until=error.until.isoformat(),
                decisive=error.decisive,
                reference=told(step.name, Effect(reference=error.reference))["reference"],
            )
        case _ if step.transactional and is_contention(error):
            return _failed_by_contention(step, direction, attempt, error)
        case OutcomeUnknown() if not (step.transactional or step.read_only):
            return _unknown(step, direction, attempt, error)
        case _ if isinstance(error, step.terminal_errors):
            return StepFailed(
                step=step.name,
                direction=direction,
                attempt=attempt,
                terminal=True,
                decisive=isinstance(error, Terminal) and error.decisive,
                error=described(error),
            )
        case _ if isinstance(error, step.retriable_errors):
            return _retriable(step, direction, attempt, error)
        case _ if step.transactional or step.read_only:
            return _retriable(step, direction, attempt, error)
        case _:
            return _unknown(step, direction, attempt, error)


def is_contention(error: BaseException) -> bool:
    """Whether Postgres undid a transaction only because of others that ran beside it.

    SQLAlchemy wraps the driver's error, which bears the SQLSTATE.
    """
    return getattr(getattr(error, "orig", error), "sqlstate", None) in CONTENTION


def given_up(step: Step, direction: str, attempt: int, reason: UnknownReason) -> Outcome:
    """Return the entry for an attempt whose worker is gone or out of time.

    A step that leaves no trace outside, or whose writes died with its transaction, had no effect.
    """
    if not (step.transactional or step.read_only or direction in PROBES):
        return StepUnknown(step=step.name, direction=direction, attempt=attempt, reason=reason)
    return StepFailed(
        step=step.name,
        direction=direction,
        attempt=attempt,
        terminal=False,
        error={"type": reason.value, "message": f"attempt ended without an answer: {reason}"},
        spends_budget=reason is UnknownReason.TIMED_OUT,
        crashed=reason not in (UnknownReason.DRAINED, UnknownReason.TIMED_OUT),
    )


def released(step: Step, direction: str, attempt: int) -> StepReleased:
    """Return the entry for a claimed attempt that is handed back before it began."""
    return StepReleased(step=step.name, direction=direction, attempt=attempt)


def late(outcome: Outcome) -> LateOutcomeRecorded | None:
    """Return the entry for an outcome that came after its attempt was taken away.

    None for a hand-back or a probe: nothing was done, so there is nothing to keep.
    """
    if isinstance(outcome, StepReleased | StepProbed) or outcome.direction in PROBES:
        return None
    word = _WORDS[type(outcome)]
    late = LateOutcomeRecorded(
        step=outcome.step, direction=outcome.direction, attempt=outcome.attempt, outcome=word
    )
    match outcome:
        case StepSucceeded(result=result, reference=reference, movements=movements):
            return replace(late, result=result, reference=reference, movements=movements)
        case StepFailed(error=error) | StepUnknown(error=error):
            return replace(late, error=error)
        case StepWaiting(reference=reference):
            return replace(late, reference=reference)


def described(error: BaseException) -> dict[str, Json]:
    """Return an error as the log keeps it: type, message, and a step error's code and details."""
    record: dict[str, Json] = {
        "type": type(error).__name__,
        "message": _message(error)[:MAX_MESSAGE],
    }
    if isinstance(error, StepError):
        if error.code is not None:
            record["code"] = printable(str(error.code))[:MAX_MESSAGE]
        if error.details:
            record["details"] = _safe_details(error.details)
    return record


def _message(error: BaseException) -> str:
    try:
        return printable(str(error))
    except Exception as broken:  # noqa: BLE001 - an error that cannot be printed is still an outcome
        return f"(its text cannot be read: {type(broken).__name__})"


def printable(text: str) -> str:
    """Return text that may be stored: no NUL, no half surrogates, no card data, no secrets.

    Cut it afterwards: half a card number is none that anybody would find.
    """
    shown = redact(text)
    if shown is not text:
        emit("redaction.applied", places=["text"])
    return _plain(shown)


def _plain(text: str) -> str:
    return text.replace("\x00", "\\x00").encode(errors="replace").decode()


def _safe_details(details: Any) -> Json:
    try:
        readable = to_json(details)
    except PayloadError as error:
        return {"unreadable": str(error)}
    if len(canonical(readable)) > MAX_BYTES:
        return {"unreadable": f"larger than {MAX_BYTES:,} bytes"}
    shown = redact_dict(readable)
    if shown is not readable:
        emit("redaction.applied", places=["details"])
    return shown


def _retriable(step: Step, direction: str, attempt: int, error: BaseException) -> StepFailed:
    known = error if isinstance(error, Retriable) else Retriable()
    return StepFailed(
        step=step.name,
        direction=direction,
        attempt=attempt,
        terminal=False,
        error=described(error),
        retry_after_seconds=known.retry_after.total_seconds() if known.retry_after else None,
        spends_budget=known.spends_budget,
        is_exact=known.is_exact,
    )


def _failed_by_contention(
    step: Step, direction: str, attempt: int, error: BaseException
) -> StepFailed:
    return StepFailed(
        step=step.name,
        direction=direction,
        attempt=attempt,
        terminal=False,
        error=described(error),
        spends_budget=False,
    )


def _unknown(step: Step, direction: str, attempt: int, error: BaseException) -> StepUnknown:
    return StepUnknown(
        step=step.name,
        direction=direction,
        attempt=attempt,
        reason=UnknownReason.RAISED,
        error=described(error),
        is_kept=isinstance(error, OutcomeUnknown) and error.is_kept,
    )
