"""What must be true of a saga before an operator's word is taken.

An answer about a step is taken only when nothing of it runs any more and nothing that was sent can
still arrive: until then an answer could prove wrong a moment later.
"""

from __future__ import annotations

from datetime import datetime

from orchestrator.books import movements
from orchestrator.definition import Step
from orchestrator.entries import Direction
from orchestrator.errors import PayloadError
from orchestrator.outside_facts import MAX_REASON_LENGTH
from orchestrator.payloads import refuse_card_data, to_json
from orchestrator.state import StepState
from orchestrator.state_machine import Decision
from orchestrator.storage.tombstones import REASON as LATE_ON_PRUNED
from orchestrator.unwinding import needs_undo
from recovery.operator.cases import Case
from recovery.operator.refusals import RefusedError
from recovery.operator.verbs import By


def answerable(case: Case, name: str) -> tuple[Step, StepState]:
    """A step of which something may be said: its outcome, or that of its undo, is outstanding."""
    step, known = case.step(name)
    check_not_ended(case)
    check_closed(case, step, known)
    if case.direction is Direction.COMPENSATE:
        if not needs_undo(case.state, step):
            raise RefusedError(case.saga, f"nothing of {name} is left to be undone")
    elif known.is_done:
        raise RefusedError(case.saga, f"{name} is done, or was skipped")
    elif known.forward.attempts == known.forward.released:
        raise RefusedError(case.saga, f"{name} never ran")
    check_quiet(case, step, known)
    return step, known


def pending_undo(case: Case, name: str) -> str | None:
    """Return the reference of the step's undo that the other side accepted and has not settled.

    None where there is none, where more than one is pending, and while the step is to be undone.
    """
    step, known = case.step(name)
    if case.has_ended or known.is_open or needs_undo(case.state, step):
        return None
    found = [
        each.reference
        for each in movements(case.state.money)
        if each.is_pending and each.is_undo and each.step == name
    ]
    return found[0] if len(found) == 1 else None


def check_has_history(case: Case) -> None:
    """A saga that was pruned and is back knows nothing: it would begin with its first step.

    Nor does one go on in whose log stands what nobody may believe.
    """
    if case.parked is not None and not case.state.voided.issuperset(case.parked.entries):
        raise RefusedError(
            case.saga, f"its log was written beside the engine: `amends repair {case.saga.id}`"
        )
    if case.parked is not None and case.parked.reason == LATE_ON_PRUNED:
        raise RefusedError(
            case.saga, "its history was pruned, so it cannot go on: `amends resolve` closes it"
        )


def check_not_ended(case: Case) -> None:
    """An ended saga takes no answer."""
    if case.has_ended:
        raise RefusedError(
            case.saga, f"it has ended, {case.saga.state}; `amends replay` starts its work anew"
        )


def check_closed(case: Case, step: Step, known: StepState) -> None:
    """Of what runs now its worker tells."""
    if known.is_open:
        raise RefusedError(case.saga, f"{step.name} runs now: wait for its answer, or its timeout")


def check_quiet(case: Case, step: Step, known: StepState) -> None:
    """What an attempt sent may arrive until its timeout, and be seen after the other side's lag."""
    started = [each.started_at for each in (known.forward, known.undo) if each.started_at]
    if not started:
        return
    quiet = max(started) + step.timeout + step.lag
    if case.now < quiet:
        raise RefusedError(
            case.saga,
            f"what {step.name} sent at {_clock(max(started))} may still arrive; this is possible "
            f"from {_clock(quiet)} on",
            possible_from=quiet,
        )


def check_words(by: By) -> None:
    """Refuse an empty or endless reason or actor, or one that cannot be stored."""
    for name, text in (("reason", by.reason), ("actor", by.actor)):
        if not to_json(text).strip():
            raise PayloadError(f"a verb needs {name}; it is kept in the saga's log")
        if len(text) > MAX_REASON_LENGTH:
            raise PayloadError(f"{name} has at most {MAX_REASON_LENGTH} characters")
        refuse_card_data(text, name)


def why_nothing_waits(case: Case, decision: Decision) -> str:
    """Why there is no pause that could be cut short."""
    if case.state.is_open:
        return open_attempts(case)
    if decision.awaits:
        until = "" if decision.wake_at is None else f", until {_clock(decision.wake_at)} at most"
        return f"it waits for something outside, and retrying would not bring it{until}"
    return "its next attempt is due already and waits for a worker; ask `amends doctor`"


def open_attempts(case: Case) -> str:
    """What runs now, and what to do about it."""
    names = ", ".join(name for name, each in case.state.steps.items() if each.is_open)
    return f"{names} runs now: wait for its answer, or its timeout"


def named(case: Case, step: Step) -> str:
    """What is spoken of: the step, or its undo."""
    return step.name if case.direction is Direction.FORWARD else f"the undo of {step.name}"


def _clock(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
