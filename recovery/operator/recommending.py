"""What an operator may do next about a saga: the verbs that would not be refused, best first."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from orchestrator.entries import Direction, SagaParked, StepFailed, StepWaiting
from orchestrator.errors import HistoryError
from orchestrator.going_forward import parked_child
from orchestrator.troubles import NewerLogError
from recovery.operator.cases import Case
from recovery.operator.conditions import pending_undo
from recovery.operator.deciding import decided
from recovery.operator.identity import Identity, IdentityKind
from recovery.operator.refusals import RefusedError
from recovery.operator.verbs import (
    By,
    Confirm,
    MarkDone,
    MarkNotDone,
    Probe,
    Resolve,
    Retry,
    Skip,
    Verb,
    Withdraw,
)

REFERENCE = "REFERENCE"
"""What stands in a command where the other side's name for an effect belongs."""

_ANYBODY = By(
    actor="anybody",
    reason="to see whether it would be refused",
    identity=Identity(kind=IdentityKind.OS_USER, name="anybody"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """A command to type, and when it is right. `possible_from`: it is refused until then."""

    command: str
    why: str
    possible_from: datetime | None = None


def recommended(case: Case) -> list[Advice]:
    """Return what may be done about the saga as it stands; nothing for one that has ended.

    A verb that would be refused is left out, unless it only comes too early.
    """
    if case.has_ended:
        return []
    return [*_of_assertions(case), *_of_the_question(case)]


def _of_assertions(case: Case) -> Iterator[Advice]:
    """What a second person may do; nobody knows here who is asking."""
    for each in case.state.pending_assertions(case.now):
        what = " ".join([each.verb, *([each.step] if each.step else [])])
        said = f"{what}, said by {each.actor} ({each.identity})"
        which = ["amends", Confirm.name, str(case.saga.id), "--assertion", str(each.seq)]
        yield Advice(
            command=f'{shlex.join(which)} --reason "…"',
            why=f"{said}: another person may confirm it until {each.until:%Y-%m-%d %H:%M} UTC",
        )
        which[1] = Withdraw.name
        yield Advice(command=f'{shlex.join(which)} --reason "…"', why=f"take it back: {said}")


def _of_the_question(case: Case) -> list[Advice]:
    if case.parked is not None and not case.state.voided.issuperset(case.parked.entries):
        why = "its log was written beside the engine: this shows what stands in it"
        return [Advice(command=f"amends repair {case.saga.id}", why=why)]
    if case.known is None:
        why = f"this process has not {case.saga.definition} v{case.saga.version} in its shape"
        return [Advice(command="amends check-deploy", why=why)]
    return [each for verb, why in _candidates(case) if (each := _advice(case, verb, why))]


def unreadable(saga_id: UUID, error: HistoryError) -> Advice:
    """Return what may be done about a saga whose log cannot be read."""
    if isinstance(error, NewerLogError):
        return Advice(command="amends check-deploy", why="a newer version wrote its log")
    return Advice(command=f"amends repair {saga_id}", why=f"its log cannot be read: {error}")


def _advice(case: Case, verb: Verb | str, why: str) -> Advice | None:
    if isinstance(verb, str):
        return Advice(command=verb, why=why)
    advice = Advice(command=command(case, verb), why=why)
    try:
        decided(case, verb, _ANYBODY)
    except RefusedError as refusal:
        if refusal.possible_from is None:
            return None
        return replace(advice, possible_from=refusal.possible_from)
    return advice


def command(case: Case, verb: Verb) -> str:
    """Return the verb as it is typed, for the saga as it was seen."""
    words = ["amends", verb.name, str(case.saga.id)]
    if verb.step is not None:
        words += ["--step", verb.step]
    if isinstance(verb, MarkDone):
        words += ["--reference", verb.reference or REFERENCE]
    if getattr(verb, "take_back", False):
        words.append("--take-back")
    return f'{shlex.join([*words, "--seen", str(case.saga.seq)])} --reason "…"'


def _candidates(case: Case) -> Iterator[tuple[Verb | str, str]]:
    parked = case.parked
    if parked is None:
        yield Retry(), "its next attempt, which waits out a pause, comes due now"
        return
    match parked.reason:
        case "unknown" | "poison":
            yield from _of_an_unknown(case, parked)
        case "compensation_exhausted":
            yield from _of_an_undo(case, parked)
        case "child_parked":
            yield from _of_a_child(case, parked)
        case "failed_after_pivot":
            yield from _of_a_failure(case, parked)
        case _:
            yield from _of_what_is_pending(case)
            yield Retry(), "look again whether it may end"
    yield Resolve(), "close it as it stands: the matter was settled by hand"


def _of_an_unknown(case: Case, parked: SagaParked) -> Iterator[tuple[Verb, str]]:
    """Where the other side keeps its failure for the key, repeating it tells nothing."""
    for step in parked.steps:
        repeat = Retry(), f"repeat {step} under the same key: the answer is the truth"
        is_kept = case.state.step(step).forward.is_kept
        yield Probe(step=step), f"have the other side asked what became of {step}"
        if not is_kept:
            yield repeat
        yield MarkDone(step=step, reference=REFERENCE), f"{step} took effect: you asked and saw it"
        not_done = f"{step} did not take effect and never will"
        yield MarkNotDone(step=step), f"{not_done}: it is tried under a new key"
        yield (
            MarkNotDone(step=step, take_back=True),
            f"{not_done}, and the saga is taken back",
        )
        if is_kept:
            yield repeat


def _of_an_undo(case: Case, parked: SagaParked) -> Iterator[tuple[Verb, str]]:
    """A step that another outstanding one's undo undoes too needs no answer of its own.

    Another try comes last where it would only be told the same: of a refusal, or of an answer that
    the other side keeps for the key.
    """
    retry = Retry(), f"try again to undo {', '.join(parked.steps)}"
    undos = [case.state.step(each).undo for each in parked.steps]
    is_told_the_same = all(each.failed or each.is_kept for each in undos)
    for step in parked.steps:
        yield Probe(step=step), f"have the other side asked whether {step} was undone"
    if not is_told_the_same:
        yield retry
    for step in parked.steps:
        if case.definition.step(step).undone_by in parked.steps:
            continue
        yield (
            MarkDone(step=step, reference=REFERENCE),
            f"{step} is undone by other means: you did it, or saw it",
        )
        yield (
            MarkNotDone(step=step),
            f"{step} is not undone and what was sent never will: it is undone under a new key",
        )
        yield Skip(step=step), f"{step} need not be undone"
    if is_told_the_same:
        yield retry


def _of_what_is_pending(case: Case) -> Iterator[tuple[Verb, str]]:
    for each in case.definition.steps:
        reference = pending_undo(case, each.name)
        if reference is not None:
            yield (
                MarkDone(step=each.name, reference=reference),
                f"{reference} is settled: you asked, and the money is given back",
            )
            yield (
                MarkNotDone(step=each.name),
                f"{reference} came to nothing: {each.name} is undone anew, under a new key",
            )


def _of_a_failure(case: Case, parked: SagaParked) -> Iterator[tuple[Verb, str]]:
    """A refusal that was given for the key is given again: a new key is what can help."""
    retry = Retry(), f"try {', '.join(parked.steps)} again"
    ends = [case.state.step(each).forward.last for each in parked.steps]
    is_told_the_same = any(isinstance(each, StepFailed) and each.decisive for each in ends)
    if not is_told_the_same:
        yield retry
    for step in parked.steps:
        yield MarkNotDone(step=step), f"try {step} under a new key: the old one is refused for good"
        if is_told_the_same:
            yield retry
        yield MarkDone(step=step, reference=REFERENCE), f"{step} was done by other means"
        yield Skip(step=step), f"{step} is not needed"


def _of_a_child(case: Case, parked: SagaParked) -> Iterator[tuple[str, str]]:
    for step in parked.steps:
        known = case.state.step(step)
        track = known.undo if case.direction is Direction.COMPENSATE else known.forward
        if isinstance(track.last, StepWaiting):
            child = parked_child(case.state, track.last)
            if child is not None:
                saga_id = child.rpartition(" ")[2]
                yield f"amends show {saga_id}", f"answer the question of {step}'s saga"
