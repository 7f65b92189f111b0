"""From a verb and a saga as it was read to what is written: pure, and refused where it is unsafe.

Whatever is written begins with who acts, in the same statement, and is decided for one seq. A verb
that tells of an effect outside counts when its evidence was looked up; otherwise an assertion is
written instead, and the verb's own entries by who confirms it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, assert_never

from orchestrator.context import Effect
from orchestrator.definition import SagaDefinition
from orchestrator.entries import (
    CancelRequested,
    Direction,
    Entry,
    EvidenceConfirmed,
    EvidenceWithdrawn,
    Json,
    MovementSettled,
    OperatorActed,
    SagaParked,
    SagaResolved,
    SagaUnparked,
    StepSettled,
    StepSkipped,
    UndoFailed,
)
from orchestrator.errors import PayloadError
from orchestrator.going_forward import is_past_the_pivot
from orchestrator.outcomes import told
from orchestrator.payloads import refuse_card_data, to_json
from orchestrator.state import PARKED, PendingAssertion
from orchestrator.state_machine import Decision
from orchestrator.storage.rows import Migrated
from recovery.operator.assertions import (
    Assertable,
    asserted,
    asserted_by,
    pending,
    personal,
    second_person,
    verb_of,
)
from recovery.operator.cases import Case
from recovery.operator.conditions import (
    answerable,
    check_closed,
    check_has_history,
    check_not_ended,
    check_quiet,
    check_words,
    named,
    open_attempts,
    pending_undo,
    why_nothing_waits,
)
from recovery.operator.evidence import Differs, Evidence, Question, Unverified, Verified, question
from recovery.operator.migrating import migration
from recovery.operator.refusals import RefusedError
from recovery.operator.taking_back import taken_back
from recovery.operator.verbs import (
    Abandon,
    By,
    Confirm,
    MarkDone,
    MarkNotDone,
    Migrate,
    Probe,
    Resolve,
    Retry,
    Skip,
    Verb,
    Withdraw,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a verb writes.

    Args:
        entries: in order, `OperatorActed` first.
        decision: what follows from them; None for verbs that decide nothing further.
        hurries: attempts that wait for their pause come due now.
        migrated: the version that the saga goes on under, if that is another one.
        evidence: what the other side said, of a verb that tells of an effect there.
        closes: the saga is closed with these entries.
    """

    entries: tuple[Entry, ...]
    decision: Decision | None = None
    hurries: bool = False
    migrated: Migrated | None = None
    evidence: Evidence | None = None
    closes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """Why a verb that tells of an effect outside counts.

    Args:
        by: in whose name its facts stand in the log.
        opening: what is written first.
        verified: what the other side has; None: two persons say so and nobody could look it up.
            `NOT_NEEDED` where the verb tells of nothing outside.
    """

    by: str
    opening: tuple[Entry, ...]
    verified: Verified | None

    @property
    def marks(self) -> dict[str, Any]:
        """How the log says whether it was looked up."""
        if self.verified is None:
            return {"unverified": True}
        return {} if self.verified is NOT_NEEDED else {"evidence": self.verified.shown}


NOT_NEEDED = Verified(shown=None)
"""The verb tells of nothing outside."""

_NOBODY_ASKED = Unverified(why="nobody was asked")


def asked(case: Case, verb: Verb) -> Question | None:
    """Return what has to be looked up for the verb; None: nothing, or it is refused anyway.

    Raises:
        As `decided`.
    """
    match verb:
        case MarkDone() | MarkNotDone() | Skip() | Resolve() | Abandon():
            return question(case, verb)
        case Confirm():
            return question(case, verb_of(pending(case, verb)))
        case _:
            return None


def decided(
    case: Case,
    verb: Verb,
    by: By,
    newer: SagaDefinition[Any] | None = None,
    evidence: Evidence = _NOBODY_ASKED,
) -> Plan:
    """Return what the verb writes.

    Args:
        newer: for `Migrate`, the version asked for, if this process has it.
        evidence: the answer to `asked`, if anything is.

    Raises:
        RefusedError: the saga does not allow it as it stands, or not yet.
        UnknownStepError: the saga has no such step.
        UnknownDefinitionError: this process has not its definition.
        PayloadError: a reason, a reference or a result is missing or cannot be stored.
    """
    check_words(by)
    if not isinstance(verb, Resolve | Abandon | Confirm | Withdraw):
        check_has_history(case)
    match verb:
        case Retry():
            return _retry(case, verb, by)
        case Probe():
            return _probe(case, verb, by)
        case MarkDone() | MarkNotDone() | Skip() | Resolve() | Abandon():
            return _told(case, verb, by, evidence)
        case Confirm():
            return _confirmed(case, verb, by, evidence)
        case Withdraw():
            return _withdrawn(case, verb, by)
        case Migrate():
            entries, migrated = migration(case, verb, newer, by)
            return Plan(entries=(_acted(verb, by), *entries), migrated=migrated)
        case _:
            assert_never(verb)


def _retry(case: Case, verb: Retry, by: By) -> Plan:
    if case.parked is None:
        return _hurried(case, verb, by)
    plan = _goes_on(case, verb, by, fresh=case.parked.steps)
    _check_moves(case, plan)
    return plan


def _hurried(case: Case, verb: Retry, by: By) -> Plan:
    check_not_ended(case)
    if verb.take_back:
        raise RefusedError(case.saga, "it is not parked: `amends cancel` has it taken back")
    decision = case.after(())
    waiting = [each for each in decision.runs if each.not_before and each.not_before > case.now]
    if not waiting:
        raise RefusedError(case.saga, why_nothing_waits(case, decision))
    names = [f"{each.direction} {each.step} #{each.attempt}" for each in waiting]
    return Plan(entries=(_acted(verb, by, names),), decision=decision, hurries=True)


def _probe(case: Case, verb: Probe, by: By) -> Plan:
    step, known = case.step(verb.step)
    check_not_ended(case)
    is_undo = case.direction is Direction.COMPENSATE
    if (step.undo_probe if is_undo else step.probe) is None:
        raise RefusedError(
            case.saga,
            f"{named(case, step)} has no probe; ask the other side, then `amends mark-done` or "
            "`amends mark-not-done`",
        )
    if not known.track(case.direction).unsettled:
        raise RefusedError(case.saga, f"it is known what became of {named(case, step)}")
    if not case.is_parked:
        raise RefusedError(
            case.saga, "it is not parked and settles that itself; `amends retry` hurries it"
        )
    plan = _goes_on(case, verb, by, probed=[step.name])
    _check_moves(case, plan)
    return plan


# -- verbs that tell of an effect outside ----------------------------------------------------------


def _told(case: Case, verb: Assertable, by: By, evidence: Evidence) -> Plan:
    """The verb counts when it was looked up and fits; else it is an assertion, or refused."""
    alone = Word(by=by.actor, opening=(_acted(verb, by),), verified=NOT_NEEDED)
    if isinstance(evidence, Differs):
        _effective(case, verb, by, alone)  # another refusal comes first
        raise RefusedError(case.saga, evidence.why)
    if asked(case, verb) is None:
        return _effective(case, verb, by, alone)
    if isinstance(evidence, Verified):
        plan = _effective(case, verb, by, replace(alone, verified=evidence))
        return replace(plan, evidence=evidence)
    _effective(case, verb, by, replace(alone, verified=None))
    assertion = asserted(case, verb, by, evidence.why)
    return _noted(case, assertion, evidence)


def _confirmed(case: Case, verb: Confirm, by: By, evidence: Evidence) -> Plan:
    """What was asserted counts now, by the word of both, or because it could be looked up."""
    assertion = pending(case, verb)
    identity = second_person(case, assertion, by)
    told = verb_of(assertion)
    if isinstance(evidence, Differs):
        raise RefusedError(case.saga, evidence.why)
    is_verified = isinstance(evidence, Verified)
    word = Word(
        by=f"{assertion.identity} and {identity}",
        opening=(
            _acted(
                verb,
                by,
                {"assertion": assertion.seq, "verb": assertion.verb, "step": assertion.step},
            ),
            EvidenceConfirmed(assertion=assertion.seq, identity=identity, verified=is_verified),
        ),
        verified=evidence if isinstance(evidence, Verified) else None,
    )
    return replace(_effective(case, told, asserted_by(assertion), word), evidence=evidence)


def _withdrawn(case: Case, verb: Withdraw, by: By) -> Plan:
    assertion: PendingAssertion = pending(case, verb)
    return _noted(
        case,
        EvidenceWithdrawn(
            assertion=assertion.seq, identity=personal(case, by), actor=by.actor, reason=by.reason
        ),
    )


def _noted(case: Case, entry: Entry, evidence: Evidence | None = None) -> Plan:
    """A word that changes nothing yet; the saga goes its way as before."""
    decision = None if case.known is None else case.after((entry,))
    return Plan(entries=(entry,), decision=decision, evidence=evidence)


def _effective(case: Case, verb: Assertable, by: By, word: Word) -> Plan:
    """What the verb writes where it counts."""
    match verb:
        case MarkDone():
            return _mark_done(case, verb, by, word)
        case MarkNotDone():
            return _mark_not_done(case, verb, by, word)
        case Skip():
            return _skip(case, verb, by, word)
        case Resolve() | Abandon():
            return _close(case, verb, by, word)


def _mark_done(case: Case, verb: MarkDone, by: By, word: Word) -> Plan:
    pending = pending_undo(case, verb.step)
    if pending is not None and verb.reference in (None, pending):
        final = MovementSettled(step=verb.step, reference=pending, by=word.by, **word.marks)
        return _goes_on(case, verb, by, final, opening=word.opening)
    step, _ = answerable(case, verb.step)
    refuse_card_data({"reference": verb.reference, "result": verb.result}, verb.step)
    facts: dict[str, Any]
    spared: list[str] = []
    if case.direction is Direction.FORWARD:
        if not (verb.reference or "").strip():
            raise PayloadError(
                f"{step.name} is done under some name at the other side: its reference is needed"
            )
        facts = told(step.name, _effect(case, verb, word))
    else:
        if verb.movements or verb.result is not None:
            raise PayloadError("an undo has no result, and its money is told from what it undoes")
        facts = _given_back(case, verb, word)
        spared = [each.name for each in case.definition.steps if each.undone_by == step.name]
    settled = StepSettled(
        step=step.name,
        direction=case.direction,
        landed=True,
        by=word.by,
        attempt=_asked_about(case, step.name),
        **facts,
        **word.marks,
    )
    return _goes_on(case, verb, by, settled, fresh=spared, opening=word.opening)


def _effect(case: Case, verb: MarkDone, word: Word) -> Effect:
    """What the step did: as the other side has it, or else as the operator says.

    Raises:
        RefusedError: the operator says something else than the other side.
    """
    moved = [replace(each, reference=each.reference or verb.reference) for each in verb.movements]
    said = Effect(value=verb.result, reference=verb.reference, movements=moved)
    if word.verified is None or word.verified is NOT_NEEDED:
        return said
    found = word.verified.effect
    found = replace(found, reference=found.reference or verb.reference)
    there = told(verb.step, found)
    for name, given in told(verb.step, said).items():
        if given not in (None, there[name]) and name != "reference":
            raise RefusedError(
                case.saga, f"the other side has {there[name]} as {name}, not {given}: leave it out"
            )
    return found


def _given_back(case: Case, verb: MarkDone, word: Word) -> dict[str, Any]:
    """What an undo gave back: as the other side has it, or else all of what it undoes."""
    if word.verified is None or word.verified is NOT_NEEDED:
        return {
            "reference": to_json(verb.reference),
            "movements": taken_back(case.state, verb.step, verb.reference) or None,
        }
    facts = told(verb.step, word.verified.effect)
    return {
        "reference": to_json(verb.reference) or facts["reference"],
        "movements": facts["movements"],
    }


def _mark_not_done(case: Case, verb: MarkNotDone, by: By, word: Word) -> Plan:
    pending = pending_undo(case, verb.step)
    if pending is not None:
        undone = UndoFailed(step=verb.step, reference=pending, by=word.by, **word.marks)
        return _goes_on(case, verb, by, undone, fresh=[verb.step], opening=word.opening)
    step, known = answerable(case, verb.step)
    track = known.track(case.direction)
    if track.attempts == track.released:
        raise RefusedError(case.saga, f"{named(case, step)} never ran")
    if not (case.is_parked or track.unsettled):
        raise RefusedError(case.saga, f"{named(case, step)} did not, and is tried again by itself")
    settled = StepSettled(
        step=step.name,
        direction=case.direction,
        landed=False,
        by=word.by,
        attempt=_asked_about(case, step.name),
        **word.marks,
    )
    return _goes_on(case, verb, by, settled, fresh=[step.name], opening=word.opening)


def _asked_about(case: Case, step: str) -> int | None:
    """The last attempt under the key that is answered for; an undo has its effect instead."""
    if case.direction is Direction.COMPENSATE:
        return None
    return case.state.step(step).forward.attempts


def _skip(case: Case, verb: Skip, by: By, word: Word) -> Plan:
    step, known = case.step(verb.step)
    if case.direction is Direction.COMPENSATE:
        money = taken_back(case.state, step.name, None)
        if money:
            sums = ", ".join(f"{each['amount_minor']} {each['currency']}" for each in money)
            raise RefusedError(
                case.saga,
                f"{step.name} moved money that was not given back ({sums}, minor units): "
                "`amends mark-done` once it is, `amends resolve` if it stays",
            )
        answerable(case, verb.step)
    else:
        check_not_ended(case)
        check_closed(case, step, known)
        if known.is_done:
            raise RefusedError(case.saga, f"{step.name} is done, or was skipped")
        check_quiet(case, step, known)
    skipped = StepSkipped(step=step.name, direction=case.direction, by=word.by, **word.marks)
    return _goes_on(case, verb, by, skipped, opening=word.opening)


def _close(case: Case, verb: Resolve | Abandon, by: By, word: Word) -> Plan:
    check_not_ended(case)
    if isinstance(verb, Resolve) and not case.is_parked:
        raise RefusedError(
            case.saga,
            f"it is {case.saga.state}, not parked: `amends cancel` has it taken back, "
            "`amends abandon` closes it as it stands",
        )
    if case.state.is_open:
        raise RefusedError(case.saga, open_attempts(case))
    resolved = SagaResolved(actor=word.by, reason=by.reason)
    return Plan(entries=(*word.opening, resolved), closes=True)


# -- what is written -------------------------------------------------------------------------------


def _goes_on(
    case: Case,
    verb: Retry | Probe | MarkDone | MarkNotDone | Skip,
    by: By,
    *answers: Entry,
    fresh: Sequence[str] = (),
    probed: Sequence[str] = (),
    opening: Sequence[Entry] = (),
) -> Plan:
    """The answers, and that a parked saga goes on with them, forward or to be taken back.

    Args:
        opening: what is written first, if it is not only that the verb was used.
    """
    entries: list[Entry] = [*(opening or [_acted(verb, by)]), *answers]
    takes_back = not isinstance(verb, Skip) and verb.take_back
    if takes_back and (not case.is_parked or case.direction is Direction.COMPENSATE):
        raise RefusedError(
            case.saga, "only a parked saga that is not being taken back can be taken back then"
        )
    if takes_back:
        entries.append(CancelRequested(reason=by.reason, actor=by.actor))
    if case.is_parked:
        entries.append(SagaUnparked(by=by.actor, fresh=list(fresh), probed=list(probed)))
    decision = case.after(tuple(entries))
    if takes_back and is_past_the_pivot(case.definition, decision.state):
        raise RefusedError(case.saga, "its point of no return is behind: nothing is taken back")
    return Plan(entries=tuple(entries), decision=decision)


def _acted(verb: Verb, by: By, attempts: Json = None) -> OperatorActed:
    return OperatorActed(
        verb=verb.name,
        actor=by.actor,
        reason=by.reason,
        step=verb.step,
        data=attempts,
        identity=None if by.identity is None else str(by.identity),
    )


def _check_moves(case: Case, plan: Plan) -> None:
    """Another try that would park the saga again at once, with the same question, is none."""
    decision = plan.decision
    if decision is None or decision.visible not in PARKED:
        return
    asked = [each.question for each in decision.entries if isinstance(each, SagaParked)]
    raise RefusedError(
        case.saga, f"it would park again at once: {' '.join(asked)} `amends show` says what helps"
    )
