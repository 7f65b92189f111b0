"""What a verb says of the world outside, and what the other side says to that.

    assertion                          looked up by
    it is done, under this reference   the step's lookup
    it is not done                     its probe, twice, under its key; of an undo by the lookup
    it need not be undone              the lookup of what it did, else the probe
    the saga is closed over money      nobody can say whether that is right

"Fits" lets a verb count at once. "Differs" refuses it. Everything else needs a second person.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from orchestrator.books import books
from orchestrator.context import CannotTell, Effect, Found, NotLanded
from orchestrator.coordinator import Coordinator
from orchestrator.definition import Kind, Step
from orchestrator.entries import Direction, Json, StepFailed, StepProbed
from orchestrator.money_at_risk import money_at_risk
from orchestrator.settling import DENIALS
from orchestrator.state import RecordedEffect, StepState
from orchestrator.unwinding import needs_undo
from recovery.operator.assertions import Assertable
from recovery.operator.cases import Case
from recovery.operator.conditions import pending_undo
from recovery.operator.verbs import Abandon, MarkDone, MarkNotDone, Resolve, Skip


@dataclass(frozen=True, slots=True, kw_only=True)
class LookUp:
    """Ask the step's lookup.

    Args:
        done: whether the verb says that it is done, or that it is not.
        settles: a movement that was pending is said to be final.
        waives: it is said to be needless, not to be done.
    """

    step: str
    direction: Direction
    reference: str | None
    effect: RecordedEffect | None
    done: bool
    settles: bool = False
    waives: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AskProbe:
    """Ask the step's probe whether the step really did not take effect.

    Args:
        waives: it is said to be needless, which no probe can tell.
    """

    step: str
    waives: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AskNobody:
    """It is a person's decision, and it is about money."""

    why: str


Question = LookUp | AskProbe | AskNobody


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """The other side says the same. `effect`: what it has, as the log is to tell it."""

    shown: Json
    effect: Effect = field(default_factory=Effect)


@dataclass(frozen=True, slots=True, kw_only=True)
class Differs:
    """The other side says otherwise."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unverified:
    """The other side says nothing."""

    why: str


Evidence = Verified | Differs | Unverified


def question(case: Case, verb: Assertable) -> Question | None:
    """Return what has to be looked up before the verb counts; None: it tells of nothing outside."""
    if isinstance(verb, Resolve | Abandon):
        return _of_closing(case)
    step, known = case.step(verb.step)
    if step.transactional or step.read_only:
        return None
    pending = pending_undo(case, step.name)
    if pending is not None and (
        isinstance(verb, MarkNotDone)
        or (isinstance(verb, MarkDone) and verb.reference in (None, pending))
    ):
        return LookUp(
            step=step.name,
            direction=Direction.COMPENSATE,
            reference=pending,
            effect=_undone_by(known, pending),
            done=isinstance(verb, MarkDone),
            settles=isinstance(verb, MarkDone),
        )
    if case.direction is Direction.COMPENSATE:
        return _of_an_undo(case, step, verb)
    match verb:
        case MarkDone():
            return LookUp(
                step=step.name,
                direction=Direction.FORWARD,
                reference=verb.reference,
                effect=None,
                done=True,
            )
        case MarkNotDone():
            return None if _is_refused(known) else AskProbe(step=step.name)
        case Skip():
            return _of_a_skip(step, known)


def _is_refused(known: StepState) -> bool:
    """Whether the log says of every attempt under the key that it had no effect."""
    is_settled = not (known.forward.unsettled or known.is_begun)
    return is_settled and isinstance(known.forward.last, StepFailed)


def look(coordinator: Coordinator, case: Case, asked: Question) -> Evidence:
    """Ask the other side; write nothing."""
    match asked:
        case AskNobody(why=why):
            return Unverified(why=why)
        case AskProbe(step=step, waives=waives):
            evidence = _probed(coordinator, case, step)
            if waives and isinstance(evidence, Verified):
                return Unverified(why=f"{step} did not take effect, and is said to be needless")
            return evidence
        case LookUp():
            answer = coordinator.look_up(
                case.snapshot, asked.step, asked.direction, asked.reference, asked.effect
            )
            return judged(asked, answer)


def judged(asked: LookUp, answer: Found | NotLanded | CannotTell) -> Evidence:
    """Return what an answer means for what was said."""
    match answer:
        case CannotTell(why=why):
            return Unverified(why=why or "the other side cannot tell")
        case NotLanded(why=why) if asked.done or asked.effect is not None:
            return Unverified(why=why or f"nothing is found under {asked.reference}")
        case NotLanded(why=why):
            return Verified(shown={"found": "nothing", "why": why})
        case Found():
            return _compared(asked, answer)


def _compared(asked: LookUp, found: Found) -> Evidence:
    both = f"there: {found.theirs}; by the saga: {found.ours}"
    if not asked.done:
        if found.untouched:
            return Verified(shown=_shown(found))
        return Differs(why=f"something of it is done after all ({both})")
    if not found.fits and asked.waives and found.theirs.amount_minor is None:
        return Unverified(why=f"it stands there: {found.theirs}")
    if not found.fits:
        return Differs(why=f"{asked.reference or asked.step} is something else ({both})")
    is_pending = any(
        each.pending and asked.reference in (each.reference, None)
        for each in found.effect.movements
    )
    if asked.settles and is_pending:
        return Differs(why=f"{asked.reference} is pending there still")
    return Verified(shown=_shown(found), effect=found.effect)


def _probed(coordinator: Coordinator, case: Case, name: str) -> Evidence:
    """Nothing that was sent can arrive any more, and "not there" is believed when said twice."""
    if case.definition.step(name).probe is None:
        return Unverified(why=f"{name} has no probe")
    why = None
    for asked_before in range(DENIALS):
        outcome = coordinator.ask(case.snapshot, name, asked_before=asked_before)
        if not isinstance(outcome, StepProbed) or outcome.landed is None:
            told = getattr(outcome, "why", None) or "it has no answer"
            return Unverified(why=f"the probe of {name}: {told}")
        if outcome.landed:
            return Differs(
                why=f"{name} took effect: the other side has {outcome.reference or 'it'}; "
                "`amends probe` settles it"
            )
        why = outcome.why
    return Verified(shown={"found": "nothing", "why": why})


def _of_a_skip(step: Step, known: StepState) -> Question | None:
    """Past the pivot, what failed for good may stay undone; else a saga would end as if it were."""
    if known.forward.unsettled:
        return AskProbe(step=step.name, waives=True)
    if step.kind is Kind.RETRIABLE:
        return None
    return AskNobody(why=f"nobody can look up whether {step.name} is needed")


def _of_an_undo(case: Case, step: Step, verb: MarkDone | MarkNotDone | Skip) -> Question:
    effect = case.state.effect_to_undo(step.name)
    if isinstance(verb, Skip) and effect is None:
        return AskProbe(step=step.name)
    acted_on = None if effect is None else effect.reference
    return LookUp(
        step=step.name,
        direction=Direction.COMPENSATE,
        reference=(verb.reference or acted_on) if isinstance(verb, MarkDone) else acted_on,
        effect=effect,
        done=not isinstance(verb, MarkNotDone),
        waives=isinstance(verb, Skip),
    )


def _of_closing(case: Case) -> AskNobody | None:
    pending = [name for name, each in books(case.state.money).items() if each.pending]
    open_money = [*money_at_risk(case.snapshot.entries), *pending]
    if open_money:
        return AskNobody(why=f"it closes the saga over money ({', '.join(open_money)})")
    steps = {each.name: each for each in case.known.steps} if case.known else {}
    for name, known in case.state.steps.items():
        step = steps.get(name)
        if step is not None and (step.transactional or step.read_only):
            continue
        if known.forward.unsettled or known.undo.unsettled:
            return AskNobody(why=f"it closes the saga over {name}, of which nobody knows")
        if known.is_begun:
            return AskNobody(why=f"it closes the saga over {name}, which may take effect yet")
        if case.direction is Direction.COMPENSATE and step and needs_undo(case.state, step):
            return AskNobody(why=f"it closes the saga over {name}, which is not undone")
    return None


def _undone_by(known: StepState, reference: str) -> RecordedEffect | None:
    """The effect that an undo of that reference accounts for."""
    return next((each for each in known.effects if each.undo_reference == reference), None)


def _shown(found: Found) -> Json:
    return {name: value for name, value in asdict(found.theirs).items() if value is not None}
